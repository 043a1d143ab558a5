"""The ladder over a primary that fails as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from sentinel_extproc.errors import LimitExceeded, Unavailable
from sentinel_extproc.limits.facts import LimitFact, StoreLost, StoreRegained
from sentinel_extproc.limits.limit import Kind, Limit, OnOutage, Period
from sentinel_extproc.limits.limiter import StoreLimiter
from sentinel_extproc.limits.model import (
    Epoch,
    Quantities,
    ReserveRequest,
    Subject,
    Unit,
)
from sentinel_extproc.limits.policy import Policy, Rule
from sentinel_extproc.limits.settler import Settler
from sentinel_extproc.limits.store import (
    Claim,
    Decision,
    Line,
    StoreError,
    StoreUntriedError,
    Verdict,
)
from sentinel_extproc.limits.store.ladder import Ladder, wall_clock_ms
from sentinel_extproc.limits.store.memory import MemoryStore
from sentinel_extproc.limits.store.outage import Outage

RING = Limit(name="ring", unit=Unit.TOTAL, kind=Kind.RING, capacity=100, period_ms=3_600_000)
STREAMS = Limit(name="streams", unit=Unit.REQUESTS, kind=Kind.CONCURRENCY, capacity=4)
MONTH = Limit(
    name="month", unit=Unit.TOTAL, kind=Kind.CALENDAR, capacity=100, period=Period.LIFETIME
)


class Primary(MemoryStore):
    """Fails when told to: before or after having done what it was asked."""

    def __init__(self) -> None:
        super().__init__(wall_clock_ms)
        self.away = False
        self.mute = 0
        """How many of the next commands are done but not answered."""
        self.commands = 0
        self.turns: int | None = None
        """How many more commands get a turn; the others are not tried. None: all of them."""

    def _reach(self) -> None:
        if self.turns is not None:
            if not self.turns:
                raise StoreUntriedError("too many wait")
            self.turns -= 1
        self.commands += 1
        if self.away:
            raise StoreError("away")

    def _answer(self) -> None:
        if self.mute:
            self.mute -= 1
            raise StoreError("no answer")

    async def reserve(self, claim: Claim) -> Verdict:
        self._reach()
        verdict = await super().reserve(claim)
        self._answer()
        return verdict

    async def extend(self, claim: Claim) -> Verdict:
        self._reach()
        verdict = await super().extend(claim)
        self._answer()
        return verdict

    async def settle(self, claim: Claim) -> None:
        self._reach()
        await super().settle(claim)
        self._answer()

    async def ping(self) -> None:
        self._reach()

    async def left(self, limit: Limit) -> int:
        """What remains there, whatever is the matter."""
        claim = Claim(f"left-{self.commands}-{id(self)}", "user", (Line(limit, limit.name, 0),))
        self.commands += 1
        return (await super().reserve(claim)).lines[0].remaining


@dataclass
class Bench:
    primary: Primary
    ladder: Ladder
    settler: Settler
    facts: list[LimitFact] = field(default_factory=list)
    serial: int = 0

    def claim(self, *asked: tuple[Limit, int], name: str | None = None) -> Claim:
        self.serial += 1
        lines = tuple(Line(limit, limit.name, amount) for limit, amount in asked)
        return Claim(name or f"x{self.serial}", "user", lines)

    async def reserve(self, *asked: tuple[Limit, int]) -> Verdict:
        return await self.ladder.reserve(self.claim(*asked))

    async def go_away(self) -> None:
        """The primary goes away and the ladder has noticed."""
        self.primary.away = True
        await self.ladder.reserve(self.claim())
        await until(lambda: self.ladder.down)

    async def come_back(self) -> None:
        self.primary.away = False
        await until(lambda: not self.ladder.down)
        await until(lambda: isinstance(self.facts[-1], StoreRegained))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the ladder's state has no event to wait for
            await asyncio.sleep(0.005)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    primary = Primary()
    facts: list[LimitFact] = []
    outage = Outage(quiet_s=0.0, probe_every_s=0.01)
    ladder = Ladder(primary, outage=outage, emit=facts.append)
    made = Bench(primary, ladder, Settler(ladder, emit=facts.append), facts)
    yield made
    await made.settler.close(timeout_s=0.0)
    await ladder.close()


async def test_in_normal_service_the_primary_decides_alone(bench: Bench) -> None:
    verdict = await bench.reserve((RING, 60))
    assert (verdict.decision, verdict.degraded) == (Decision.ADMITTED, None)
    verdict = await bench.reserve((RING, 60))
    assert (verdict.decision, verdict.degraded) == (Decision.DENIED, None)


async def test_a_lost_answer_is_asked_for_once_more_and_charged_once(bench: Bench) -> None:
    bench.primary.mute = 1
    verdict = await bench.reserve((RING, 60))
    assert (verdict.decision, verdict.degraded) == (Decision.ADMITTED, None)
    assert await bench.primary.left(RING) == 40
    assert not bench.ladder.down


async def test_away_half_the_limit_is_admitted_locally(bench: Bench) -> None:
    await bench.go_away()
    commands = bench.primary.commands
    verdicts = [await bench.reserve((RING, 10)) for _ in range(10)]
    assert [verdict.decision for verdict in verdicts].count(Decision.ADMITTED) == 5
    assert {verdict.degraded for verdict in verdicts} == {"local"}
    # Nobody waits for a primary that is known to be away; probes may have asked it.
    assert all(not verdict.unsure for verdict in verdicts)
    assert bench.primary.commands <= commands + 20
    assert isinstance(bench.facts[0], StoreLost)


async def test_each_limit_has_its_own_rung(bench: Bench) -> None:
    waived = replace(RING, name="waived", on_outage=OnOutage.ALLOW)
    strict = replace(RING, name="strict", on_outage=OnOutage.DENY)
    shadow = replace(RING, name="shadow", shadow=True, on_outage=OnOutage.DENY)
    await bench.go_away()
    for _ in range(3):
        verdict = await bench.reserve((waived, 90), (shadow, 90))
        assert (verdict.decision, verdict.degraded) == (Decision.ADMITTED, "allow")
    verdict = await bench.reserve((waived, 90), (RING, 10))
    assert (verdict.decision, verdict.degraded) == (Decision.ADMITTED, "local")
    assert [line.remaining for line in verdict.lines] == [100, 40]
    with pytest.raises(StoreUntriedError, match="strict") as caught:
        await bench.reserve((waived, 1), (strict, 1))
    assert caught.value.rung == "deny"


async def test_a_share_of_nothing_denies(bench: Bench) -> None:
    await bench.go_away()
    one = replace(RING, name="one", capacity=1)
    with pytest.raises(StoreUntriedError, match="no share") as caught:
        await bench.reserve((one, 1))
    assert caught.value.rung == "local"
    assert (await bench.reserve((one, 0))).decision is Decision.ADMITTED


async def test_a_quota_s_share_is_of_what_was_last_known_to_be_left(bench: Bench) -> None:
    await bench.reserve((MONTH, 80))
    for expected in (10, 5, 2):
        await bench.go_away()
        assert (await bench.reserve((MONTH, expected + 1))).decision is Decision.DENIED
        assert (await bench.reserve((MONTH, expected))).decision is Decision.ADMITTED
        assert (await bench.reserve((MONTH, 1))).decision is Decision.DENIED
        await bench.come_back()


async def test_what_is_still_running_is_replayed_as_debt(bench: Bench) -> None:
    await bench.reserve((RING, 90), (MONTH, 90))
    await bench.go_away()
    claim = bench.claim((RING, 40), (MONTH, 5))
    verdict = await bench.ladder.reserve(claim)
    assert verdict.decision is Decision.ADMITTED
    assert (await bench.ladder.extend(_now(claim, 45, 5))).decision is Decision.ADMITTED
    await bench.come_back()
    regained = bench.facts[-1]
    # The one of this test and the one of go_away.
    assert isinstance(regained, StoreRegained)
    assert regained.replayed == 2
    assert await bench.primary.left(RING) == 0
    # The primary knows it now: growing and settling go there, and nothing is charged twice.
    await bench.ladder.settle(replace(_now(claim, 7, 3), at_ms=verdict.at_ms))
    assert await bench.primary.left(RING) == 3
    assert await bench.primary.left(MONTH) == 7


class SlowLocal(MemoryStore):
    """Settles one claim when it is let."""

    def __init__(self, slow: str) -> None:
        super().__init__(wall_clock_ms)
        self.slow = slow
        self.asked, self.let = asyncio.Event(), asyncio.Event()

    async def settle(self, claim: Claim) -> None:
        if claim.id == self.slow:
            self.asked.set()
            await self.let.wait()
        await super().settle(claim)


async def test_one_may_be_settled_while_another_goes_over_to_the_primary(bench: Bench) -> None:
    local = SlowLocal("first")
    ladder = Ladder(bench.primary, local=local, outage=Outage(quiet_s=60.0, probe_every_s=0.01))
    first, second = (bench.claim((STREAMS, 1), name=name) for name in ("first", "second"))
    bench.primary.away = True
    for claim in (first, second):
        assert (await ladder.reserve(claim)).degraded == "local"
    assert not ladder.down
    bench.primary.away = False
    async with asyncio.timeout(10):
        await local.asked.wait()
    await ladder.settle(second)
    local.let.set()
    watcher = ladder._watcher
    assert watcher is not None
    async with asyncio.timeout(10):
        await watcher
    assert await bench.primary.left(STREAMS) == 3
    await ladder.close()


async def test_what_runs_at_once_is_shared_out_and_then_counted_by_the_primary(
    bench: Bench,
) -> None:
    await bench.reserve((STREAMS, 1))
    await bench.go_away()
    taken = [await bench.reserve((STREAMS, 1)) for _ in range(3)]
    decisions = [Decision.ADMITTED, Decision.ADMITTED, Decision.DENIED]
    assert [verdict.decision for verdict in taken] == decisions, "half of four for one replica"
    assert {verdict.degraded for verdict in taken} == {"local"}
    await bench.come_back()
    assert await bench.primary.left(STREAMS) == 1
    assert (await bench.reserve((STREAMS, 1))).decision is Decision.ADMITTED
    assert (await bench.reserve((STREAMS, 1))).decision is Decision.DENIED
    # The next outage doesn't count those twice that the primary has taken over.
    await bench.go_away()
    assert (await bench.reserve((STREAMS, 1))).decision is Decision.ADMITTED


async def test_who_asks_one_after_the_other_finds_a_place_while_it_is_away_too(
    bench: Bench,
) -> None:
    """Though settlements of many others wait for its return, and are tried but now and then."""
    limiter = StoreLimiter(bench.ladder, Policy((Rule(limits=(replace(STREAMS, capacity=2),)),)))
    await bench.go_away()
    for number in range(200):
        user = "ada" if number % 2 else f"other{number}"
        subject = Subject(user, "/v1/chat/completions", "chat", "gpt-4o")
        request = ReserveRequest(f"y{number}", subject, Quantities(1, 0, 0))
        await limiter.settle(await limiter.reserve(request), Quantities(1, 0, 0))
    assert limiter.pending_settlements == 200
    await bench.come_back()
    async with asyncio.timeout(30):
        await limiter.flush()
    await limiter.close()


async def test_what_has_ended_meanwhile_is_settled_as_debt_later(bench: Bench) -> None:
    await bench.go_away()
    claim = bench.claim((RING, 40))
    verdict = await bench.ladder.reserve(claim)
    bench.settler.submit(replace(_now(claim, 25), at_ms=verdict.at_ms))
    # At once here, so that others can use what was handed back.
    await until(lambda: bench.ladder._open["user", claim.id].final is not None)
    assert (await bench.reserve((RING, 25))).decision is Decision.ADMITTED
    assert (await bench.reserve((RING, 1))).decision is Decision.DENIED
    assert bench.settler.pending == 1
    await bench.come_back()
    async with asyncio.timeout(10):
        await bench.settler.flush()
    assert await bench.primary.left(RING) == 100 - 25 - 25


async def test_a_claim_whose_answer_was_lost_twice_is_settled_where_it_was_taken(
    bench: Bench,
) -> None:
    bench.primary.mute = 2
    claim = bench.claim((RING, 40))
    verdict = await bench.ladder.reserve(claim)
    assert (verdict.decision, verdict.degraded, verdict.unsure) == (
        Decision.ADMITTED,
        "local",
        True,
    )
    assert await bench.primary.left(RING) == 60
    await bench.ladder.settle(replace(_now(claim, 30), at_ms=verdict.at_ms))
    assert await bench.primary.left(RING) == 70


async def test_a_lost_answer_stays_in_doubt_when_the_repetition_is_not_tried(
    bench: Bench,
) -> None:
    strict = replace(RING, on_outage=OnOutage.DENY)
    claim = bench.claim((strict, 40))
    for ask in (bench.ladder.reserve, bench.ladder.extend, bench.ladder.settle):
        bench.primary.mute, bench.primary.turns = 1, 1
        with pytest.raises(StoreError) as caught:
            await ask(claim)
        assert not isinstance(caught.value, StoreUntriedError)
        bench.primary.turns = None
    bench.primary.turns = 0
    with pytest.raises(StoreUntriedError):
        await bench.ladder.reserve(bench.claim((strict, 1)))


@pytest.mark.parametrize("rung", [OnOutage.DENY, OnOutage.LOCAL])
async def test_what_a_lost_answer_took_is_handed_back(bench: Bench, rung: OnOutage) -> None:
    # `local`: more than this replica's share, so that it is refused here as well.
    limit = replace(RING, on_outage=rung)
    limiter = StoreLimiter(bench.ladder, Policy((Rule(limits=(limit,)),)))
    subject = Subject("user", "/v1/chat/completions", "chat", "gpt-4o")
    bench.primary.mute, bench.primary.turns = 1, 1
    with pytest.raises((Unavailable, LimitExceeded)):
        await limiter.reserve(ReserveRequest("x", subject, Quantities(1, 60, 0)))
    assert 40 in {state.room() for state in bench.primary.snapshot().values()}, "it was taken"
    bench.primary.turns = None
    async with asyncio.timeout(10):
        await limiter.flush()
    (state,) = bench.primary.snapshot().values()
    assert state.room() == 100
    await limiter.close(timeout_s=0.0)


async def test_an_attempt_that_arrives_after_the_refusal_takes_nothing(bench: Bench) -> None:
    # In a cluster, or over a new connection, the repetition may overtake the first attempt.
    primary = bench.primary
    limiter = StoreLimiter(bench.ladder, Policy((Rule(limits=(RING,)),)))
    subject = Subject("user", "/v1/chat/completions", "chat", "gpt-4o")
    other = await limiter.reserve(ReserveRequest("other", subject, Quantities(1, 60, 0)))
    late: list[Claim] = []

    async def delayed(claim: Claim) -> Verdict:
        late.append(claim)
        del primary.reserve
        raise StoreError("no answer")

    primary.reserve = delayed  # type: ignore[method-assign]
    with pytest.raises(LimitExceeded):
        await limiter.reserve(ReserveRequest("x", subject, Quantities(1, 60, 0)))
    await limiter.settle(other, Quantities(1, 0, 0))
    async with asyncio.timeout(10):
        await limiter.flush()
    await primary.reserve(late[0])
    (state,) = primary.snapshot().values()
    assert state.room() == 100, "nobody would ever settle it"
    await limiter.close(timeout_s=0.0)


async def test_with_little_traffic_one_failure_and_a_probe_are_enough(bench: Bench) -> None:
    bench.primary.away = True
    assert (await bench.reserve((RING, 1))).degraded == "local"
    await until(lambda: bench.ladder.down)


async def test_starting_without_a_store_is_noticed_at_once(bench: Bench) -> None:
    bench.primary.away = True
    await bench.ladder.start()
    await until(lambda: bench.ladder.down)
    await bench.come_back()


async def test_a_store_that_answers_now_and_then_is_not_away(bench: Bench) -> None:
    outage = Outage(quiet_s=60.0, probe_every_s=0.01)
    ladder = Ladder(bench.primary, outage=outage)
    assert (await ladder.reserve(bench.claim((RING, 1)))).degraded is None
    bench.primary.mute = 20
    for _ in range(10):
        assert (await ladder.reserve(bench.claim((RING, 1)))).decision is Decision.ADMITTED
    assert not ladder.down
    await ladder.close()


async def test_away_extending_and_settling_say_so_without_trying(bench: Bench) -> None:
    claim = bench.claim((RING, 10))
    await bench.ladder.reserve(claim)
    await bench.go_away()
    with pytest.raises(StoreUntriedError):
        await bench.ladder.extend(_now(claim, 20))
    with pytest.raises(StoreUntriedError):
        await bench.ladder.settle(_now(claim, 20))
    with pytest.raises(StoreError):
        await bench.ladder.ping()


async def test_memory_is_bounded_while_the_store_is_away(bench: Bench) -> None:
    ladder = Ladder(bench.primary, outage=Outage(quiet_s=0.0, probe_every_s=0.01), max_open=3)
    bench.primary.away = True
    for number in range(3):
        await ladder.reserve(bench.claim((RING, 1), name=f"bounded-{number}"))
    with pytest.raises(StoreError, match="too many"):
        await ladder.reserve(bench.claim((RING, 1)))
    await ladder.close()


async def test_a_credential_can_t_be_checked_while_away_and_that_is_told(bench: Bench) -> None:
    await bench.go_away()
    claim = replace(bench.claim(), epochs=(Epoch("user", 0),))
    verdict = await bench.ladder.reserve(claim)
    assert (verdict.decision, verdict.degraded) == (Decision.ADMITTED, "local")


def _now(claim: Claim, *amounts: int) -> Claim:
    lines = zip(claim.lines, amounts, strict=True)
    return replace(claim, lines=tuple(replace(line, amount=n) for line, n in lines))
