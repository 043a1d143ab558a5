"""What a running sidecar tells of a user or a token."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from sentinel_extproc.admin.control import Token
from sentinel_extproc.admin.guard import Access
from sentinel_extproc.admin.looking import Question, SidecarLookUps, read_question, read_token
from sentinel_extproc.admin.routes import admin_app
from sentinel_extproc.admin.server import AdminServer
from sentinel_extproc.errors import InvalidRequest, NotFound, Unavailable
from sentinel_extproc.identity.principal import Entitlement, Principal
from sentinel_extproc.identity.shared import SharedEntry
from sentinel_extproc.limits.model import LimitState, Quota, QuotaPeriod, Subject, Unit
from sentinel_extproc.live_cli.look_commands import limits, whoami

ADMIN_TOKEN = "admin-token-0123456789abcdef"
ADA = Principal("ext-ada", "42", "ada@example.com", "free")
USER_TOKEN = "sk-of-ada"
DIGEST = hashlib.sha256(USER_TOKEN.encode()).digest()
QUOTA = Quota("pro-requests", Unit.REQUESTS, 100, 40, QuotaPeriod.DAILY, 0)
STATES = (
    LimitState("requests", Unit.REQUESTS, 20, 19, 60.0),
    LimitState("spend", Unit.COST, 25_000_000, 12_500_000, math.inf, shadow=True),
    LimitState("streams", Unit.REQUESTS, 3, 1, math.inf, at_once=True),
)


class Sidecar:
    """Stands for every part that is looked at."""

    def __init__(self) -> None:
        self.principals = {DIGEST: ADA}
        self.entry: SharedEntry | None = None
        self.denied_ones: dict[bytes, bool | None] = {}
        self.entitled = Entitlement((QUOTA,), "pro")
        self.fault: Unavailable | None = None
        self.peeked: list[tuple[Subject, tuple[Quota, ...]]] = []
        self.look_ups = SidecarLookUps(
            peek=self.peek,
            remembered=self.principals.get,
            shared=self,  # type: ignore[arg-type]
            denials=self,  # type: ignore[arg-type]
            quotas=self,
            prefix="/v1/",
            wall_clock=lambda: 1000.0,
        )

    async def peek(
        self, subject: Subject, quotas: tuple[Quota, ...] = ()
    ) -> tuple[LimitState, ...]:
        self.peeked.append((subject, quotas))
        return STATES

    async def get(self, token_sha256: bytes) -> SharedEntry | None:
        return self.entry

    def mirrored(self, token_sha256: bytes) -> bool:
        return False

    async def denied(self, token_sha256: bytes) -> bool | None:
        return self.denied_ones.get(token_sha256, False)

    async def entitlement(self, principal: Principal) -> Entitlement:
        if self.fault is not None:
            raise self.fault
        return self.entitled


@asynccontextmanager
async def port(sidecar: Sidecar) -> AsyncIterator[str]:
    async def status() -> dict[str, Any]:
        return {}

    app = admin_app(
        exposition=lambda _: (b"", "text/plain"),
        checks={},
        status=status,
        access=Access(token=ADMIN_TOKEN, trusted_peers=False),
        hosts=None,
        look_ups=sidecar.look_ups,
    )
    server = AdminServer(app, listen="127.0.0.1:0")
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.aclose()


async def run(*arguments: str, url: str, stdin: str = "", token: str = ADMIN_TOKEN) -> Result:
    group = click.Group(commands=[limits, whoami])
    return await asyncio.to_thread(
        CliRunner().invoke,
        group,
        [*arguments, "--admin", url],
        input=stdin,
        env={"SENTINEL_ADMIN__TOKEN": token, "COLUMNS": "150"},
    )


async def test_limits_are_looked_up_with_the_quotas_and_the_plan_of_their_authority() -> None:
    sidecar = Sidecar()
    told = await sidecar.look_ups.limits(Question("ext-ada", model="gpt-4o", plan="free"))
    subject, quotas = sidecar.peeked[0]
    assert subject == Subject(
        "ext-ada", "/v1/chat/completions", "chat.completions", "gpt-4o", "pro"
    )
    assert quotas == (QUOTA,)
    assert told["limits"][1] == {
        "name": "spend",
        "unit": "cost",
        "limit": 25.0,
        "remaining": 12.5,
        "reset_seconds": None,
        "shadow": True,
        "at_once": False,
    }
    with pytest.raises(NotFound):
        await sidecar.look_ups.limits(Question("ext-ada", path="/elsewhere"))


async def test_a_token_is_told_from_the_process_then_from_the_shared_cache() -> None:
    sidecar = Sidecar()
    told = await sidecar.look_ups.whoami(Token(DIGEST))
    assert (told["remembered"], told["revoked"], told["plan"]) == ("process", False, "pro")
    assert told["principal"]["external_id"] == "ext-ada"
    sidecar.principals.clear()
    assert (await sidecar.look_ups.whoami(Token(DIGEST)))["principal"] is None
    sidecar.entry = SharedEntry(ADA, 990_000)
    told = await sidecar.look_ups.whoami(Token(DIGEST))
    assert (told["remembered"], told["checked_seconds_ago"]) == ("shared", 10.0)


@pytest.mark.parametrize(("denied", "said"), [(True, True), (False, False), (None, None)])
async def test_a_revoked_token_is_told_under_any_of_its_names(
    denied: bool | None, said: bool | None
) -> None:
    sidecar = Sidecar()
    sidecar.denied_ones[b"s" * 32] = denied
    told = await sidecar.look_ups.whoami(Token(DIGEST, signed=b"s" * 32))
    assert told["revoked"] is said


async def test_quotas_that_cannot_be_read_hide_nothing_else() -> None:
    sidecar = Sidecar()
    sidecar.fault = Unavailable("Zion is away.")
    told = await sidecar.look_ups.whoami(Token(DIGEST))
    assert (told["quotas"], told["quotas_fault"], told["plan"]) == (None, "Zion is away.", "free")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"user": ""}', b'{"user": "a", "x": 1}', b'{"user": "a\\nb"}']
)
def test_bad_questions(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_question(body)
    with pytest.raises(InvalidRequest):
        read_token(b'{"user": "ada"}')


async def test_limits_show() -> None:
    async with port(Sidecar()) as url:
        shown = await run("limits", "show", "ext-ada", url=url)
        parsed = await run("limits", "show", "ext-ada", "--json", url=url)
        refused = await run("limits", "show", "ext-ada", url=url, token="wrong-token-0123")
    assert shown.exit_code == 0, shown.output
    for word in (
        "ext-ada",
        "pro",
        "requests",
        "spend (shadow)",
        "12.5",
        "never",
        "3 at once",
        "they end",
    ):
        assert word in shown.output
    assert json.loads(parsed.output)["limits"][0]["remaining"] == 19
    assert refused.exit_code == 1


async def test_whoami_reads_the_token_and_sends_its_digest_only(tmp_path: Path) -> None:
    sidecar = Sidecar()
    file = tmp_path / "token"
    file.write_text(f"{USER_TOKEN}\n")
    async with port(sidecar) as url:
        by_stdin = await run("whoami", "-", url=url, stdin=f"{USER_TOKEN}\n")
        by_file = await run("whoami", str(file), "--json", url=url)
        by_prompt = await run("whoami", url=url, stdin=f"{USER_TOKEN}\n")
        as_argument = await run("whoami", USER_TOKEN, url=url)
        sidecar.denied_ones[DIGEST] = True
        revoked = await run("whoami", "-", url=url, stdin=USER_TOKEN)
        sidecar.principals.clear()
        unknown = await run("whoami", "-", url=url, stdin=USER_TOKEN)
    assert by_stdin.exit_code == by_file.exit_code == by_prompt.exit_code == 0, by_stdin.output
    for word in ("ext-ada", "ada@example.com", "pro-requests", "daily"):
        assert word in by_stdin.output
    assert json.loads(by_file.output)["principal"]["external_id"] == "ext-ada"
    assert as_argument.exit_code == 2
    assert revoked.exit_code == unknown.exit_code == 1
    assert USER_TOKEN not in by_stdin.output + by_prompt.output + revoked.output
