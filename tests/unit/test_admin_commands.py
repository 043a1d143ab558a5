"""The commands against a real admin port: what they send, show, and exit with."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from sentinel_extproc.admin import target as target_module
from sentinel_extproc.admin.assembly import serve_admin
from sentinel_extproc.admin.client import AdminRefused, AdminUnreachable, address_of, call
from sentinel_extproc.admin.commands import invalidate, revoke, status
from sentinel_extproc.admin.control import Effect, Everybody, Target, Token, User
from sentinel_extproc.admin.guard import Access, HostRule
from sentinel_extproc.admin.pacing import Pacing
from sentinel_extproc.admin.routes import admin_app
from sentinel_extproc.admin.server import AdminServer
from sentinel_extproc.config.sections.operating import AdminSettings
from sentinel_extproc.errors import LimitExceeded, Unavailable

ADMIN_TOKEN = "admin-token-0123456789abcdef"
USER_TOKEN = "sk-user-secret"
EVERYWHERE = Effect(everywhere=True, replicas=2)
DIGEST = hashlib.sha256(USER_TOKEN.encode()).digest()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SENTINEL_"):
            monkeypatch.delenv(name)
    # Whatever is set for the machine, an admin token goes through no proxy.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sx-admin-") as made:
        yield Path(made)


@dataclass
class Recorder:
    calls: list[tuple[str, Target, bool]] = field(default_factory=list)
    effect: Effect = EVERYWHERE
    fault: Exception | None = None

    async def revoke(self, target: Target, *, streams: bool) -> Effect:
        if self.fault is not None:
            raise self.fault
        self.calls.append(("revoke", target, streams))
        return self.effect

    async def invalidate(self, target: Target) -> Effect:
        self.calls.append(("invalidate", target, False))
        return self.effect


async def standing() -> dict[str, Any]:
    return {
        "exchanges": {"live": 12345, "draining": False},
        "outbox": {"oldest": None, "fill": 0.25, "set_aside": [], "oldest_seconds": 7300},
        "configuration": {
            "needs_restart": ["server.listen", "admin"],
            "last_reload": 0,
            "faults": ["policy.yaml: rules.0.match.team: no such field", "b" * 50],
        },
        "overload": {"turned_away": {"user": 2, "all": 1}},
        "ledger": {
            "under_way": 3,
            "heads": [
                {"worker": 0, "sidecar": "one", "seq": 7, "hash": "ab" * 32},
                {"worker": 1, "sidecar": "two\x1b[2J", "seq": 9, "hash": "cd" * 32},
            ],
        },
        "workers": [
            {"worker": 0, "pid": 123456, "state": "serving", "answers": True},
            {"worker": 1, "pid": None, "state": "down", "failing": True, "failures": 5},
        ],
        "restarts": {"died": 5},
        "top": {"users": {"ada": 1}, "models": {}},
        "version": "[bold]1",
    }


Run = Callable[..., Coroutine[Any, Any, Result]]


@asynccontextmanager
async def admin_port(
    recorder: Recorder, *, listen: str = "127.0.0.1:0", token: str | None = ADMIN_TOKEN
) -> AsyncIterator[str]:
    on_socket = listen.startswith("unix:")
    app = admin_app(
        exposition=lambda _: (b"", "text/plain"),
        checks={},
        status=standing,
        access=Access(token=token, trusted_peers=on_socket),
        hosts=None if on_socket else HostRule(),
        control=recorder,
    )
    server = AdminServer(app, listen=listen)
    await server.start()
    try:
        yield listen if on_socket else f"http://127.0.0.1:{server.port}"
    finally:
        await server.aclose()


async def run(*arguments: str, stdin: str | bytes | None = None, **environment: str) -> Result:
    group = click.Group(commands=[revoke, invalidate, status])
    return await asyncio.to_thread(
        CliRunner().invoke, group, list(arguments), input=stdin, env=environment
    )


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        (["--user", "4711"], ("revoke", User("4711"), False)),
        (["--user", "4711", "--streams"], ("revoke", User("4711"), True)),
        (["--token-sha256", DIGEST.hex()], ("revoke", Token(DIGEST), False)),
        (["--token-stdin"], ("revoke", Token(DIGEST), False)),
        (["--token-stdin", "--owner", "4711"], ("revoke", Token(DIGEST, "4711"), False)),
        (["--everybody", "--yes"], ("revoke", Everybody(), False)),
    ],
)
async def test_revoke(arguments: list[str], called: tuple[str, Target, bool]) -> None:
    recorder = Recorder()
    async with admin_port(recorder) as url:
        done = await run(
            "revoke",
            *arguments,
            "--admin",
            url,
            stdin=f"{USER_TOKEN}\n",
            SENTINEL_ADMIN__TOKEN=ADMIN_TOKEN,
        )
    assert done.exit_code == 0, done.output
    assert recorder.calls == [called]
    assert "revoked" in done.output
    assert USER_TOKEN not in done.output


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        (["--user", "4711"], User("4711")),
        (["--token-stdin"], Token(DIGEST)),
        (["--everybody"], Everybody()),
    ],
)
async def test_invalidate(arguments: list[str], target: Target, tmp_path: Path) -> None:
    # Not everywhere is no failure here: what isn't told now is asked for anew soon enough.
    recorder = Recorder(effect=Effect(everywhere=False))
    file = tmp_path / "token"
    file.write_text(f"{ADMIN_TOKEN}\n")
    async with admin_port(recorder) as url:
        given = ["--admin", url, "--token-file", str(file)]
        done = await run("invalidate", *arguments, *given, stdin=USER_TOKEN)
    assert done.exit_code == 0, done.output
    assert recorder.calls == [("invalidate", target, False)]


async def test_a_unix_socket_needs_no_token(folder: Path) -> None:
    recorder = Recorder()
    listen = f"unix:{folder / 'admin.sock'}"
    async with admin_port(recorder, listen=listen, token=None):
        done = await run("revoke", "--user", "a", SENTINEL_ADMIN__LISTEN=listen)
    assert done.exit_code == 0, done.output
    assert recorder.calls == [("revoke", User("a"), False)]


@pytest.mark.parametrize("named", ["SENTINEL_CONFIG", "--config"])
async def test_the_sidecars_own_configuration_says_where_and_with_which_token(
    named: str, tmp_path: Path
) -> None:
    file = tmp_path / "sentinel.yaml"
    async with admin_port(Recorder()) as url:
        listen = url.removeprefix("http://")
        # Sections that need secrets, which the operator's shell doesn't have, don't matter.
        file.write_text(
            f"admin: {{listen: '{listen}', token: {ADMIN_TOKEN}}}\nzion: {{url: 'http://zion'}}\n"
        )
        if named == "--config":
            done = await run("status", "--config", str(file))
        else:
            done = await run("status", SENTINEL_CONFIG=str(file))
            other = await run("status", SENTINEL_CONFIG=str(file), SENTINEL_ADMIN__TOKEN="x" * 24)
            assert other.exit_code == 1, "the environment is stronger than the file"
    assert done.exit_code == 0, done.output
    assert "12,345" in done.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("admin: {listen: nowhere}", "admin.listen: must be unix:/absolute/path or host:port"),
        ("admin: {enabled: false}", "admin.enabled"),
        ("admin: [", "not valid YAML"),
    ],
)
async def test_a_configuration_that_says_no_place_is_wrong_usage(
    text: str, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "sentinel.yaml"
    file.write_text(text)
    done = await run("status", SENTINEL_CONFIG=str(file))
    assert done.exit_code == 2
    assert says in done.output


async def test_the_answer_as_json() -> None:
    async with admin_port(Recorder(effect=Effect(True, 3, 4))) as url:
        given = ["--admin", url, "--json"]
        done = await run("revoke", "--user", "a", *given, SENTINEL_ADMIN__TOKEN=ADMIN_TOKEN)
        refused = await run("revoke", "--user", "a", *given)
    assert json.loads(done.stdout) == {
        "action": "revoked",
        "target": {"kind": "user", "user": "a"},
        "everywhere": True,
        "replicas": 3,
        "streams": 4,
    }
    assert json.loads(refused.stdout)["error"]["code"] == "invalid_admin_token"
    assert refused.exit_code == 1


async def test_a_revocation_that_is_not_certain_everywhere_is_no_success() -> None:
    async with admin_port(Recorder(effect=Effect(everywhere=False, replicas=None))) as url:
        done = await run(
            "revoke", "--token-stdin", "--admin", url, stdin="x", SENTINEL_ADMIN__TOKEN=ADMIN_TOKEN
        )
    assert done.exit_code == 1
    assert "--owner" in done.stderr


async def test_refusals_are_told_with_their_reason(tmp_path: Path) -> None:
    recorder = Recorder(fault=Unavailable("Repeat it."))
    async with admin_port(recorder) as url:
        wrong = await run("status", "--admin", url, SENTINEL_ADMIN__TOKEN="wrong")
        failed = await run(
            "revoke", "--user", "a", "--admin", url, SENTINEL_ADMIN__TOKEN=ADMIN_TOKEN
        )
    assert (wrong.exit_code, failed.exit_code) == (1, 1)
    assert "admin token" in wrong.stderr
    assert "--token-file" in wrong.stderr
    assert "--token-file" not in failed.stderr
    assert "Repeat it." in failed.stderr


async def test_a_port_with_too_many_calls_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(fault=LimitExceeded("Too many calls.", retry_after_s=2.0))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            recorder.fault = None

    monkeypatch.setattr(target_module, "time", SimpleNamespace(sleep=sleep))
    async with admin_port(recorder) as url:
        given = ["--user", "a", "--admin", url, "--json"]
        done = await run("revoke", *given, SENTINEL_ADMIN__TOKEN=ADMIN_TOKEN)
    assert done.exit_code == 0, done.output
    assert slept == [2, 2]
    assert done.stderr == "Too many calls. Waiting for it.\n" * 2
    assert json.loads(done.stdout)["action"] == "revoked"
    assert recorder.calls == [("revoke", User("a"), False)]


async def test_it_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(fault=LimitExceeded("Too many calls.", retry_after_s=25.0))
    slept: list[float] = []
    monkeypatch.setattr(target_module, "time", SimpleNamespace(sleep=slept.append))
    async with admin_port(recorder) as url:
        given = ["--user", "a", "--admin", url]
        refused = await run("revoke", *given, SENTINEL_ADMIN__TOKEN=ADMIN_TOKEN)
    assert refused.exit_code == 1
    assert slept == [25, 25]
    assert refused.stderr.endswith("Waiting for it.\nToo many calls.\n")


async def test_the_port_as_it_is_served_has_a_pace(folder: Path) -> None:
    app: list[Any] = []

    def make(**given: Any) -> Any:
        app.append(given["pacing"])
        return admin_app(
            exposition=lambda _: (b"", "text/plain"), checks={}, status=standing, **given
        )

    async with AsyncExitStack() as stack:
        await serve_admin(AdminSettings(listen=f"unix:{folder / 'a.sock'}"), make, stack)
    assert isinstance(app[0], Pacing)


async def test_nobody_there(folder: Path) -> None:
    for address in ("http://127.0.0.1:1", f"unix:{folder / 'none.sock'}"):
        done = await run("status", "--admin", address)
        assert done.exit_code == 3
        assert "can't be reached" in done.stderr


async def test_somebody_else_there() -> None:
    async def other(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>"})

    server = AdminServer(other, listen="127.0.0.1:0")
    await server.start()
    done = await run("status", "--admin", f"http://127.0.0.1:{server.port}")
    await server.aclose()
    assert done.exit_code == 3
    assert "not an admin port" in done.stderr


async def test_status() -> None:
    async with admin_port(Recorder()) as url:
        shown = await run("status", "--admin", url, SENTINEL_ADMIN__TOKEN=ADMIN_TOKEN)
        as_json = await run("status", "--admin", url, "--json", SENTINEL_ADMIN__TOKEN=ADMIN_TOKEN)
    assert shown.exit_code == 0
    for text in (
        *("exchanges", "12,345", "no", "25.0%", "—", "none", "2 h 1 min", "[bold]1"),
        *("server.listen, admin", "1970-01-01T00:00:00Z", "user 2, all 1"),
        *("worker 1 keeps failing", "failed 5 times in a row; 1 of 2 serve; 5 restarts", "123456"),
        *("one", "two\\x1b[2J", "ab" * 32, "cd" * 32),
        *("policy.yaml: rules.0.match.team: no such field  ", "b" * 50),
    ):
        assert text in shown.stdout
    assert not any(sign in shown.stdout for sign in "{}'\x1b")
    assert json.loads(as_json.stdout) == await standing()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["revoke"], "exactly one"),
        (["revoke", "--user", "a", "--everybody"], "exactly one"),
        (["revoke", "--user", "a", "--owner", "b"], "--owner"),
        (["revoke", "--everybody"], "--yes"),
        (["revoke", "--token", USER_TOKEN], "No such option"),
        (["revoke", USER_TOKEN], "unexpected extra argument"),
        (["revoke", "--token-stdin"], "visible ASCII"),
        (["invalidate"], "exactly one"),
        (["status", "--admin", "ftp://x"], "unix:/path"),
        (["status", "--admin", "https://127.0.0.1:1", "--ca-file", "/nonexistent"], "certificate"),
        (["status", "--token-file", "/nonexistent"], "can't be read"),
    ],
)
async def test_wrong_usage(arguments: list[str], says: str) -> None:
    done = await run(*arguments, stdin="")
    assert done.exit_code == 2
    assert says in done.output


async def test_an_unusable_token_is_refused_before_anything_is_sent() -> None:
    assert (await run("status", SENTINEL_ADMIN__TOKEN="two words")).exit_code == 2
    done = await run("revoke", "--token-stdin", stdin=b"\xff\xfe")
    assert done.exit_code == 2


def test_help_says_what_it_does_and_how_it_ends() -> None:
    group = click.Group(commands=[revoke, invalidate, status])
    for command in (revoke, invalidate, status):
        shown = CliRunner().invoke(group, [str(command.name), "--help"])
        assert shown.exit_code == 0
        assert "Exit codes" in shown.output


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:9180", "http://127.0.0.1:9180"),
        ("0.0.0.0:9180", "http://127.0.0.1:9180"),
        ("[::]:9180", "http://[::1]:9180"),
        ("admin.example:80", "http://admin.example:80"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
    ],
)
def test_where_to_call(listen: str, address: str) -> None:
    assert address_of(listen) == address
    assert address_of(listen, tls=True) == address.replace("http:", "https:")


@pytest.mark.parametrize(
    ("told", "again_s"), [("0", 1), ("7", 7), ("-1", None), ("soon", None), ("999999", None)]
)
async def test_when_to_ask_again_is_never_at_once(told: str, again_s: int | None) -> None:
    async def busy(scope: Any, receive: Any, send: Any) -> None:
        head = [(b"retry-after", told.encode())]
        await send({"type": "http.response.start", "status": 429, "headers": head})
        body = json.dumps({"error": {"message": "Busy.", "code": "busy"}}).encode()
        await send({"type": "http.response.body", "body": body})

    server = AdminServer(busy, listen="127.0.0.1:0")
    await server.start()
    address = f"http://127.0.0.1:{server.port}"
    with pytest.raises(AdminRefused) as refused:
        await asyncio.to_thread(call, "GET", "/v1/status", address=address)
    assert refused.value.retry_after_s == again_s
    await server.aclose()


async def test_an_endless_answer_is_not_read() -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b" " * 65536, "more_body": True})
            await asyncio.sleep(0)

    server = AdminServer(endless, listen="127.0.0.1:0")
    await server.start()
    address = f"http://127.0.0.1:{server.port}"
    with pytest.raises(AdminUnreachable, match="too much"):
        await asyncio.to_thread(call, "GET", "/v1/status", address=address)
    await server.aclose()
