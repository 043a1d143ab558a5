"""Durations in bounded memory, in the way of HDR histograms: buckets whose width grows with the
value, so that every percentile is at most 1/128 too high, from a microsecond to an hour. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

_BITS = 8
"""Of each value that many leading bits are kept."""

RELATIVE_ERROR = 2.0 ** -(_BITS - 1)
MAX_US = 3_600_000_000
"""Longer durations count as this; `maximum_s` is exact all the same."""


class Histogram:
    """Counts durations. At most 3,200 buckets, and only those that are used take memory."""

    __slots__ = ("_buckets", "_sum_s", "count", "maximum_s")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._sum_s = 0.0
        self.count = 0
        self.maximum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one; a negative duration (a clock that was set back) is zero."""
        seconds = max(0.0, seconds)
        place = _place(min(round(seconds * 1e6), MAX_US))
        self._buckets[place] = self._buckets.get(place, 0) + 1
        self._sum_s += seconds
        self.count += 1
        self.maximum_s = max(self.maximum_s, seconds)

    def merge(self, other: Histogram) -> None:
        """Count everything that ``other`` has."""
        for place, count in other._buckets.items():
            self._buckets[place] = self._buckets.get(place, 0) + count
        self._sum_s += other._sum_s
        self.count += other.count
        self.maximum_s = max(self.maximum_s, other.maximum_s)

    def mean_s(self) -> float | None:
        """The mean, exact; None without values."""
        return self._sum_s / self.count if self.count else None

    def percentile_s(self, percent: float) -> float | None:
        """The least value that ``percent`` of all don't exceed, at most 1/128 too high; None
        without values.

        Raises:
            ValueError: not from 0 to 100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"{percent} is no percentage")
        if not self.count:
            return None
        rank, seen = max(1, math.ceil(self.count * percent / 100)), 0
        for place, count in sorted(self._buckets.items()):
            seen += count
            if seen >= rank:
                return min(_highest_us(place) / 1e6, self.maximum_s)
        return self.maximum_s

    def shares(self) -> Iterator[tuple[float, float]]:
        """Seconds, ascending, and the share of values up to there; the last share is 1."""
        seen = 0
        for place, count in sorted(self._buckets.items()):
            seen += count
            yield min(_highest_us(place) / 1e6, self.maximum_s), seen / self.count


def _place(us: int) -> int:
    shift = max(0, us.bit_length() - _BITS)
    return (shift << (_BITS - 1)) + (us >> shift)


def _highest_us(place: int) -> int:
    shift = max(0, (place >> (_BITS - 1)) - 1)
    return ((place - (shift << (_BITS - 1)) + 1) << shift) - 1
