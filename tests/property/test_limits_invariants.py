"""What each kind promises, whatever happens in whatever order: random histories, a fake clock.

The in-process store is driven here; ``tests/redis/test_limits_differential.py`` holds the Redis
store to it step by step.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec.structs import replace

from sentinel_extproc.limits.limit import Kind, Limit, Period
from sentinel_extproc.limits.model import Unit
from sentinel_extproc.limits.store import Claim, Decision, Line, Verdict
from sentinel_extproc.limits.store.memory import MemoryStore

START = round(datetime(2028, 2, 27, 23, 58, tzinfo=UTC).timestamp() * 1000)  # a leap year's Sunday
LIMIT = 50

amounts = st.integers(min_value=0, max_value=LIMIT + 5)
windows = st.sampled_from([100, 999, 1_000, 60_000, 3_600_000])


@dataclass
class Charge:
    """What one exchange took, as the test sees it: net of what was handed back."""

    claim: Claim
    at_ms: int
    net: int
    settled: bool = False


class History(RuleBasedStateMachine):
    """Random reserves, settlements, replays and pauses on one limit of one user."""

    limit: Limit
    pauses: st.SearchStrategy[int]

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.runner = asyncio.Runner()
        self.store = MemoryStore(lambda: self.now, record_ttl_s=1e9, settled_ttl_s=1e9)
        self.charges: list[Charge] = []
        self.handed_back: list[tuple[int, int]] = []
        self.serial = 0

    def teardown(self) -> None:
        self.runner.close()

    def claim(self, amount: int) -> Claim:
        self.serial += 1
        return Claim(f"x{self.serial}", "owner", (Line(self.limit, "only", amount),))

    def ask(self, claim: Claim) -> Verdict:
        return self.runner.run(self.store.reserve(claim))

    def left(self) -> Verdict:
        """The limit as it stands, asked without taking anything."""
        return self.ask(self.claim(0))

    @rule(amount=amounts)
    def reserve(self, amount: int) -> None:
        before = self.store.snapshot()
        claim = self.claim(amount)
        verdict = self.ask(claim)
        if verdict.decision is Decision.ADMITTED:
            self.charges.append(Charge(replace(claim, at_ms=verdict.at_ms), self.now, amount))
            self.admitted()
        else:
            assert self.store.snapshot() == before, "a denial changed something"
            assert verdict.lines[0].remaining < amount

    @precondition(lambda self: self.charges)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        charge = data.draw(st.sampled_from(self.charges))
        before = self.store.snapshot()
        verdict = self.ask(charge.claim)
        assert verdict.decision is (Decision.OVER if charge.settled else Decision.ADMITTED)
        assert self.store.snapshot() == before

    @precondition(lambda self: self.charges)
    @rule(data=st.data(), times=st.integers(min_value=1, max_value=3))
    def settle_to_less(self, data: st.DataObject, times: int) -> None:
        charge = data.draw(st.sampled_from(self.charges))
        actual = data.draw(st.integers(min_value=0, max_value=charge.claim.lines[0].amount))
        self.settle(charge, actual, times)

    def settle(self, charge: Charge, actual: int, times: int) -> None:
        lines = (replace(charge.claim.lines[0], amount=actual),)
        claim = replace(charge.claim, lines=lines)
        self.runner.run(self.store.settle(claim))
        once = self.store.snapshot()
        for _ in range(times - 1):
            self.runner.run(self.store.settle(claim))
            assert self.store.snapshot() == once, "settling again changed something"
        if not charge.settled:
            self.handed_back.append((len(self.charges), charge.net - actual))
            charge.net, charge.settled = actual, True

    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        before = self.left()
        self.now += data.draw(self.pauses)
        after = self.left()
        # Without new charges the moment when all is whole stays where it was.
        if after.lines[0].reset_ms > 0 and before.lines[0].reset_ms > 0:
            assert self.reset_moved_as_allowed(before, after)

    def reset_moved_as_allowed(self, before: Verdict, after: Verdict) -> bool:
        return after.at_ms + after.lines[0].reset_ms == before.at_ms + before.lines[0].reset_ms

    @rule()
    def wait_until_whole(self) -> None:
        reset_ms = self.left().lines[0].reset_ms
        self.now += max(reset_ms, 0)
        assert self.left().lines[0].remaining == self.limit.room

    @rule(amount=st.integers(min_value=1, max_value=LIMIT))
    def wait_until_it_fits(self, amount: int) -> None:
        claim = self.claim(min(amount, self.limit.room))
        verdict = self.ask(claim)
        if verdict.decision is Decision.DENIED:
            self.now += verdict.lines[0].wait_ms - 1
            assert self.ask(claim).decision is Decision.DENIED
            self.now += 1
            verdict = self.ask(claim)
        assert verdict.decision is Decision.ADMITTED
        taken = claim.lines[0].amount
        self.charges.append(Charge(replace(claim, at_ms=self.now), self.now, taken))
        self.admitted()

    def admitted(self) -> None:
        """Check the promise of the kind, after something was admitted."""
        raise NotImplementedError


class BucketHistory(History):
    """admitted − refunded ≤ burst + rate × any interval."""

    @initialize(window=windows, burst=st.integers(min_value=1, max_value=LIMIT))
    def define(self, window: int, burst: int) -> None:
        self.limit = Limit(
            name="b",
            unit=Unit.TOTAL,
            kind=Kind.BUCKET,
            capacity=LIMIT,
            burst=burst,
            period_ms=window,
        )
        self.pauses = st.integers(min_value=0, max_value=window * 2)

    def admitted(self) -> None:
        total = 0
        for index in reversed(range(len(self.charges))):
            charge = self.charges[index]
            total += charge.claim.lines[0].amount
            total -= sum(back for after, back in self.handed_back if after == index + 1)
            interval = self.now - charge.at_ms
            allowed = self.limit.room * self.limit.period_ms + LIMIT * interval
            assert total * self.limit.period_ms <= allowed


class RingHistory(History):
    """Never more than the limit in any closed window."""

    @initialize(window=windows)
    def define(self, window: int) -> None:
        self.limit = Limit(
            name="r", unit=Unit.TOTAL, kind=Kind.RING, capacity=LIMIT, period_ms=window
        )
        edges = st.sampled_from([window, window - 1, window + 1, window // 60, window // 2])
        self.pauses = st.one_of(edges, st.integers(min_value=0, max_value=window * 2))

    def admitted(self) -> None:
        since = self.now - self.limit.period_ms
        assert sum(charge.net for charge in self.charges if charge.at_ms >= since) <= LIMIT


class CalendarHistory(History):
    """Admitted exactly when use of this window plus what is in flight leaves room."""

    def __init__(self) -> None:
        super().__init__()
        self.crashed: set[str] = set()

    @initialize(period=st.sampled_from(list(Period)))
    def define(self, period: Period) -> None:
        self.limit = Limit(
            name="c", unit=Unit.TOTAL, kind=Kind.CALENDAR, capacity=LIMIT, period=period
        )
        second, day = 1_000, 86_400_000
        self.pauses = st.one_of(
            st.integers(min_value=0, max_value=120 * second),
            st.sampled_from([day, 7 * day, 29 * day, 31 * day, 366 * day]),
        )

    def window_start(self, at_ms: int) -> datetime:
        """By the standard library, independently of the code's own arithmetic."""
        at = datetime.fromtimestamp(at_ms / 1000, tz=UTC)
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        match self.limit.period:
            case Period.DAY:
                return midnight
            case Period.WEEK:
                return midnight - timedelta(days=midnight.weekday())
            case Period.MONTH:
                return midnight.replace(day=1)
        return datetime(1970, 1, 1, tzinfo=UTC)

    def taken(self) -> int:
        """Settled use, and holds whose lease still runs, of this window."""
        start = self.window_start(self.now)
        return sum(
            charge.net
            for charge in self.charges
            if self.window_start(charge.at_ms) == start
            and (charge.settled or (charge.at_ms + 60_000) // 5_000 * 5_000 > self.now)
        )

    @invariant()
    def remaining_is_exact(self) -> None:
        if hasattr(self, "limit"):
            assert self.left().lines[0].remaining == max(0, LIMIT - self.taken())

    def admitted(self) -> None:
        # A hold whose lease ran out came back as use when it was settled: only that may exceed.
        late = any(charge.settled for charge in self.charges)
        assert late or self.taken() <= LIMIT

    def reset_moved_as_allowed(self, before: Verdict, after: Verdict) -> bool:
        same_window = self.window_start(before.at_ms) == self.window_start(after.at_ms)
        return not same_window or super().reset_moved_as_allowed(before, after)

    @precondition(lambda self: self.limit.period is not Period.LIFETIME)
    @rule(amount=st.integers(min_value=1, max_value=LIMIT))
    def wait_until_it_fits(self, amount: int) -> None:
        super().wait_until_it_fits(amount)

    @rule()
    def wait_until_whole(self) -> None:
        reset_ms = self.left().lines[0].reset_ms
        if reset_ms >= 0:
            self.now += reset_ms
            assert self.left().lines[0].remaining == LIMIT


@dataclass
class Running:
    """One exchange under way; its place is its own until its lease runs out."""

    claim: Claim
    renewed_ms: int


class ConcurrencyHistory(RuleBasedStateMachine):
    """Who is admitted leaves no more running than may; what runs is counted, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.runner = asyncio.Runner()
        self.store = MemoryStore(lambda: self.now, record_ttl_s=1e9, settled_ttl_s=1e9)
        self.running: list[Running] = []
        self.over: list[Claim] = []
        self.limit = self.a_limit(1)
        self.serial = 0

    def a_limit(self, capacity: int) -> Limit:
        return Limit(name="n", unit=Unit.REQUESTS, kind=Kind.CONCURRENCY, capacity=capacity)

    def teardown(self) -> None:
        self.runner.close()

    def claim(self, amount: int) -> Claim:
        self.serial += 1
        return Claim(f"x{self.serial}", "owner", (Line(self.limit, "n", amount),))

    def counted(self) -> int:
        return sum((one.renewed_ms + 60_000) // 5_000 * 5_000 > self.now for one in self.running)

    @initialize(capacity=st.integers(min_value=0, max_value=6))
    def define(self, capacity: int) -> None:
        self.limit = self.a_limit(capacity)

    @rule(capacity=st.integers(min_value=0, max_value=6))
    def redefine(self, capacity: int) -> None:
        self.limit = self.a_limit(capacity)

    @rule()
    def reserve(self) -> None:
        before, counted = self.store.snapshot(), self.counted()
        claim = self.claim(1)
        verdict = self.runner.run(self.store.reserve(claim))
        assert (verdict.decision is Decision.ADMITTED) is (counted < self.limit.capacity)
        if verdict.decision is Decision.ADMITTED:
            self.running.append(Running(claim, self.now))
            assert self.counted() <= self.limit.capacity
        else:
            assert self.store.snapshot() == before, "a denial changed something"
            wait_ms = verdict.lines[0].wait_ms
            assert wait_ms == -1 if self.limit.capacity == 0 else 1_000 <= wait_ms <= 60_000

    @precondition(lambda self: self.running)
    @rule(data=st.data(), total=st.integers(min_value=0, max_value=9))
    def renew(self, data: st.DataObject, total: int) -> None:
        one = data.draw(st.sampled_from(self.running))
        claim = replace(one.claim, lines=(replace(one.claim.lines[0], amount=total),))
        assert self.runner.run(self.store.extend(claim)).decision is Decision.ADMITTED
        one.renewed_ms = self.now

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        before = self.store.snapshot()
        one = data.draw(st.sampled_from(self.running))
        verdict = self.runner.run(self.store.reserve(one.claim))
        assert verdict.decision is Decision.ADMITTED
        assert self.store.snapshot() == before

    @precondition(lambda self: self.running or self.over)
    @rule(data=st.data(), actual=st.integers(min_value=0, max_value=1))
    def settle(self, data: st.DataObject, actual: int) -> None:
        claim = data.draw(st.sampled_from([*(one.claim for one in self.running), *self.over]))
        line = replace(claim.lines[0], amount=actual)
        self.runner.run(self.store.settle(replace(claim, lines=(line,))))
        self.running = [one for one in self.running if one.claim is not claim]
        self.over.append(claim)

    @rule(ms=st.integers(min_value=0, max_value=90_000))
    def pause(self, ms: int) -> None:
        self.now += ms

    @invariant()
    def what_remains_is_exact(self) -> None:
        verdict = self.runner.run(self.store.reserve(self.claim(0)))
        assert verdict.lines[0].remaining == max(0, self.limit.capacity - self.counted())


_settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

TestBucket = BucketHistory.TestCase
TestBucket.settings = _settings
TestRing = RingHistory.TestCase
TestRing.settings = _settings
TestCalendar = CalendarHistory.TestCase
TestCalendar.settings = _settings
TestConcurrency = ConcurrencyHistory.TestCase
TestConcurrency.settings = _settings
