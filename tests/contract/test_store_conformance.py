"""What every store must do, run against each of them under a clock that the test moves."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from sentinel_extproc.demo.redis import RunningRedis, redis_binaries, start_redis
from sentinel_extproc.limits.limit import Kind, Limit, Period
from sentinel_extproc.limits.limiter import StoreLimiter
from sentinel_extproc.limits.model import Epoch, Quantities, ReserveRequest, Subject, Unit
from sentinel_extproc.limits.policy import Policy, Rule
from sentinel_extproc.limits.store import Claim, Decision, Line, Seed, Verdict, owner_tag
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.memory import MemoryStore
from sentinel_extproc.limits.store.redis import RedisStore

NOON = round(datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp() * 1000)  # a Wednesday
OWNER = owner_tag("user-1")


def bucket(capacity: int, period_ms: int, burst: int | None = None, name: str = "b") -> Limit:
    return Limit(
        name=name,
        unit=Unit.TOTAL,
        kind=Kind.BUCKET,
        capacity=capacity,
        period_ms=period_ms,
        burst=burst,
    )


def ring(capacity: int, period_ms: int, name: str = "r") -> Limit:
    return Limit(name=name, unit=Unit.TOTAL, kind=Kind.RING, capacity=capacity, period_ms=period_ms)


def calendar(capacity: int, period: Period, name: str = "c") -> Limit:
    return Limit(name=name, unit=Unit.TOTAL, kind=Kind.CALENDAR, capacity=capacity, period=period)


def concurrency(capacity: int, name: str = "n") -> Limit:
    return Limit(name=name, unit=Unit.REQUESTS, kind=Kind.CONCURRENCY, capacity=capacity)


@dataclass
class Bench:
    """A store, its clock, and short forms for claims."""

    store: MemoryStore | RedisStore
    clock: list[int]
    serial: int = 0
    holds: dict[str, Claim] = field(default_factory=dict)

    def advance(self, ms: int) -> None:
        self.clock[0] += ms

    async def reserve(
        self,
        *asked: tuple[Limit, int],
        name: str | None = None,
        seed: Seed | None = None,
        epochs: tuple[Epoch, ...] = (),
    ) -> Verdict:
        self.serial += 1
        claim = Claim(
            id=name or f"auto-{self.serial}",
            owner=OWNER,
            lines=tuple(Line(limit, limit.name, amount, seed) for limit, amount in asked),
            epochs=epochs,
        )
        verdict = await self.store.reserve(claim)
        if verdict.decision is Decision.ADMITTED:
            self.holds[claim.id] = replace(claim, at_ms=verdict.at_ms)
        return verdict

    async def extend(self, name: str, *totals: int) -> Verdict:
        return await self.store.extend(self._with(name, totals))

    async def settle(self, name: str, *actual: int) -> None:
        await self.store.settle(self._with(name, actual))

    async def left(self, limit: Limit) -> int:
        """What remains, asked without taking anything."""
        return (await self.reserve((limit, 0))).lines[0].remaining

    def _with(self, name: str, amounts: tuple[int, ...]) -> Claim:
        claim = self.holds[name]
        lines = zip(claim.lines, amounts, strict=True)
        return replace(claim, lines=tuple(replace(line, amount=n) for line, n in lines))


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], RunningRedis]]:
    """Starts one of ``redis_binaries`` when it is first asked for."""
    running: dict[str, RunningRedis] = {}
    with ExitStack() as stack:

        def start(name: str) -> RunningRedis:
            if name not in running:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sx-redis-"))
                server = start_redis(work_dir=Path(folder), binary=redis_binaries()[name])
                running[name] = stack.enter_context(server)
            return running[name]

        yield start


@pytest.fixture(params=["memory", *redis_binaries()])
async def bench(
    request: pytest.FixtureRequest, servers: Callable[[str], RunningRedis]
) -> AsyncIterator[Bench]:
    clock = [NOON]
    store: MemoryStore | RedisStore
    if request.param == "memory":
        store = MemoryStore(lambda: clock[0])
    else:
        client = build_client(servers(request.param).url, timeout_s=5.0)
        await client.flushall()
        store = RedisStore(client, timeout_s=5.0, clock=lambda: clock[0])
    yield Bench(store, clock)
    await store.close()


async def test_a_bucket_gives_its_burst_then_its_rate(bench: Bench) -> None:
    limit = bucket(60, 60_000, burst=10)
    first = await bench.reserve((limit, 10))
    assert first.decision is Decision.ADMITTED
    assert first.lines[0].remaining == 0
    assert first.lines[0].reset_ms == 10_000

    denied = await bench.reserve((limit, 1))
    assert denied.decision is Decision.DENIED
    assert denied.lines[0].wait_ms == 1_000
    bench.advance(999)
    assert (await bench.reserve((limit, 1))).decision is Decision.DENIED
    bench.advance(1)
    assert (await bench.reserve((limit, 1))).decision is Decision.ADMITTED


async def test_a_bucket_carries_debt_forward(bench: Bench) -> None:
    limit = bucket(60, 60_000)
    await bench.reserve((limit, 60), name="a")
    await bench.settle("a", 90)
    bench.advance(30_000)
    assert await bench.left(limit) == 0
    assert (await bench.reserve((limit, 1))).lines[0].wait_ms == 1_000
    bench.advance(1_000)
    assert await bench.left(limit) == 1


async def test_a_ring_holds_its_limit_at_the_exact_edge_of_the_window(bench: Bench) -> None:
    limit = ring(10, 1_000)
    bench.clock[0] = NOON - NOON % 1_000 + 16  # the last ms of a slot of 16 2/3 ms
    assert (await bench.reserve((limit, 10))).decision is Decision.ADMITTED
    bench.advance(1_000)
    edge = await bench.reserve((limit, 1))
    assert edge.decision is Decision.DENIED  # a closed window of 1 s contains both
    bench.advance(edge.lines[0].wait_ms - 1)
    assert (await bench.reserve((limit, 1))).decision is Decision.DENIED
    bench.advance(1)
    assert (await bench.reserve((limit, 10))).decision is Decision.ADMITTED


async def test_a_ring_frees_only_whole_slots(bench: Bench) -> None:
    limit = ring(10, 60_000)
    await bench.reserve((limit, 4))
    bench.advance(30_000)
    await bench.reserve((limit, 6))
    bench.advance(30_999)
    assert await bench.left(limit) == 0
    bench.advance(1)
    assert await bench.left(limit) == 4
    bench.advance(30_000)
    assert await bench.left(limit) == 10


async def test_a_ring_hands_back_only_to_the_slot_that_was_charged(bench: Bench) -> None:
    limit = ring(10, 60_000)
    await bench.reserve((limit, 10), name="a")
    bench.advance(61_000)
    await bench.reserve((limit, 10), name="b")
    await bench.settle("a", 0)  # its slot has left the window: nothing to hand back
    assert await bench.left(limit) == 0
    await bench.settle("b", 3)
    assert await bench.left(limit) == 7


@pytest.mark.parametrize(
    ("period", "end"),
    [
        (Period.DAY, datetime(2026, 3, 5, tzinfo=UTC)),
        (Period.WEEK, datetime(2026, 3, 9, tzinfo=UTC)),
        (Period.MONTH, datetime(2026, 4, 1, tzinfo=UTC)),
    ],
)
async def test_a_calendar_quota_ends_with_its_window(
    bench: Bench, period: Period, end: datetime
) -> None:
    limit = calendar(10, period)
    await bench.reserve((limit, 10), name="a")
    await bench.settle("a", 10)
    left = round(end.timestamp() * 1000) - NOON
    denied = await bench.reserve((limit, 1))
    assert (denied.decision, denied.lines[0].wait_ms) == (Decision.DENIED, left)
    assert denied.lines[0].reset_ms == left
    bench.advance(left - 1)
    assert (await bench.reserve((limit, 1))).decision is Decision.DENIED
    bench.advance(1)
    assert (await bench.reserve((limit, 10))).decision is Decision.ADMITTED


async def test_a_lifetime_quota_never_resets(bench: Bench) -> None:
    limit = calendar(10, Period.LIFETIME)
    await bench.reserve((limit, 10), name="a")
    await bench.settle("a", 10)
    bench.advance(50 * 86_400_000)
    denied = await bench.reserve((limit, 1))
    assert denied.decision is Decision.DENIED
    assert (denied.lines[0].reset_ms, denied.lines[0].wait_ms) == (-1, -1)


async def test_a_crashed_holder_of_a_quota_gives_way_within_a_minute(bench: Bench) -> None:
    limit = calendar(10, Period.MONTH)
    await bench.reserve((limit, 10), name="crashed")
    denied = await bench.reserve((limit, 1))
    assert denied.decision is Decision.DENIED
    assert 0 < denied.lines[0].wait_ms <= 60_000
    bench.advance(denied.lines[0].wait_ms)
    assert await bench.left(limit) == 10


async def test_a_renewed_lease_lasts(bench: Bench) -> None:
    limit = calendar(10, Period.MONTH)
    await bench.reserve((limit, 10), name="long")
    for _ in range(10):
        bench.advance(20_000)
        assert (await bench.extend("long", 10)).decision is Decision.ADMITTED
        assert await bench.left(limit) == 0
    await bench.settle("long", 4)
    assert await bench.left(limit) == 6


async def test_no_more_run_at_once_than_may_and_one_that_ends_makes_room(bench: Bench) -> None:
    limit = concurrency(3)
    for number in range(3):
        verdict = await bench.reserve((limit, 1), name=f"run-{number}")
        assert verdict.decision is Decision.ADMITTED
        assert verdict.lines[0].remaining == 2 - number
        assert verdict.lines[0].reset_ms == -1, "nobody knows when they end"
        bench.advance(1)
    assert (await bench.reserve((limit, 1))).decision is Decision.DENIED
    for _ in range(3):
        await bench.settle("run-1", 1)
        assert await bench.left(limit) == 1
    assert (await bench.reserve((limit, 1))).decision is Decision.ADMITTED
    assert (await bench.reserve((limit, 1))).decision is Decision.DENIED
    whole = concurrency(3, name="another")
    assert (await bench.reserve((whole, 0))).lines[0].reset_ms == 0


async def test_who_is_refused_hears_how_soon_one_usually_ends(bench: Bench) -> None:
    limit = concurrency(2)
    for name in ("a", "b"):
        await bench.reserve((limit, 1), name=name)
    assert (await bench.reserve((limit, 1))).lines[0].wait_ms == 1_000, "nothing is known yet"
    bench.advance(30_000)
    for name in ("a", "b"):
        await bench.extend(name, 1)
        await bench.settle(name, 1)
    for name in ("c", "d"):
        await bench.reserve((limit, 1), name=name)
    # Of two that take 30 s one ends every 15 s.
    assert (await bench.reserve((limit, 1))).lines[0].wait_ms == 15_000
    await bench.settle("c", 0)  # handed back: it took no time
    await bench.reserve((limit, 1), name="e")
    assert (await bench.reserve((limit, 1))).lines[0].wait_ms == 15_000
    for _ in range(100):  # for more than a lease nobody is sent away for longer than one lasts
        bench.advance(20_000)
        await bench.extend("d", 1)
        await bench.extend("e", 1)
    await bench.settle("d", 1)
    await bench.reserve((limit, 1), name="f")
    assert (await bench.reserve((limit, 1))).lines[0].wait_ms == 60_000
    assert (await bench.reserve((limit, 3))).lines[0].wait_ms == -1, "it never will"


async def test_how_long_is_usual_follows_what_ends(bench: Bench) -> None:
    limit = concurrency(2)
    waits = []
    for took_ms in (30_000, 14_000, 29_999, 28_000):
        await bench.reserve((limit, 1), name=f"took-{took_ms}")
        bench.advance(took_ms)
        await bench.settle(f"took-{took_ms}", 1)
        for name in ("a", "b"):
            await bench.reserve((limit, 1), name=f"{name}-{took_ms}")
        waits.append((await bench.reserve((limit, 1))).lines[0].wait_ms)
        for name in ("a", "b"):
            await bench.settle(f"{name}-{took_ms}", 0)
    # The mean moves by an eighth of the difference, rounded down: 30000, 28000, 28249, 28217.
    assert waits == [15_000, 14_000, 14_124, 14_108]


async def test_of_exchanges_whose_sidecar_crashed_the_places_are_free_within_a_minute(
    bench: Bench,
) -> None:
    limit = concurrency(3)
    for name in ("crashed", "gone", "alive"):
        await bench.reserve((limit, 1), name=name)
    for _ in range(3):
        bench.advance(20_000)
        await bench.extend("alive", 1)
    assert await bench.left(limit) == 2
    await bench.settle("alive", 1)
    assert await bench.left(limit) == 3


async def test_growing_and_renewing_keep_one_place_and_no_more(bench: Bench) -> None:
    limit, tokens = concurrency(2), ring(1_000, 60_000)
    await bench.reserve((limit, 1), (tokens, 10), name="long")
    for total in range(20, 400, 20):
        bench.advance(7_000)
        grown = await bench.extend("long", 1, total)
        assert grown.decision is Decision.ADMITTED
        assert grown.lines[0].remaining == 1
    assert (await bench.extend("long", 1, 5_000)).decision is Decision.DENIED
    assert await bench.left(limit) == 1
    await bench.settle("long", 1, 400)
    assert await bench.left(limit) == 2


async def test_whatever_runs_is_counted_though_its_place_was_given_away(bench: Bench) -> None:
    limit = concurrency(1)
    await bench.reserve((limit, 1), name="stalled")
    bench.advance(60_000)
    assert (await bench.reserve((limit, 1), name="next")).decision is Decision.ADMITTED
    renewed = await bench.extend("stalled", 1)
    assert (renewed.decision, renewed.lines[0].remaining) == (Decision.ADMITTED, 0)
    await bench.settle("next", 1)
    assert (await bench.reserve((limit, 1))).decision is Decision.DENIED
    await bench.settle("stalled", 1)
    assert await bench.left(limit) == 1


async def test_what_the_store_has_forgotten_counts_again_when_there_is_room(bench: Bench) -> None:
    """docs/limits.md, on a Redis that has lost its data while new requests filled the limit."""
    limit = concurrency(1)
    forgotten = Claim("forgotten", OWNER, (Line(limit, limit.name, 1),), at_ms=NOON)
    assert (await bench.reserve((limit, 1), name="new")).decision is Decision.ADMITTED
    assert (await bench.store.extend(forgotten)).decision is Decision.DENIED
    await bench.settle("new", 1)
    assert await bench.left(limit) == 1, "it was not counted"
    assert (await bench.store.extend(forgotten)).decision is Decision.ADMITTED
    assert (await bench.reserve((limit, 1))).decision is Decision.DENIED


async def test_what_was_never_reserved_here_takes_no_place_once_it_is_over(bench: Bench) -> None:
    limit = concurrency(2)
    stranger = Claim("elsewhere", OWNER, (Line(limit, limit.name, 1),), at_ms=NOON)
    await bench.store.settle(stranger)
    assert await bench.left(limit) == 2
    # While it runs it does: that is how it is charged after an outage.
    debt = replace(stranger, id="running", lines=(Line(replace(limit, shadow=True), "n", 1),))
    assert (await bench.store.extend(debt)).decision is Decision.ADMITTED
    assert await bench.left(limit) == 1


async def test_settling_after_midnight_leaves_the_new_day_alone(bench: Bench) -> None:
    limit = calendar(10, Period.DAY)
    bench.clock[0] = NOON + 12 * 3_600_000 - 1
    await bench.reserve((limit, 10), name="late")
    bench.advance(1)
    assert await bench.left(limit) == 10
    assert (await bench.extend("late", 12)).decision is Decision.ADMITTED
    await bench.settle("late", 12)
    assert await bench.left(limit) == 10


async def test_use_reported_elsewhere_counts_with_what_is_in_flight(bench: Bench) -> None:
    limit = calendar(100, Period.MONTH)
    first = await bench.reserve((limit, 30), name="a", seed=Seed(used=50, seen_ms=NOON))
    assert first.lines[0].remaining == 20
    # An older report, and the same again, change nothing; a newer one is a floor.
    assert (await bench.reserve((limit, 0), seed=Seed(90, NOON - 5))).lines[0].remaining == 20
    await bench.settle("a", 30)
    assert (await bench.reserve((limit, 0), seed=Seed(60, NOON + 5))).lines[0].remaining == 20
    assert (await bench.reserve((limit, 0), seed=Seed(95, NOON + 9))).lines[0].remaining == 5
    # Lower for longer than caches differ: somebody corrected it.
    assert (await bench.reserve((limit, 0), seed=Seed(15, NOON + 30_000))).lines[0].remaining == 5
    assert (await bench.reserve((limit, 0), seed=Seed(15, NOON + 60_009))).lines[0].remaining == 85
    # A report about last month says nothing of this one.
    last_month = Seed(1000, NOON - 40 * 86_400_000)
    assert (await bench.reserve((limit, 0), seed=last_month)).lines[0].remaining == 85


async def test_one_full_limit_denies_all_and_nothing_changes(bench: Bench) -> None:
    open_, full = bucket(100, 60_000), ring(5, 60_000)
    await bench.reserve((full, 5))
    verdict = await bench.reserve((open_, 40), (full, 1))
    assert verdict.decision is Decision.DENIED
    assert [line.fits for line in verdict.lines] == [True, False]
    assert await bench.left(open_) == 100


async def test_a_shadow_limit_counts_and_reports_but_denies_nothing(bench: Bench) -> None:
    shadow = replace(ring(5, 60_000), shadow=True)
    real = bucket(100, 60_000)
    verdict = await bench.reserve((shadow, 8), (real, 8))
    assert verdict.decision is Decision.ADMITTED
    assert [line.fits for line in verdict.lines] == [False, True]
    assert verdict.lines[0].remaining == 0
    assert await bench.left(replace(shadow, capacity=10)) == 2


async def test_replaying_a_reserve_takes_nothing_more(bench: Bench) -> None:
    limits = (bucket(10, 60_000), ring(10, 60_000), calendar(10, Period.DAY), concurrency(10))
    for _ in range(3):
        verdict = await bench.reserve(*((limit, 7) for limit in limits), name="same")
        assert verdict.decision is Decision.ADMITTED
        assert [line.remaining for line in verdict.lines] == [3, 3, 3, 3]


async def test_settling_many_times_is_settling_once(bench: Bench) -> None:
    limits = (bucket(10, 60_000), ring(10, 60_000), calendar(10, Period.DAY))
    await bench.reserve(*((limit, 7) for limit in limits), name="same")
    for actual in (2, 2, 9, 0):
        await bench.settle("same", actual, actual, actual)
    assert [await bench.left(limit) for limit in limits] == [8, 8, 8]
    assert (await bench.reserve((limits[0], 7), name="same")).decision is Decision.OVER
    assert (await bench.extend("same", 9, 9, 9)).decision is Decision.OVER
    assert [await bench.left(limit) for limit in limits] == [8, 8, 8]


async def test_settling_what_was_never_reserved_here_is_debt(bench: Bench) -> None:
    limits = (bucket(10, 60_000), ring(10, 60_000), calendar(10, Period.DAY))
    lines = tuple(Line(limit, limit.name, 4) for limit in limits)
    stranger = Claim("elsewhere", OWNER, lines, at_ms=NOON)
    for _ in range(2):
        await bench.store.settle(stranger)
    assert [await bench.left(limit) for limit in limits] == [6, 6, 6]


async def test_a_reserve_that_arrives_after_its_settlement_takes_nothing(bench: Bench) -> None:
    limit = ring(10, 60_000)
    claim = Claim("cancelled", OWNER, (Line(limit, limit.name, 0),))
    await bench.store.settle(claim)
    assert (await bench.reserve((limit, 9), name="cancelled")).decision is Decision.OVER
    assert await bench.left(limit) == 10


async def test_growth_is_all_or_nothing_and_repeatable(bench: Bench) -> None:
    wide, narrow = bucket(100, 60_000), ring(20, 60_000)
    await bench.reserve((wide, 10), (narrow, 10), name="a")
    for _ in range(2):
        assert (await bench.extend("a", 18, 18)).decision is Decision.ADMITTED
    denied = await bench.extend("a", 30, 30)
    assert denied.decision is Decision.DENIED
    assert [line.fits for line in denied.lines] == [True, False]
    assert (await bench.left(wide), await bench.left(narrow)) == (82, 2)
    await bench.settle("a", 5, 5)
    assert (await bench.left(wide), await bench.left(narrow)) == (95, 15)


async def test_a_hold_that_grew_over_two_slots_is_handed_back_whole(bench: Bench) -> None:
    limit = ring(100, 60_000)
    await bench.reserve((limit, 10), name="a")
    bench.advance(5_000)
    await bench.extend("a", 30)
    bench.advance(5_000)
    await bench.extend("a", 60)
    await bench.settle("a", 0)
    assert await bench.left(limit) == 100


async def test_a_hold_that_grew_hands_back_its_own_part_of_each_slot(bench: Bench) -> None:
    limit = ring(100, 60_000)
    await bench.reserve((limit, 10), name="a")
    bench.advance(5_000)
    await bench.extend("a", 30)
    await bench.reserve((limit, 15), name="b")
    await bench.settle("a", 0)
    assert await bench.left(limit) == 85
    bench.advance(56_000)  # the first slot has left the window, the second has not
    assert await bench.left(limit) == 85
    bench.advance(5_000)
    assert await bench.left(limit) == 100


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        (bucket(100, 60_000), bucket(10, 60_000), 10),
        (bucket(100, 60_000), bucket(100, 30_000), 60),
        (bucket(10, 60_000), bucket(1000, 60_000), 0),
        (ring(100, 60_000), ring(50, 60_000), 10),
        (ring(100, 60_000), ring(100, 1_000), 60),
        (calendar(100, Period.DAY), calendar(50, Period.DAY), 10),
        (calendar(100, Period.DAY), calendar(1000, Period.MONTH), 960),
        (concurrency(100), concurrency(50), 50),
    ],
    ids=str,
)
async def test_a_changed_limit_grants_no_more_than_the_new_one(
    bench: Bench, before: Limit, after: Limit, left: int
) -> None:
    await bench.reserve((before, min(40, before.capacity)), name="a")
    await bench.settle("a", min(40, before.capacity))
    assert await bench.left(after) == left


@pytest.mark.parametrize("back_ms", [1, 500, 59_000, 86_400_000, 40 * 86_400_000])
@pytest.mark.parametrize(
    "limit", [bucket(100, 60_000), ring(100, 60_000), calendar(100, Period.DAY)], ids=str
)
async def test_a_clock_that_steps_back_refills_nothing(
    bench: Bench, limit: Limit, back_ms: int
) -> None:
    await bench.reserve((limit, 70), name="a")
    await bench.settle("a", 70)
    bench.advance(-back_ms)
    assert await bench.left(limit) == 30
    assert (await bench.reserve((limit, 31))).decision is Decision.DENIED


@pytest.mark.parametrize("name", ["all", "user", "token:abc"])
async def test_a_revoked_epoch_denies_the_next_reserve(bench: Bench, name: str) -> None:
    limit = ring(10, 60_000)
    names = ("all", "user", "token:abc")
    seen = await bench.store.epochs("user-1", names)
    assert (await bench.reserve((limit, 1), epochs=seen)).decision is Decision.ADMITTED

    if name == "all":
        await bench.store.revoke_everybody()
    else:
        await bench.store.revoke("user-1", name)
    verdict = await bench.reserve((limit, 1), epochs=seen)
    assert (verdict.decision, verdict.lines) == (Decision.REVOKED, ())
    assert await bench.left(limit) == 9

    again = await bench.store.epochs("user-1", names)
    assert (await bench.reserve((limit, 1), epochs=again)).decision is Decision.ADMITTED
    others = await bench.store.epochs("user-2", names)
    assert [epoch.seen for epoch in others[1:]] == [0, 0]


async def test_a_hold_counts_whole_again_after_its_quota_was_another_for_a_while(
    bench: Bench,
) -> None:
    lifetime, monthly = calendar(55, Period.LIFETIME), calendar(57, Period.MONTH)
    await bench.reserve((lifetime, 32), name="a")
    await bench.reserve((monthly, 23), name="b")
    grown = await bench.extend("a", 33)
    assert grown.decision is Decision.ADMITTED
    assert grown.lines[0].remaining == 55 - 33


async def test_large_amounts_stay_exact(bench: Bench) -> None:
    limit = calendar(2**50, Period.LIFETIME)
    await bench.reserve((limit, 2**50 - 1), name="a")
    await bench.settle("a", 2**50 - 3)
    assert await bench.left(limit) == 3


async def test_a_claim_without_lines_checks_epochs_only(bench: Bench) -> None:
    assert (await bench.reserve()).decision is Decision.ADMITTED
    await bench.store.ping()


@pytest.mark.parametrize(
    ("limit", "used", "left"),
    [
        (bucket(100, 60_000), 90, 100 - (90 - 30)),  # full again since; what is beyond the hold
        (ring(100, 7_200_000), 10, 90),
        (calendar(100, Period.MONTH), 10, 90),
        (concurrency(100), 10, 100),
    ],
    ids=str,
)
async def test_an_exchange_of_an_hour_is_settled_against_its_hold(
    bench: Bench, limit: Limit, used: int, left: int
) -> None:
    limiter = StoreLimiter(
        bench.store, Policy((Rule(limits=(limit,)),)), clock=lambda: bench.clock[0] / 1000
    )
    subject = Subject("user-1", "/v1/chat/completions", "chat", "gpt-4o")
    reservation = await limiter.reserve(ReserveRequest("long", subject, Quantities(1, 30, 0)))
    for _ in range(180):
        bench.advance(20_000)
        await limiter.renew_due()
    await limiter.settle(reservation, Quantities(1, used, 0))
    await limiter.flush()
    again = await limiter.reserve(ReserveRequest("next", subject, Quantities(0, 0, 0)))
    assert again.states[0].remaining == left
    await limiter.close()
