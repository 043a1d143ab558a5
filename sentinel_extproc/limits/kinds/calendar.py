"""A quota per UTC day, week from Monday, month, or lifetime, with leased holds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..limit import Period
from .leases import LEASE_MS, LEASE_SLOT_MS, Leases, live, move, new_lease, running

DAY_MS = 86_400_000
CORRECTION_MS = 60_000
KEEP_MS = 100 * DAY_MS
NEVER_MS = 2**62

CalendarHold = tuple[int, int, int]
"""Window, lease slot, amount."""


def month_of(days: int) -> int:
    """Days since 1970-01-01 to a running month number, year × 12 + month from 0.

    Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days. Written out rather than
    left to ``datetime`` so that it is the script's arithmetic, line by line.
    """
    era, doe = divmod(days + 719_468, 146_097)
    yoe = (doe - doe // 1_460 + doe // 36_524 - doe // 146_096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    return (yoe + era * 400) * 12 + (5 * doy + 2) // 153 + 2


def first_day(month: int) -> int:
    """The first day of a running month number, in days since 1970-01-01 (days_from_civil)."""
    year, since_march = divmod(month - 2, 12)
    era, yoe = divmod(year, 400)
    doe = yoe * 365 + yoe // 4 - yoe // 100 + (153 * since_march + 2) // 5
    return era * 146_097 + doe - 719_468


def window_of(period: Period, at_ms: int) -> int:
    """The number of the window that contains ``at_ms``."""
    days = at_ms // DAY_MS
    match period:
        case Period.DAY:
            return days
        case Period.WEEK:
            return (days + 3) // 7  # 1970-01-01 was a Thursday
        case Period.MONTH:
            return month_of(days)
    return 0


def window_end_ms(period: Period, window: int) -> int | None:
    """When a window ends, ms since the epoch; None when it never does."""
    match period:
        case Period.DAY:
            return (window + 1) * DAY_MS
        case Period.WEEK:
            return ((window + 1) * 7 - 3) * DAY_MS
        case Period.MONTH:
            return first_day(window + 1) * DAY_MS
    return None


@dataclass(slots=True)
class Calendar:
    """Attributes: ``used`` is settled; ``elsewhere`` is what another authority said at ``seen``."""

    capacity: int
    period: Period
    now: int
    window: int
    used: int = 0
    elsewhere: int = 0
    seen: int = 0
    leases: Leases = field(default_factory=dict)

    @classmethod
    def opened(
        cls,
        old: Calendar | None,
        capacity: int,
        period: Period,
        now: int,
        used: int | None,
        seen_ms: int,
    ) -> Calendar:
        """The state at ``now`` under this definition, which may differ from the old one."""
        window = window_of(period, now)
        new = cls(capacity, period, now, window)
        if old is None:
            pass
        elif old.period is not period or old.window - window > 1:
            # Another period, or the clock was set back by more than one: keep what was used.
            new.used = old.used
        elif old.window >= window:
            leases = running(old.leases, now)
            new = replace(old, capacity=capacity, now=now, leases=leases)
        if used is not None:
            new.learn(used, seen_ms)
        return new

    def learn(self, used: int, seen_ms: int) -> None:
        """Take over what another authority reports as used in this window.

        Its number lags behind ours, so it only ever raises ours, unless it falls and stays below
        its own earlier number for longer than clocks and caches differ: then somebody corrected
        it, and ours follows by the difference.
        """
        if seen_ms <= self.seen or window_of(self.period, seen_ms) != self.window:
            return
        if self.seen > 0 and used < self.elsewhere:
            if seen_ms - self.seen < CORRECTION_MS:
                return
            self.used = max(0, self.used - (self.elsewhere - used))
        self.used = max(self.used, used)
        self.elsewhere, self.seen = used, seen_ms

    def room(self) -> int:
        """See ``State.room``."""
        return self.capacity - self.used - sum(self.leases.values())

    def lacking(self, hold: object, target: int) -> int:
        """See ``State.lacking``: a hold of a window that is over grows no more; one whose lease ran
        out has to be taken again whole."""
        window, lease, amount = _hold(hold)
        if window != self.window:
            return 0
        return target - (amount if live(lease, self.now) else 0)

    def take(self, hold: object | None, amount: int) -> CalendarHold:
        """See ``State.take``; also moves an older hold to a new lease."""
        lease = new_lease(self.now)
        kept = 0
        if hold is not None:
            window, old_lease, held = _hold(hold)
            if window != self.window:
                return window, old_lease, held
            if live(old_lease, self.now):
                kept = held
                move(self.leases, old_lease, -kept)
        move(self.leases, lease, kept + amount)
        return self.window, lease, kept + amount

    def settle(self, hold: object, actual: int) -> None:
        """See ``State.settle``: adjusts the stamped window only."""
        window, lease, held = _hold(hold)
        if window != self.window:
            return
        if live(lease, self.now):
            move(self.leases, lease, -held)
        self.used += actual

    def charge(self, actual: int, at_ms: int) -> None:
        """See ``State.charge``: use of another window charges nothing."""
        if window_of(self.period, at_ms) == self.window:
            self.used += actual

    def reset_ms(self) -> int:
        """See ``State.reset_ms``."""
        if self.used <= 0 and not self.leases:
            return 0
        end = window_end_ms(self.period, self.window)
        return -1 if end is None else end - self.now

    def wait_ms(self, amount: int) -> int:
        """See ``State.wait_ms``: room may come from leases that run out before the window ends."""
        room, end = self.room(), window_end_ms(self.period, self.window)
        for lease, held in sorted(self.leases.items()):
            room += held
            if room >= amount:
                free = lease * LEASE_SLOT_MS
                return max(1, (free if end is None else min(free, end)) - self.now)
        return -1 if end is None else max(1, end - self.now)

    def expires_ms(self) -> int:
        """See ``State.expires_ms``: our own lifetime quotas never do, nobody else knows them."""
        end = window_end_ms(self.period, self.window)
        if end is not None:
            return end + LEASE_MS
        return self.now + KEEP_MS if self.seen > 0 else NEVER_MS


def _hold(hold: object) -> CalendarHold:
    assert isinstance(hold, tuple)  # noqa: S101
    return hold
