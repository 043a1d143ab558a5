"""The limiter over the in-process store: units, refusals, growth, settlement, cancellation."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from sentinel_extproc.errors import (
    LimitExceeded,
    PromptTooLarge,
    SentinelError,
    Unauthenticated,
    Unavailable,
)
from sentinel_extproc.limits.facts import HoldExhausted, LimitFact, LimitsDecided
from sentinel_extproc.limits.limit import Kind, Limit, OnExhausted, Period
from sentinel_extproc.limits.limiter import StoreLimiter
from sentinel_extproc.limits.model import (
    NOTHING,
    SETTLED,
    Epoch,
    Growth,
    Quantities,
    Quota,
    QuotaPeriod,
    ReserveRequest,
    Subject,
    Unit,
)
from sentinel_extproc.limits.policy import Policy, Rule
from sentinel_extproc.limits.store import Claim, StoreError, Verdict
from sentinel_extproc.limits.store.memory import MemoryStore

NOON = 1_772_625_600_000
SERIAL = itertools.count()


def limit(unit: Unit = Unit.TOTAL, capacity: int = 1_000, **more: object) -> Limit:
    values: dict[str, object] = {
        "name": unit.value,
        "unit": unit,
        "kind": Kind.RING,
        "capacity": capacity,
    }
    return Limit(**(values | more))  # type: ignore[arg-type]


class SlowStore(MemoryStore):
    """Takes what it is asked, but answers only when told to, or fails instead."""

    def __init__(self, clock: list[int]) -> None:
        super().__init__(lambda: clock[0])
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False
        self.settled: list[Claim] = []
        self.extended: list[Claim] = []

    async def reserve(self, claim: Claim) -> Verdict:
        verdict = await super().reserve(claim)
        await self.gate.wait()
        if self.broken:
            raise StoreError("no answer")
        return verdict

    async def extend(self, claim: Claim) -> Verdict:
        if self.broken:
            raise StoreError("no answer")
        self.extended.append(claim)
        return await super().extend(claim)

    async def settle(self, claim: Claim) -> None:
        if self.broken:
            raise StoreError("no answer")
        self.settled.append(claim)
        await super().settle(claim)


@dataclass
class Bench:
    """A limiter, its store and what it told."""

    store: SlowStore
    clock: list[int]
    limiters: list[StoreLimiter] = field(default_factory=list)
    facts: list[LimitFact] = field(default_factory=list)

    def limiter(self, *limits: Limit, renew_every_s: float = 20.0) -> StoreLimiter:
        made = StoreLimiter(
            self.store,
            Policy((Rule(limits=limits),)),
            renew_every_s=renew_every_s,
            emit=self.facts.append,
        )
        self.limiters.append(made)
        return made


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = [NOON]
    made = Bench(SlowStore(clock), clock)
    yield made
    for limiter in made.limiters:
        await limiter.close(timeout_s=0.0)


def ask(number: int | str = 1, predicted: Quantities | None = None) -> ReserveRequest:
    subject = Subject("user-1", "/v1/chat/completions", "chat", "gpt-4o")
    return ReserveRequest(
        f"x{number}", subject, predicted if predicted is not None else Quantities(1, 100, 300)
    )


async def left(limiter: StoreLimiter) -> int:
    nothing = Quantities(0, 0, 0)
    return (await limiter.reserve(ask(f"left-{next(SERIAL)}", nothing))).states[0].remaining


async def test_without_limits_nothing_is_asked(bench: Bench) -> None:
    limiter = bench.limiter()
    bench.store.broken = True
    reservation = await limiter.reserve(ask())
    assert (reservation.states, reservation.degraded) == ((), None)
    assert await limiter.grow(reservation, Quantities(1, 9, 9)) is Growth.GROWN
    await limiter.settle(reservation, NOTHING)
    await limiter.flush()


async def test_what_was_not_used_is_handed_back_once(bench: Bench) -> None:
    limiter = bench.limiter(limit())
    reservation = await limiter.reserve(ask())
    assert reservation.states[0].remaining == 600
    await limiter.settle(reservation, Quantities(1, 100, 20))
    await limiter.settle(reservation, NOTHING)
    await limiter.flush()
    assert await left(limiter) == 880
    assert len(bench.store.settled) == 1


async def test_use_beyond_the_hold_is_charged(bench: Bench) -> None:
    limiter = bench.limiter(limit())
    reservation = await limiter.reserve(ask())
    await limiter.settle(reservation, Quantities(1, 100, 850))
    await limiter.flush()
    assert await left(limiter) == 50


async def test_denied_and_too_large_are_told_apart(bench: Bench) -> None:
    limiter = bench.limiter(limit())
    await limiter.reserve(ask(1, Quantities(1, 100, 900)))
    with pytest.raises(LimitExceeded):
        await limiter.reserve(ask(2))
    with pytest.raises(PromptTooLarge):
        await limiter.reserve(ask(3, Quantities(1, 1_001, 0)))
    assert bench.facts == [
        LimitsDecided("admitted"),
        LimitsDecided("denied", "total_tokens"),
        LimitsDecided("too_large", "total_tokens"),
    ]


async def test_a_shadow_limit_is_told_of(bench: Bench) -> None:
    limiter = bench.limiter(limit(capacity=10, shadow=True))
    reservation = await limiter.reserve(ask())
    assert reservation.states[0].exceeded
    assert bench.facts == [LimitsDecided("admitted", shadowed=("total_tokens",))]


async def test_a_revoked_credential_is_a_401(bench: Bench) -> None:
    limiter = bench.limiter(limit())
    await bench.store.revoke("user-1", "user")
    with pytest.raises(Unauthenticated) as caught:
        await limiter.reserve(replace(ask(), epochs=(Epoch("user", 0),)))
    assert caught.value.code == "token_revoked"
    # Epochs are checked even where nothing is limited.
    with pytest.raises(Unauthenticated):
        await bench.limiter().reserve(replace(ask(), epochs=(Epoch("user", 0),)))


async def test_an_output_cap_is_sized_to_what_is_left(bench: Bench) -> None:
    limiter = bench.limiter(limit(right_size=True), limit(Unit.REQUESTS, 10))
    first = await limiter.reserve(ask(1, Quantities(1, 100, 5_000)))
    assert first.held == Quantities(1, 100, 900)
    await limiter.settle(first, Quantities(1, 100, 300))
    await limiter.flush()
    second = await limiter.reserve(ask(2, Quantities(1, 100, 5_000)))
    assert second.held == Quantities(1, 100, 500)
    assert second.states[0].remaining == 0
    with pytest.raises(LimitExceeded):
        await limiter.reserve(ask(3, Quantities(1, 100, 5_000)))


async def test_quotas_are_limits_with_what_is_in_flight_on_top(bench: Bench) -> None:
    limiter = bench.limiter(limit(capacity=100_000))
    quota = Quota("plan", Unit.REQUESTS, 10, 8, QuotaPeriod.MONTHLY, NOON)
    for number in range(2):
        reservation = await limiter.reserve(replace(ask(number), quotas=(quota,)))
    assert [state.name for state in reservation.states] == ["total_tokens", "plan"]
    assert reservation.states[1].remaining == 0
    with pytest.raises(LimitExceeded) as caught:
        await limiter.reserve(replace(ask(9), quotas=(quota,)))
    assert caught.value.code == "insufficient_quota"
    assert caught.value.details["limit_name"] == "plan"


async def test_a_hold_grows_ahead_of_the_stream_without_asking_each_time(bench: Bench) -> None:
    limiter = bench.limiter(limit(capacity=10_000))
    reservation = await limiter.reserve(ask(1, Quantities(1, 100, 10)))
    for output in range(1, 1_000):
        assert await limiter.grow(reservation, Quantities(1, 100, output)) is Growth.GROWN
    assert 1 <= len(bench.store.extended) <= 4
    assert await left(limiter) <= 10_000 - 1_099
    await limiter.settle(reservation, Quantities(1, 100, 999))
    await limiter.flush()
    assert await left(limiter) == 10_000 - 1_099


@pytest.mark.parametrize(
    ("on_exhausted", "growth"),
    [(OnExhausted.CUT, Growth.CUT), (OnExhausted.SETTLE_AS_DEBT, Growth.DEBT)],
)
async def test_a_hold_that_cannot_grow(
    bench: Bench, on_exhausted: OnExhausted, growth: Growth
) -> None:
    limiter = bench.limiter(limit(on_exhausted=on_exhausted))
    reservation = await limiter.reserve(ask(1, Quantities(1, 100, 850)))
    # 256 ahead don't fit, what was counted does.
    assert await limiter.grow(reservation, Quantities(1, 100, 900)) is Growth.GROWN
    for _ in range(3):
        assert await limiter.grow(reservation, Quantities(1, 100, 901)) is growth
    assert len(bench.store.extended) == 4, "once exhausted, nobody is asked again"
    assert bench.facts[-1] == HoldExhausted("total_tokens", on_exhausted is OnExhausted.CUT)
    await limiter.settle(reservation, Quantities(1, 100, 901))
    await limiter.flush()
    assert await left(limiter) == 0


@pytest.mark.parametrize("on_exhausted", OnExhausted)
async def test_growth_while_the_store_is_away_is_unknown_and_asked_for_again(
    bench: Bench, on_exhausted: OnExhausted
) -> None:
    # DEBT or CUT would end an answer without end, such as a realtime session.
    limiter = bench.limiter(limit(on_exhausted=on_exhausted))
    reservation = await limiter.reserve(ask(1, Quantities(1, 100, 10)))
    bench.store.broken = True
    for output in (20, 30):
        growth = await limiter.grow(reservation, Quantities(1, 100, output))
        assert growth is Growth.UNKNOWN
    bench.store.broken = False
    assert await limiter.grow(reservation, Quantities(1, 100, 40)) is Growth.GROWN
    assert len(bench.store.extended) == 1


async def test_what_was_used_while_growth_was_unknown_is_charged(bench: Bench) -> None:
    limiter = bench.limiter(limit())
    reservation = await limiter.reserve(ask(1, Quantities(1, 100, 10)))
    bench.store.broken = True
    assert await limiter.grow(reservation, Quantities(1, 100, 500)) is Growth.UNKNOWN
    bench.store.broken = False
    await limiter.settle(reservation, Quantities(1, 100, 500))
    await limiter.flush()
    assert await left(limiter) == 400


async def test_leases_of_running_exchanges_are_renewed(bench: Bench) -> None:
    limiter = bench.limiter(limit(kind=Kind.CALENDAR, period=Period.MONTH), renew_every_s=0.01)
    await limiter.start()
    reservation = await limiter.reserve(ask())
    async with asyncio.timeout(10):
        while len(bench.store.extended) < 3:
            bench.clock[0] += 20_000
            await asyncio.sleep(0.005)
    assert await left(limiter) == 600
    await limiter.settle(reservation, NOTHING)
    await limiter.flush()
    assert await left(limiter) == 1_000


STREAMS = limit(Unit.REQUESTS, 1, name="streams", kind=Kind.CONCURRENCY)


async def test_who_sees_the_end_finds_the_place_free(bench: Bench) -> None:
    limiter = bench.limiter(STREAMS)
    for number in range(3):
        running = await limiter.reserve(ask(number))
        with pytest.raises(LimitExceeded) as caught:
            await limiter.reserve(ask(f"another-{number}"))
        assert caught.value.code == "too_many_at_once"
        await limiter.settle(running, Quantities(1, 1, 1))
        assert limiter.pending_settlements == 0


async def test_an_end_waits_for_one_attempt_and_not_for_a_store_that_fails(bench: Bench) -> None:
    limiter = bench.limiter(STREAMS, limit(capacity=10**6))
    running = await limiter.reserve(ask(1))
    bench.store.broken = True
    async with asyncio.timeout(10):
        await limiter.settle(running, Quantities(1, 1, 1))
    assert limiter.pending_settlements == 1
    bench.store.broken = False
    await limiter.flush()
    await limiter.reserve(ask(2))


async def test_without_a_limit_on_what_runs_at_once_an_end_waits_for_nothing(bench: Bench) -> None:
    limiter = bench.limiter(limit())
    await limiter.settle(await limiter.reserve(ask(1)), Quantities(1, 1, 1))
    assert limiter.pending_settlements == 1


async def test_a_settlement_is_taken_over_at_once_and_a_bug_in_it_is_nobodys(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = bench.limiter(limit())
    assert limiter.settle(await limiter.reserve(ask(1)), NOTHING) is SETTLED
    assert limiter.pending_settlements == 1

    def bug(*_: object) -> Claim:
        raise ZeroDivisionError

    reservation = await limiter.reserve(ask(2))
    monkeypatch.setattr("sentinel_extproc.limits.limiter.retaken", bug)
    assert limiter.settle(reservation, NOTHING) is SETTLED


async def test_a_reserve_cancelled_while_the_store_takes_it_is_handed_back(bench: Bench) -> None:
    limiter = bench.limiter(limit())
    bench.store.gate.clear()
    task = asyncio.create_task(limiter.reserve(ask()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    bench.store.gate.set()
    await limiter.flush()
    assert await left(limiter) == 1_000


async def test_a_store_that_fails_is_a_503_and_leaves_nothing(bench: Bench) -> None:
    limiter = bench.limiter(limit())
    bench.store.broken = True
    with pytest.raises(Unavailable) as caught:
        await limiter.reserve(ask())
    assert caught.value.headers()["retry-after"] == "1"
    assert limiter.pending_settlements == 1
    bench.store.broken = False
    await limiter.flush()
    assert await left(limiter) == 1_000
    assert bench.facts[0] == LimitsDecided("unavailable")


async def test_settlements_wait_for_the_store_and_closing_waits_for_them(bench: Bench) -> None:
    limiter = bench.limiter(limit(capacity=100_000))
    reservations = [await limiter.reserve(ask(number)) for number in range(100)]
    bench.store.broken = True
    for reservation in reservations:
        await limiter.settle(reservation, NOTHING)
    assert limiter.pending_settlements == 100
    bench.store.broken = False
    await limiter.close()
    assert limiter.pending_settlements == 0
    assert {claim.id for claim in bench.store.settled} == {f"x{n}" for n in range(100)}


async def test_an_exchange_that_is_over_cannot_be_reserved_again(bench: Bench) -> None:
    limiter = bench.limiter(limit())
    await limiter.settle(await limiter.reserve(ask()), NOTHING)
    await limiter.flush()
    with pytest.raises(SentinelError) as caught:
        await limiter.reserve(ask())
    assert caught.value.code == "exchange_over"
