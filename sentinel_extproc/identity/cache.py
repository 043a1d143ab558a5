"""Bounded maps, and the periods through which a cached answer passes. Pure: time is an argument.

    FRESH ──▶ STALE ──▶ LAST_RESORT ──▶ GONE
    use it    use it,    ask first,      forget it
              ask again  use it if
              behind     nobody answers

Every ``now`` is in seconds of one monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Freshness(Enum):
    """How far an entry may be used."""

    FRESH = auto()
    STALE = auto()
    LAST_RESORT = auto()
    GONE = auto()


@dataclass(frozen=True, slots=True)
class Periods:
    """How long an answer is good for, counted from when it was given.

    Attributes:
        fresh_s: at most; the actual period is drawn between half of it and all of it, so that
            entries made together aren't checked again together.
        stale_s: while it is checked again behind the request.
        on_error_s: while the source fails.
    """

    fresh_s: float = 60.0
    stale_s: float = 300.0
    on_error_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class Entry(Generic[V]):
    """A value and the ends of its periods."""

    value: V
    fresh_until: float
    stale_until: float
    gone_at: float

    def freshness(self, now: float) -> Freshness:
        """The period that ``now`` falls in; each ends where the next begins."""
        if now >= self.gone_at:
            return Freshness.GONE
        if now < self.fresh_until:
            return Freshness.FRESH
        if now < self.stale_until:
            return Freshness.STALE
        return Freshness.LAST_RESORT


def entry(
    value: V, periods: Periods, *, now: float, jitter: float, expires_at: float | None = None
) -> Entry[V]:
    """An entry made at ``now``.

    Args:
        jitter: 0 to 1, drawn at random.
        expires_at: no period reaches beyond it.
    """
    fresh_until = now + periods.fresh_s * (0.5 + 0.5 * jitter)
    stale_until = max(fresh_until, now + periods.stale_s)
    gone_at = max(stale_until, now + periods.on_error_s)
    if expires_at is not None:
        gone_at = min(gone_at, expires_at)
    return Entry(value, fresh_until, stale_until, gone_at)


class LruMap(Generic[K, V]):
    """A map of at most ``max_entries``; the one used longest ago makes room."""

    def __init__(self, max_entries: int) -> None:
        if max_entries < 1:
            raise ValueError("a cache needs room for at least one entry")
        self._max_entries = max_entries
        self._entries: OrderedDict[K, V] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """The value under ``key``, which counts as a use."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Store ``value``, replacing what was there."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
            self.evicted += 1

    def remove(self, key: K) -> None:
        """Forget ``key`` if it is there."""
        self._entries.pop(key, None)

    def remove_where(self, matches: Callable[[V], bool]) -> int:
        """Forget every value that ``matches``; how many those were. Looks at all entries."""
        keys = [key for key, value in self._entries.items() if matches(value)]
        for key in keys:
            del self._entries[key]
        return len(keys)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
