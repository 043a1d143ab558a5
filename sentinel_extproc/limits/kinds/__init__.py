"""The kinds of limit as pure state, integers only, time in ms as an argument.

They are the reference for ``scripts/*.lua``: same states, same arithmetic, one conformance suite.
"""

from __future__ import annotations

from typing import Protocol

from ..limit import Kind
from ..store import Line, Seed
from .bucket import Bucket
from .calendar import Calendar
from .concurrency import Concurrency
from .ring import Ring


class Hold(Protocol):
    """What one exchange was given by one limit; each kind has its own."""


class State(Protocol):
    """A limit's count, brought up to now. Methods change it in place."""

    def room(self) -> int:
        """What can still be taken; negative in debt."""
        ...

    def lacking(self, hold: object, target: int) -> int:
        """What must be taken for ``hold`` to be ``target``."""
        ...

    def take(self, hold: object | None, amount: int) -> object:
        """Take ``amount`` more, whether or not it fits; returns the new hold."""
        ...

    def settle(self, hold: object, actual: int) -> None:
        """Replace a hold by what was used."""
        ...

    def charge(self, actual: int, at_ms: int) -> None:
        """Take what was used at ``at_ms`` without a hold."""
        ...

    def reset_ms(self) -> int:
        """Until the limit is whole, -1 when it never will be or nobody knows."""
        ...

    def wait_ms(self, amount: int) -> int:
        """Until ``amount`` fits, or the state is whole; -1 when never."""
        ...

    def expires_ms(self) -> int:
        """When a missing state means the same as this one."""
        ...


def opened(line: Line, old: State | None, now_ms: int) -> State:
    """A copy of ``old``, or a new state, as it stands at ``now_ms``."""
    limit, seed = line.limit, line.seed
    match limit.kind:
        case Kind.BUCKET:
            bucket = old if isinstance(old, Bucket) else None
            return Bucket.opened(bucket, limit.room, limit.capacity, limit.period_ms, now_ms)
        case Kind.RING:
            ring = old if isinstance(old, Ring) else None
            return Ring.opened(ring, limit.capacity, limit.period_ms, now_ms)
        case Kind.CALENDAR:
            calendar = old if isinstance(old, Calendar) else None
            used, seen_ms = (None, 0) if seed is None else (seed.used, seed.seen_ms)
            return Calendar.opened(calendar, limit.capacity, limit.period, now_ms, used, seen_ms)
        case Kind.CONCURRENCY:
            concurrency = old if isinstance(old, Concurrency) else None
            return Concurrency.opened(concurrency, limit.capacity, now_ms)
    raise AssertionError(limit.kind)


__all__ = ["Bucket", "Calendar", "Concurrency", "Ring", "Seed", "State", "opened"]
