"""Histograms of durations that cost a fifth of the library's to count; each exchange counts seven.

The library locks and adds up per value; facts come one at a time, so nothing need be locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sentinel_extproc.telemetry.counting import Histogram

_NS_PER_S = 1_000_000_000


class Durations(Histogram):
    """One histogram with one label.

    Args:
        label: its name.
        values: all that it can be.
        bounds_s: of the buckets, seconds, rising; one for all that is longer is added.
    """

    def __init__(
        self, name: str, text: str, *, label: str, values: Iterable[str], bounds_s: Sequence[float]
    ) -> None:
        super().__init__(name, text, (label,), bounds_s, per=_NS_PER_S)
        for value in values:
            self._begin((value,))

    def add(self, value: str, nanoseconds: int) -> None:
        """Count one."""
        self.add_all(value, (nanoseconds,))

    def add_all(self, value: str, nanoseconds: Sequence[int]) -> None:
        """Count some."""
        self._count((value,), nanoseconds)
