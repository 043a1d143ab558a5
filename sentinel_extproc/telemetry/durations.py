"""Histograms of durations that cost a fifth of the library's to count; each exchange counts seven.

The library locks and adds up per value; facts come one at a time, so nothing need be locked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from sentinel_extproc.telemetry.counting import bound_names, up_to


class Durations(Collector):
    """One histogram with one label.

    Args:
        label: its name.
        values: all that it can be.
        bounds_s: of the buckets, seconds, rising; one for all that is longer is added.
    """

    def __init__(
        self, name: str, text: str, *, label: str, values: Iterable[str], bounds_s: Sequence[float]
    ) -> None:
        self.name, self.text, self.label = name, text, label
        self._bounds = [round(bound * 1e9) for bound in bounds_s]
        self._names = bound_names(bounds_s)
        self._counts = {value: [0] * len(self._names) for value in values}
        self._sums_ns = dict.fromkeys(self._counts, 0)

    def add(self, value: str, nanoseconds: int) -> None:
        """Count one."""
        self.add_all(value, (nanoseconds,))

    def add_all(self, value: str, nanoseconds: Sequence[int]) -> None:
        """Count some."""
        counts = self._counts[value]
        for place in map(bisect_left, repeat(self._bounds), nanoseconds):
            counts[place] += 1
        self._sums_ns[value] += sum(nanoseconds)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """See ``Collector``."""
        family = HistogramMetricFamily(self.name, self.text, labels=(self.label,))
        for value, counts in self._counts.items():
            # The sum first: what is counted meanwhile is then in the buckets alone, and small.
            total = self._sums_ns[value] / 1e9
            family.add_metric([value], up_to(self._names, counts), total)
        yield family

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """See ``Collector``: so that a name used twice is noticed."""
        yield HistogramMetricFamily(self.name, self.text, labels=(self.label,))
