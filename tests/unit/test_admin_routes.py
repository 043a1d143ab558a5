"""The admin application over ASGI: who may ask what, and what is answered."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from sentinel_extproc.admin.control import Effect, Everybody, Target, Token, User
from sentinel_extproc.admin.guard import Access, Guard, HostRule
from sentinel_extproc.admin.pacing import FREE_GUESSES, LONGEST_GUESS_WAIT_S, Pacing
from sentinel_extproc.admin.routes import MAX_BODY_BYTES, Check, admin_app
from sentinel_extproc.admin.throttle import Rate
from sentinel_extproc.errors import Unavailable

TOKEN = "admin-token-0123456789abcdef"
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


class Recorder:
    """A ``Control`` that remembers, and fails when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Target, bool]] = []
        self.fault: Exception | None = None

    async def revoke(self, target: Target, *, streams: bool) -> Effect:
        if self.fault is not None:
            raise self.fault
        self.calls.append(("revoke", target, streams))
        return Effect(everywhere=True, replicas=2, streams=3 if streams else 0)

    async def invalidate(self, target: Target) -> Effect:
        self.calls.append(("invalidate", target, False))
        return Effect(everywhere=False, replicas=None)


class Port:
    """The application and a client for it."""

    def __init__(
        self,
        *,
        token: str | None = TOKEN,
        trusted_peers: bool = False,
        checks: Mapping[str, Check] | None = None,
        control: bool = True,
        pacing: Pacing | None = None,
    ) -> None:
        self.recorder = Recorder()

        async def status() -> dict[str, Any]:
            return {"exchanges": {"live": 4}}

        self.app = admin_app(
            exposition=lambda accept: (b"# metrics for " + accept.encode(), "text/plain"),
            checks=checks or {},
            status=status,
            access=Access(token=token, trusted_peers=trusted_peers),
            hosts=HostRule(["admin.example"]),
            control=self.recorder if control else None,
            pacing=pacing,
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        host: str = "127.0.0.1:9180",
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            sent = {"host": host} | (headers or {})
            if content is not None:
                return await client.request(method, path, content=content, headers=sent)
            return await client.request(method, path, json=body, headers=sent)


def code(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-sentinel-error"] == answer.json()["error"]["code"]
    return str(answer.json()["error"]["code"])


async def test_liveness_asks_nobody() -> None:
    async def never() -> str | None:
        await asyncio.Event().wait()
        raise AssertionError

    answer = await Port(checks={"redis": never}, token=None, control=False).call("GET", "/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_readiness_needs_every_check() -> None:
    async def good() -> str | None:
        return None

    async def bad() -> str | None:
        return "draining"

    async def failing() -> str | None:
        raise Unavailable("The limit store does not answer.")

    async def broken() -> str | None:
        raise ValueError("secret detail")

    answer = await Port(checks={"outbox": good}).call("GET", "/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "checked": ["outbox"], "not_ready": {}}
    port = Port(checks={"outbox": good, "serving": bad, "redis": failing, "zion": broken})
    answer = await port.call("GET", "/readyz")
    assert answer.status_code == 503
    assert answer.json()["not_ready"] == {
        "serving": "draining",
        "redis": "The limit store does not answer.",
        "zion": "internal fault",
    }


async def test_readiness_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinel_extproc.admin.routes.CHECK_WITHIN_S", 0.01)

    async def hangs() -> str | None:
        await asyncio.Event().wait()
        raise AssertionError

    answer = await Port(checks={"redis": hangs}).call("GET", "/readyz")
    assert answer.json()["not_ready"] == {"redis": "no answer in time"}


async def test_metrics_in_the_format_asked_for() -> None:
    answer = await Port(token=None).call("GET", "/metrics", headers={"accept": "text/x"})
    assert (answer.status_code, answer.content) == (200, b"# metrics for text/x")
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_revoking(caplog: pytest.LogCaptureFixture) -> None:
    port = Port()
    body = {"user": "ada", "streams": True, "reason": "laptop lost"}
    with caplog.at_level(logging.WARNING, "sentinel.admin"):
        answer = await port.call("POST", "/v1/revoke", body=body, headers=AUTHORIZED)
    assert answer.status_code == 200
    assert answer.json() == {
        "action": "revoked",
        "target": {"kind": "user", "user": "ada"},
        "everywhere": True,
        "replicas": 2,
        "streams": 3,
    }
    assert port.recorder.calls == [("revoke", User("ada"), True)]
    (logged,) = caplog.records
    assert vars(logged)["user"] == "ada"
    assert vars(logged)["reason"] == "laptop lost"


async def test_a_revoked_token_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    port = Port()
    with caplog.at_level(logging.DEBUG):
        answer = await port.call(
            "POST", "/v1/revoke", body={"token": "sk-user-secret"}, headers=AUTHORIZED
        )
    digest = hashlib.sha256(b"sk-user-secret").digest()
    assert port.recorder.calls == [("revoke", Token(digest), False)]
    shown = answer.text + "".join(str(vars(record)) for record in caplog.records)
    assert "sk-user-secret" not in shown
    assert digest.hex() not in shown
    assert TOKEN not in shown


async def test_invalidating() -> None:
    port = Port()
    answer = await port.call("POST", "/v1/invalidate", body={"everybody": True}, headers=AUTHORIZED)
    assert answer.json()["action"] == "invalidated"
    assert answer.json()["everywhere"] is False
    assert port.recorder.calls == [("invalidate", Everybody(), False)]


async def test_status() -> None:
    answer = await Port().call("GET", "/v1/status", headers=AUTHORIZED)
    assert answer.json() == {"exchanges": {"live": 4}}


CONTROL = [("GET", "/v1/status"), ("POST", "/v1/revoke"), ("POST", "/v1/invalidate")]


@pytest.mark.parametrize(("method", "path"), CONTROL)
@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}, Bearer {TOKEN}",
        "Bearer ~",
    ],
)
async def test_control_needs_the_token(method: str, path: str, given: str | None) -> None:
    port = Port()
    # The body is a good one, so that nothing but the token can be the reason.
    headers = {} if given is None else {"authorization": given}
    answer = await port.call(method, path, body={"user": "a"}, headers=headers)
    assert (answer.status_code, code(answer)) == (401, "invalid_admin_token")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert not port.recorder.calls


@pytest.mark.parametrize(("method", "path"), CONTROL)
async def test_without_a_token_there_is_no_control(method: str, path: str) -> None:
    for headers in ({}, AUTHORIZED, {"authorization": "Bearer "}):
        answer = await Port(token=None).call(method, path, body={"user": "a"}, headers=headers)
        assert (answer.status_code, code(answer)) == (403, "admin_token_not_configured")


async def test_a_trusted_peer_needs_no_token_unless_there_is_one() -> None:
    trusted = Port(token=None, trusted_peers=True)
    assert (await trusted.call("POST", "/v1/revoke", body={"user": "a"})).status_code == 200
    both = Port(trusted_peers=True)
    assert (await both.call("POST", "/v1/revoke", body={"user": "a"})).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9180", 200),
        ("127.0.0.1", 200),
        ("10.1.2.3:9180", 200),
        ("[::1]:9180", 200),
        ("localhost:9180", 200),
        ("LOCALHOST.", 200),
        ("admin.example:9180", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:9180", 403),
        ("evil.example@127.0.0.1", 403),
        ("127.0.0.1/evil.example", 403),
        ("127.0.0.1:99999", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
async def test_only_our_own_names_are_answered(host: str, status: int) -> None:
    for path in ("/healthz", "/metrics"):
        answer = await Port().call("GET", path, host=host)
        assert answer.status_code == status
        if status == 403:
            assert code(answer) == "unknown_host"
    revoked = await Port().call(
        "POST", "/v1/revoke", body={"user": "a"}, host=host, headers=AUTHORIZED
    )
    assert revoked.status_code == status


def test_two_hosts_are_none() -> None:
    rule = HostRule()
    assert rule.allows([b"localhost"])
    assert not rule.allows([b"localhost", b"localhost"])
    assert not rule.allows([])
    assert not rule.allows([b"\xff"])


async def test_a_browser_gets_no_leave_to_ask_from_elsewhere() -> None:
    origin = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = await Port().call("OPTIONS", "/v1/revoke", headers=origin)
    assert answer.status_code == 405
    answer = await Port().call("GET", "/metrics", headers=origin)
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_bodies_are_json_and_small() -> None:
    port = Port()
    form = AUTHORIZED | {"content-type": "application/x-www-form-urlencoded"}
    answer = await port.call("POST", "/v1/revoke", content=b'{"user":"a"}', headers=form)
    assert (answer.status_code, code(answer)) == (400, "unsupported_media_type")
    as_json = AUTHORIZED | {"content-type": "application/json; charset=utf-8"}
    answer = await port.call("POST", "/v1/revoke", content=b"{", headers=as_json)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")

    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1024
            yield b" " * 1024

    answer = await port.call("POST", "/v1/revoke", content=endless(), headers=as_json)
    assert (answer.status_code, code(answer)) == (413, "payload_too_large")
    assert sent <= MAX_BODY_BYTES + 2 * 1024
    assert not port.recorder.calls


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/", 404, None),
        ("GET", "/v1/", 404, None),
        ("GET", "/metrics/", 404, None),
        ("GET", "/v1/revoke", 405, "POST"),
        ("POST", "/healthz", 405, "GET, HEAD"),
        ("DELETE", "/v1/status", 405, "GET, HEAD"),
    ],
)
async def test_paths_and_methods_that_are_none(
    method: str, path: str, status: int, allow: str | None
) -> None:
    answer = await Port().call(method, path, headers=AUTHORIZED)
    assert answer.status_code == status
    assert code(answer) == ("unknown_url" if status == 404 else "method_not_allowed")
    if allow is not None:
        assert set(answer.headers["allow"].split(", ")) == set(allow.split(", "))


async def test_a_failed_revocation_says_so() -> None:
    port = Port()
    port.recorder.fault = Unavailable("Repeat it.", code="revocation_failed", retry_after_s=2)
    answer = await port.call("POST", "/v1/revoke", body={"user": "a"}, headers=AUTHORIZED)
    assert (answer.status_code, code(answer)) == (503, "revocation_failed")
    assert answer.headers["retry-after"] == "2"


async def test_a_bug_is_an_internal_error_without_details() -> None:
    port = Port()
    port.recorder.fault = ValueError("sk-secret")
    answer = await port.call("POST", "/v1/revoke", body={"user": "a"}, headers=AUTHORIZED)
    assert (answer.status_code, code(answer)) == (500, "internal_error")
    assert "sk-secret" not in answer.text


async def test_nothing_to_control() -> None:
    port = Port(control=False)
    for path in ("/v1/revoke", "/v1/invalidate"):
        answer = await port.call("POST", path, body={"user": "a"}, headers=AUTHORIZED)
        assert (answer.status_code, code(answer)) == (404, "not_available")


async def test_an_answer_that_never_comes_is_given_up() -> None:
    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    app = Guard(hangs, hosts=None, answer_within_s=0.01)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get("/")
    assert (answer.status_code, code(answer)) == (503, "service_unavailable")


async def test_control_is_called_at_a_pace_and_what_is_refused_is_not_done() -> None:
    now = 1000.0
    rate = Rate(burst=3, per_second=0.5)
    pacing = Pacing(each=rate, in_all=Rate(burst=100, per_second=100.0), clock=lambda: now)
    port = Port(pacing=pacing)
    calls = [("POST", "/v1/revoke"), ("POST", "/v1/invalidate"), ("GET", "/v1/status")]
    for method, path in calls:
        body = {"user": "4711"} if method == "POST" else None
        answer = await port.call(method, path, body=body, headers=AUTHORIZED)
        assert answer.status_code == 200
    done = list(port.recorder.calls)
    for method, path in calls:
        body = {"user": "4711"} if method == "POST" else None
        answer = await port.call(method, path, body=body, headers=AUTHORIZED)
        assert answer.status_code == 429
        assert code(answer) == "too_many_calls"
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert answer.headers["retry-after"] == "2"
    assert port.recorder.calls == done
    # Probes and Prometheus have nothing to do with it.
    assert (await port.call("GET", "/healthz")).status_code == 200
    assert (await port.call("GET", "/readyz")).status_code == 200
    assert (await port.call("GET", "/metrics")).status_code == 200
    now += 2
    answer = await port.call("GET", "/v1/status", headers=AUTHORIZED)
    assert answer.status_code == 200


async def test_strangers_take_nothing_from_operators() -> None:
    now = 1000.0
    in_all = Rate(burst=2, per_second=0.001)
    port = Port(pacing=Pacing(in_all=in_all, clock=lambda: now))
    # Who comes without a token guesses nothing, as a job does that was set up without one.
    for _ in range(3 * FREE_GUESSES):
        assert (await port.call("GET", "/v1/status")).status_code == 401
    assert (await port.call("GET", "/v1/status", headers=AUTHORIZED)).status_code == 200
    assert (await port.call("GET", "/v1/status", headers=AUTHORIZED)).status_code == 200
    assert (await port.call("GET", "/v1/status", headers=AUTHORIZED)).status_code == 429


async def test_who_guesses_the_token_of_control_has_to_wait_and_shuts_no_operator_out() -> None:
    now = 1000.0
    port = Port(pacing=Pacing(clock=lambda: now))
    wrong = {"authorization": "Bearer wrong-token-0123456789"}
    for _ in range(FREE_GUESSES):
        assert (await port.call("GET", "/v1/status", headers=wrong)).status_code == 401
    answer = await port.call("GET", "/v1/status", headers=wrong)
    assert (answer.status_code, code(answer)) == (429, "too_many_wrong_tokens")
    assert answer.headers["retry-after"] == "1"
    for _ in range(40):
        # Whoever guesses whenever a guess may come, from the operator's own address.
        now += LONGEST_GUESS_WAIT_S
        assert (await port.call("GET", "/v1/status", headers=wrong)).status_code == 401
        answer = await port.call("POST", "/v1/revoke", body={"user": "4711"}, headers=AUTHORIZED)
        assert answer.status_code == 200
        assert (await port.call("GET", "/v1/status", headers=wrong)).status_code == 429
    assert len(port.recorder.calls) == 40
