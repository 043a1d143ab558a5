"""A rate with a burst.

The level counts in 1/period, so that a millisecond adds exactly ``rate`` and nothing is divided. It
may be negative: debt from settlement, paid back by refilling.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST = -(2**52)
"""Debt stops here, far from where Redis' numbers lose exactness."""


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


@dataclass(slots=True)
class Bucket:
    """Attributes: ``full`` and ``level`` in 1/period; ``at`` is when the level was right, ms."""

    full: int
    rate: int
    period: int
    now: int
    level: int
    at: int

    @classmethod
    def opened(cls, old: Bucket | None, burst: int, rate: int, period: int, now: int) -> Bucket:
        """The state at ``now`` under this definition, which may differ from the old one."""
        full = burst * period
        if old is None:
            return cls(full, rate, period, now, full, now)
        level, at = old.level, old.at
        if old.period != period:
            level = level // old.period * period
        level = min(level, full)
        if at <= now:
            level, at = min(full, level + (now - at) * rate), now
        elif (at - now) * rate > full:
            # The clock was set back by more than a whole refill: start from here, without a gift.
            at = now
        return cls(full, rate, period, now, level, at)

    def room(self) -> int:
        """See ``State.room``."""
        return self.level // self.period

    def lacking(self, hold: object, target: int) -> int:
        """See ``State.lacking``."""
        return target - _held(hold)

    def take(self, hold: object | None, amount: int) -> object:
        """See ``State.take``; a hold is the amount taken."""
        self.level = max(LEAST, self.level - amount * self.period)
        return amount if hold is None else _held(hold) + amount

    def settle(self, hold: object, actual: int) -> None:
        """See ``State.settle``."""
        level = self.level + (_held(hold) - actual) * self.period
        self.level = max(LEAST, min(self.full, level))

    def charge(self, actual: int, at_ms: int) -> None:
        """See ``State.charge``: use older than a whole refill has been paid back already."""
        if (self.now - at_ms) * self.rate < self.full:
            self.take(None, actual)

    def reset_ms(self) -> int:
        """See ``State.reset_ms``."""
        return self.at - self.now + _ceil(self.full - self.level, self.rate)

    def wait_ms(self, amount: int) -> int:
        """See ``State.wait_ms``."""
        wanted = min(amount * self.period, self.full)
        return max(1, self.at - self.now + _ceil(wanted - self.level, self.rate))

    def expires_ms(self) -> int:
        """See ``State.expires_ms``: when it is full."""
        return self.now + self.reset_ms() + 1000


def _held(hold: object) -> int:
    assert isinstance(hold, int)  # noqa: S101
    return hold
