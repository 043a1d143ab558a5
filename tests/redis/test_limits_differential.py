"""The scripts against the reference in Python: same claims, same clock, same answers at each step.

``tests/property/test_limits_invariants.py`` proves the promises of the reference; this carries them
over to Redis, also for definitions that change, clocks that step back, and several limits at once.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
import redis as sync_redis
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from sentinel_extproc.limits.limit import Kind, Limit, Period
from sentinel_extproc.limits.model import Unit
from sentinel_extproc.limits.store import Claim, Line, Seed
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.memory import MemoryStore
from sentinel_extproc.limits.store.redis import RedisStore

START = round(datetime(2027, 12, 31, 23, 59, 30, tzinfo=UTC).timestamp() * 1000)

capacities = st.integers(min_value=1, max_value=60)
periods_ms = st.sampled_from([100, 999, 1_000, 60_000])


def limits_named(name: str) -> st.SearchStrategy[Limit]:
    """Any definition of one name and kind, so that it can change under way."""
    common = {"name": st.just(name), "unit": st.just(Unit.TOTAL), "shadow": st.booleans()}
    if name.startswith("b"):
        return st.builds(
            Limit,
            kind=st.just(Kind.BUCKET),
            capacity=capacities,
            burst=st.one_of(st.none(), capacities),
            period_ms=periods_ms,
            **common,
        )
    if name.startswith("r"):
        return st.builds(
            Limit, kind=st.just(Kind.RING), capacity=capacities, period_ms=periods_ms, **common
        )
    if name.startswith("n"):
        kind = st.just(Kind.CONCURRENCY)
        return st.builds(
            Limit, kind=kind, capacity=capacities, **(common | {"unit": st.just(Unit.REQUESTS)})
        )
    return st.builds(
        Limit,
        kind=st.just(Kind.CALENDAR),
        capacity=capacities,
        period=st.sampled_from(list(Period)),
        **common,
    )


NAMES = ("b1", "b2", "r1", "r2", "c1", "c2", "n1", "n2")
amounts = st.integers(min_value=0, max_value=40)
pauses = st.one_of(
    st.integers(min_value=-200_000, max_value=200_000),
    st.integers(min_value=0, max_value=2_000),
    st.sampled_from([86_400_000, -86_400_000, 31 * 86_400_000, -40 * 86_400_000]),
)


class Reference(MemoryStore):
    """Forgets nothing that has expired: a test's clock may go back to before that."""

    def _make_room(self, now: int, claim: Claim, *, states: int, records: int) -> None:
        pass


class BothStores(RuleBasedStateMachine):
    """Drives both stores; ``url`` is set by the test."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.runner = asyncio.Runner()
        self.reference = Reference(lambda: self.now)
        self.client = build_client(self.url, timeout_s=5.0)
        self.redis = RedisStore(self.client, timeout_s=5.0, clock=lambda: self.now)
        self.runner.run(self._flush())
        self.claims: list[Claim] = []
        self.limits: dict[str, Limit] = {}

    async def _flush(self) -> None:
        await self.client.flushall()

    def teardown(self) -> None:
        self.runner.run(self.redis.close())
        self.runner.close()

    def same(self, method: str, claim: Claim) -> object:
        async def both() -> tuple[object, object]:
            return (
                await getattr(self.reference, method)(claim),
                await getattr(self.redis, method)(claim),
            )

        expected, got = self.runner.run(both())
        assert got == expected
        return got

    @initialize(data=st.data())
    def define_all(self, data: st.DataObject) -> None:
        self.limits = {name: data.draw(limits_named(name)) for name in NAMES}

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def redefine(self, data: st.DataObject, name: str) -> None:
        self.limits[name] = data.draw(limits_named(name))

    @rule(ms=pauses)
    def pause(self, ms: int) -> None:
        self.now += ms

    @rule(
        chosen=st.dictionaries(st.sampled_from(NAMES), amounts, max_size=4),
        seed=st.one_of(
            st.none(),
            st.builds(
                lambda used, ago: (used, ago),
                st.integers(min_value=0, max_value=80),
                st.integers(min_value=-1_000, max_value=100_000),
            ),
        ),
    )
    def reserve(self, chosen: dict[str, int], seed: tuple[int, int] | None) -> None:
        lines = tuple(
            Line(
                self.limits[name],
                name,
                amount,
                Seed(seed[0], self.now - seed[1]) if seed and name.startswith("c") else None,
            )
            for name, amount in chosen.items()
        )
        claim = Claim(f"x{len(self.claims)}", "owner", lines, at_ms=self.now)
        self.claims.append(replace(claim, at_ms=self.now - (seed[1] if seed else 0)))
        self.same("reserve", claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        self.same("reserve", data.draw(st.sampled_from(self.claims)))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), amount=amounts)
    def extend(self, data: st.DataObject, amount: int) -> None:
        self.same("extend", self._about(data, amount))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), amount=amounts)
    def settle(self, data: st.DataObject, amount: int) -> None:
        self.same("settle", self._about(data, amount))

    def _about(self, data: st.DataObject, amount: int) -> Claim:
        # Also ids that were denied or never seen by a store: debt.
        claim = data.draw(st.sampled_from(self.claims))
        return replace(claim, lines=tuple(replace(line, amount=amount) for line in claim.lines))


@pytest.fixture(autouse=True)
def redis_url(each_redis_url: str) -> str:
    """Every kind of server that is here, empty."""
    with sync_redis.Redis.from_url(each_redis_url, socket_timeout=5.0) as admin:
        admin.flushall()
    BothStores.url = each_redis_url
    return each_redis_url


def test_redis_and_the_reference_agree_on_every_history() -> None:
    # Not shrunk: over a socket that takes minutes. Put Phase.shrink back to look into a failure.
    run_state_machine_as_test(
        BothStores,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
        ),
    )


def test_only_lifetime_quotas_never_expire(redis_url: str) -> None:
    # Under Redis' own clock: whatever else a limit or a record is, it goes away by itself.
    async def use_all() -> None:
        client = build_client(redis_url, timeout_s=5.0)
        store = RedisStore(client, timeout_s=5.0)
        lines = tuple(
            Line(limit, limit.name, 1)
            for limit in (
                Limit(name="b", unit=Unit.TOTAL, kind=Kind.BUCKET, capacity=10),
                Limit(name="r", unit=Unit.TOTAL, kind=Kind.RING, capacity=10),
                Limit(name="n", unit=Unit.REQUESTS, kind=Kind.CONCURRENCY, capacity=10),
                *(
                    Limit(
                        name=period.value,
                        unit=Unit.TOTAL,
                        kind=Kind.CALENDAR,
                        capacity=10,
                        period=period,
                    )
                    for period in Period
                ),
            )
        )
        await store.reserve(Claim("open", "owner", lines))
        await store.reserve(Claim("settled", "owner", lines))
        await store.settle(Claim("settled", "owner", lines))
        await store.close()

    asyncio.run(use_all())
    with sync_redis.Redis.from_url(redis_url) as admin:
        ttls = {key.decode().rpartition(":")[2]: admin.pttl(key) for key in admin.scan_iter()}
    assert len(ttls) == 9
    assert ttls.pop("lifetime") == -1
    assert all(0 < ttl <= 32 * 86_400_000 for ttl in ttls.values())
