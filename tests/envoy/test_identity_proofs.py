"""Identity under load and faults, through the real Envoy, Redis and two sidecars.

Zion is asked as little as possible, its faults reach clients as the contract maps them, and what is
revoked at one replica is refused at the next request everywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from sentinel_extproc.admin import client as admin
from sentinel_extproc.demo.stack import Stack
from sentinel_extproc.demo.zion_standin import FaultKind, ZionCall, ZionStandIn
from sentinel_extproc.demo.zion_state import ZionUser
from tests.envoy.replicas import Replica, two_replicas

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
_numbers = itertools.count(1)


def zion(stack: Stack) -> ZionStandIn:
    assert stack.zion is not None
    return stack.zion


def newcomer(stack: Stack) -> ZionUser:
    name = f"newcomer-{next(_numbers)}"
    user = ZionUser(name, f"u-{name}", f"ext-{name}", f"{name}@example.com")
    zion(stack).put_user(user)
    return user


def chat(url: str, token: str) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/chat/completions",
        json=CHAT,
        headers={"authorization": f"Bearer {token}"},
        trust_env=False,
        timeout=30,
    )


def calls(stack: Stack, call: ZionCall) -> int:
    return sum(request.call is call for request in zion(stack).requests())


def eventually(check: Callable[[], bool], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


async def burst(url: str, tokens: list[str], *, at_once: int) -> Counter[int]:
    """One request per token, ``at_once`` at a time; how many got which status."""
    found: Counter[int] = Counter()
    waiting = iter(tokens)
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as client:

        async def one_after_the_other() -> None:
            for token in waiting:
                answer = await client.get(
                    f"{url}/v1/models", headers={"authorization": f"Bearer {token}"}
                )
                found[answer.status_code] += 1

        await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return found


async def at_once(url: str, token: str, count: int) -> Counter[int]:
    """``count`` requests on connections of their own, all sent before any answer is read."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * count
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    parts = urlsplit(url)
    request = (
        f"GET /v1/models HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        f"authorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    ).encode()
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    found: Counter[int] = Counter()
    try:
        for _ in range(count):
            opened.append(await asyncio.open_connection(parts.hostname, parts.port))  # noqa: PERF401
        for _, writer in opened:
            writer.write(request)
        async with asyncio.timeout(60):
            for reader, _ in opened:
                found[int((await reader.readline()).split()[1])] += 1
    finally:
        for _, writer in opened:
            writer.close()
    return found


def resident_bytes(stack: Stack) -> int:
    status = Path(f"/proc/{stack.sidecar.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


# --- asking little ----------------------------------------------------------------------------


async def test_a_thousand_requests_with_a_cold_token_are_one_call(stack: Stack) -> None:
    user = newcomer(stack)
    before = calls(stack, ZionCall.ME), calls(stack, ZionCall.LIMITS)
    found = await at_once(stack.url, user.token, 1000)
    # On a slow machine Envoy gives up on some; none is refused, and none asked Zion again.
    assert found.keys() <= {200, 503, 504}
    assert found[200] > 0
    assert found.total() == 1000
    assert (calls(stack, ZionCall.ME), calls(stack, ZionCall.LIMITS)) == (
        before[0] + 1,
        before[1] + 1,
    )


async def test_a_flood_of_unknown_tokens_barely_reaches_zion(stack: Stack) -> None:
    known = [newcomer(stack) for _ in range(5)]
    for user in known:
        assert chat(stack.url, user.token).status_code == 200
    await burst(stack.url, [f"warm-{place}" for place in range(200)], at_once=50)
    memory, asked, started = resident_bytes(stack), calls(stack, ZionCall.ME), time.monotonic()
    unknown = [f"invented-{place}" for place in range(450)]
    flood = asyncio.create_task(burst(stack.url, unknown, at_once=150))
    served: Counter[int] = Counter()
    while not flood.done():
        served += await burst(stack.url, [user.token for user in known], at_once=5)
    took_s = time.monotonic() - started
    assert served.keys() == {200}
    assert served.total() >= 10
    # On a slow machine Envoy gives up on some (504).
    assert (await flood).keys() <= {401, 503, 504}
    # The gate's own bound: at most 48 a second over any 5 s.
    assert calls(stack, ZionCall.ME) - asked <= 40 + 40 * (took_s + 1)
    assert resident_bytes(stack) < memory * 1.2 + (16 << 20)


# --- Zion's faults ----------------------------------------------------------------------------

MAPPED = {
    FaultKind.UNAUTHORIZED: (401, "invalid_api_key"),
    FaultKind.FORBIDDEN: (403, "forbidden"),
    FaultKind.RATE_LIMITED: (503, "identity_unavailable"),
    FaultKind.ERROR_500: (503, "identity_unavailable"),
    FaultKind.HANG: (503, "identity_unavailable"),
    FaultKind.TRICKLE: (503, "identity_unavailable"),
    FaultKind.MALFORMED: (503, "identity_unavailable"),
    FaultKind.OVERSIZED: (503, "identity_unavailable"),
    FaultKind.DROP: (503, "identity_unavailable"),
    FaultKind.COMMIT_THEN_DROP: (503, "identity_unavailable"),
}


@pytest.mark.parametrize("call", [ZionCall.ME, ZionCall.LIMITS], ids=str)
@pytest.mark.parametrize("kind", MAPPED, ids=str)
def test_each_fault_is_answered_as_mapped(stack: Stack, kind: FaultKind, call: ZionCall) -> None:
    expected = MAPPED[kind]
    if (kind, call) == (FaultKind.UNAUTHORIZED, ZionCall.LIMITS):
        expected = (503, "identity_unavailable")  # it is our own key that Zion refuses there
    warm = newcomer(stack)
    assert chat(stack.url, warm.token).status_code == 200
    zion(stack).set_fault(call, kind)
    try:
        answer = chat(stack.url, newcomer(stack).token)
        assert (answer.status_code, answer.json()["error"]["code"]) == expected
        assert ("retry-after" in answer.headers) == (expected[0] == 503)
        assert chat(stack.url, warm.token).status_code == 200
    finally:
        zion(stack).clear_faults()
    # Zion is well again; this also keeps the breaker closed over all these tests.
    for _ in range(3):
        assert chat(stack.url, newcomer(stack).token).status_code == 200


def test_a_busy_zion_names_the_wait(stack: Stack) -> None:
    for as_date in (False, True):
        zion(stack).set_fault(
            ZionCall.ME, FaultKind.RATE_LIMITED, retry_after_s=500, retry_after_date=as_date
        )
        try:
            answer = chat(stack.url, newcomer(stack).token)
        finally:
            zion(stack).clear_faults()
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) == 60  # capped


# --- Zion dead, revocation between replicas -----------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two sidecars, each behind an Envoy of its own, against one Redis and one Zion."""

    stack: Stack
    here: Replica
    there: Replica

    def revoke(self, **what: object) -> None:
        answer = admin.call("POST", "/v1/revoke", what, address=self.here.admin)
        assert answer["everywhere"] is True
        with redis.Redis.from_url(self.stack.redis.url) as server:
            dropped = "-publish" in str(server.acl_getuser("default")["commands"])
        assert answer["replicas"] == (None if dropped else 2)

    def known(self) -> ZionUser:
        """A user whom both replicas have served."""
        user = newcomer(self.stack)
        for replica in (self.here, self.there):
            assert chat(replica.url, user.token).status_code == 200
        return user

    @contextmanager
    def publishes(self, *, dropped: bool) -> Iterator[None]:
        with redis.Redis.from_url(self.stack.redis.url) as server:
            server.execute_command("ACL", "SETUSER", "default", "-publish" if dropped else "+@all")
            try:
                yield
            finally:
                server.execute_command("ACL", "SETUSER", "default", "+@all")

    @contextmanager
    def dead_zion(self) -> Iterator[None]:
        for call in (ZionCall.ME, ZionCall.LIMITS):
            zion(self.stack).set_fault(call, FaultKind.DROP)
        try:
            yield
        finally:
            zion(self.stack).clear_faults()

    def healthy(self) -> None:
        """Zion answers everybody again, whatever a test left in the breaker."""
        eventually(
            lambda: all(
                chat(replica.url, newcomer(self.stack).token).status_code == 200
                for replica in (self.here, self.there)
            ),
            seconds=60,
        )


SHORT = {
    "SENTINEL_LIMITS__REQUESTS": "100000",
    "SENTINEL_IDENTITY__FRESH_SECONDS": "1",
    "SENTINEL_IDENTITY__STALE_SECONDS": "1",
}
LONG = {"SENTINEL_LIMITS__REQUESTS": "100000", "SENTINEL_IDENTITY__FRESH_SECONDS": "600"}


@contextmanager
def a_pair(settings: dict[str, str]) -> Iterator[Pair]:
    with two_replicas(settings) as (stack, here, there):
        yield Pair(stack, here, there)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with a_pair(LONG) as running:
        yield running


def what(kind: str, user: ZionUser) -> dict[str, object]:
    targets: dict[str, dict[str, object]] = {
        "token": {"token": user.token},
        "user": {"user": user.external_id},
        "everybody": {"everybody": True},
    }
    return targets[kind]


@pytest.mark.parametrize("kind", ["token", "user", "everybody"])
@pytest.mark.parametrize("dropped", [False, True], ids=["published", "publish dropped"])
def test_a_revoked_token_is_refused_at_the_next_request_everywhere(
    pair: Pair, kind: str, dropped: bool
) -> None:
    user, other = pair.known(), pair.known()
    zion(pair.stack).revoke(user.token)
    with pair.publishes(dropped=dropped):
        pair.revoke(**what(kind, user))
        for replica in (pair.there, pair.here, pair.there):
            answer = chat(replica.url, user.token)
            assert answer.status_code == 401
            assert chat(replica.url, other.token).status_code == 200


@pytest.mark.parametrize("dropped", [False, True], ids=["published", "publish dropped"])
def test_a_token_that_zion_still_accepts_stays_refused(pair: Pair, dropped: bool) -> None:
    user = pair.known()
    with pair.publishes(dropped=dropped):
        digest = hashlib.sha256(user.token.encode()).hexdigest()
        pair.revoke(token_sha256=digest)
        for replica in (pair.there, pair.here) * 2:
            answer = chat(replica.url, user.token)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "token_revoked")


def test_a_user_whom_zion_still_accepts_gets_in_again(pair: Pair) -> None:
    user = pair.known()
    pair.revoke(user=user.external_id)
    for replica in (pair.there, pair.here):
        assert chat(replica.url, user.token).status_code == 200


@pytest.mark.parametrize("kind", ["token", "user", "everybody"])
@pytest.mark.parametrize("dropped", [False, True], ids=["published", "publish dropped"])
def test_nothing_cached_is_served_across_a_revocation_while_zion_is_dead(
    pair: Pair, kind: str, dropped: bool
) -> None:
    user = pair.known()
    assert pair.stack.openai is not None
    with pair.publishes(dropped=dropped), pair.dead_zion():
        pair.revoke(**what(kind, user))
        before = len(pair.stack.openai.requests())
        for replica in (pair.there, pair.here, pair.there):
            assert chat(replica.url, user.token).status_code == (401 if kind == "token" else 503)
        assert len(pair.stack.openai.requests()) == before
    pair.healthy()


def test_known_users_are_served_as_long_as_zion_is_dead() -> None:
    with a_pair(SHORT) as pair:
        users = [pair.known() for _ in range(3)]
        with pair.dead_zion():
            end = time.monotonic() + 5  # fresh, stale and last resort are over by then
            found: Counter[int] = Counter()
            while time.monotonic() < end:
                for user, replica in itertools.product(users, (pair.here, pair.there)):
                    found[chat(replica.url, user.token).status_code] += 1
                answer = chat(pair.there.url, f"nobody-{next(_numbers)}")
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1
            assert found.keys() == {200}
            assert found.total() >= 60
