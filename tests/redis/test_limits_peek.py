"""Looking at limits changes nothing, in Redis either."""

from __future__ import annotations

import math
import time

import pytest
import redis as sync_redis

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.limits.limit import Kind, Limit, OnOutage, Period
from sentinel_extproc.limits.limiter import StoreLimiter
from sentinel_extproc.limits.model import (
    Quantities,
    Quota,
    QuotaPeriod,
    ReserveRequest,
    Subject,
    Unit,
)
from sentinel_extproc.limits.policy import Policy, Rule
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.ladder import Ladder
from sentinel_extproc.limits.store.redis import Client, RedisStore

ADA = Subject("ada", "/v1/chat/completions", "chat.completions", "gpt-4o")
SEEN_MS = time.time_ns() // 1_000_000
QUOTA = Quota("pro-requests", Unit.REQUESTS, 50, 7, QuotaPeriod.MONTHLY, SEEN_MS)
HOUR_MS = 3_600_000


def a_limit(name: str, kind: Kind, **more: object) -> Limit:
    unit = Unit.REQUESTS if kind is Kind.CONCURRENCY else Unit.TOTAL
    fixed = {"name": name, "unit": unit, "kind": kind, "capacity": 1000}
    return Limit(**(fixed | {"period": Period.MONTH, "period_ms": HOUR_MS} | more))  # type: ignore[arg-type]


POLICY = Policy((Rule(limits=tuple(a_limit(kind.value, kind) for kind in Kind)),))


def everything(url: str) -> dict[bytes, bytes | None]:
    with sync_redis.Redis.from_url(url) as admin:
        return {key: admin.get(key) for key in admin.scan_iter()}


async def test_a_look_says_what_is_left_and_leaves_no_trace(
    redis_client: Client, redis_url: str
) -> None:
    store = RedisStore(redis_client, timeout_s=5.0, queue_timeout_s=30.0)
    limiter = StoreLimiter(store, POLICY)
    asked = ReserveRequest("x1", ADA, Quantities(1, 100, 300), (QUOTA,))
    reservation = await limiter.reserve(asked)
    before = everything(redis_url)
    assert before
    for _ in range(3):
        states = {state.name: state for state in await limiter.peek(ADA, (QUOTA,))}
        assert set(states) == {*(kind.value for kind in Kind), "pro-requests"}
        for kind in (Kind.RING, Kind.CALENDAR):
            assert (states[kind.value].limit, states[kind.value].remaining) == (1000, 600)
        assert 600 <= states["bucket"].remaining <= 1000
        one = states["concurrency"]
        assert (one.limit, one.remaining, one.at_once) == (1000, 999, True)
        assert one.reset_s == math.inf, "nobody knows when it ends"
        assert states["pro-requests"].remaining == 42  # 7 of Zion's, 1 held here
        assert not any(state.exceeded for state in states.values())
    nobody = Subject("nobody", ADA.path, ADA.endpoint, ADA.model)
    assert {state.remaining for state in await limiter.peek(nobody)} == {1000}
    assert everything(redis_url) == before
    await limiter.settle(reservation, Quantities(1, 100, 300))
    await limiter.flush()


async def test_what_is_exhausted_has_nothing_left(redis_client: Client) -> None:
    store = RedisStore(redis_client, timeout_s=5.0, queue_timeout_s=30.0)
    limiter = StoreLimiter(store, POLICY)
    await limiter.reserve(ReserveRequest("x1", ADA, Quantities(1, 400, 600)))
    states = {state.name: state for state in await limiter.peek(ADA)}
    assert states["ring"].remaining == states["calendar"].remaining == 0
    assert states["ring"].reset_s > 0


@pytest.mark.parametrize("rung", list(OnOutage))
async def test_without_redis_nobody_else_answers(rung: OnOutage) -> None:
    ladder = Ladder(RedisStore(build_client("unix:///nonexistent/redis.sock")))
    limits = (a_limit("ring", Kind.RING, on_outage=rung),)
    limiter = StoreLimiter(ladder, Policy((Rule(limits=limits),)))
    for _ in range(3):
        with pytest.raises(Unavailable):
            await limiter.peek(ADA)
    assert not ladder._open
    await limiter.close(timeout_s=0.0)
