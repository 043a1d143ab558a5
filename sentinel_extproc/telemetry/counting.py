"""Counters and histograms with labels, in plain dictionaries.

The library has an object with a lock for each series and goes through five calls to add to one; an
exchange adds to nine. Facts come one at a time, so nothing need be locked: whoever reads meanwhile
sees some of them. The labels' values are bounded, and so is what is kept here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import repeat

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Counts(Collector):
    """A counter.

    Args:
        labels: their names.
    """

    def __init__(
        self, name: str, text: str, labels: tuple[str, ...], registry: CollectorRegistry
    ) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._counts: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def add(self, count: float, *labels: str) -> None:
        """Count.

        Raises:
            ValueError: ``count`` is negative.
        """
        if count < 0:
            raise ValueError(f"{self.name} can't be counted down")
        counts = self._counts
        counts[labels] = counts.get(labels, 0) + count

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See ``Collector``."""
        (family,) = self.describe()
        for labels, count in tuple(self._counts.items()):
            family.add_metric(labels, float(count))
        yield family

    def describe(self) -> Iterator[CounterMetricFamily]:
        """See ``Collector``: so that a name used twice is noticed."""
        yield CounterMetricFamily(self.name, self.text, labels=self.labels)


class Histogram(Collector):
    """A histogram; who counts into it says of which series there are any.

    Args:
        labels: their names.
        bounds: of the buckets, rising; one for all that is greater is added.
        per: what is counted comes in so many parts of the bounds' unit, whole ones if it isn't 1.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        bounds: Sequence[float],
        *,
        per: int = 1,
    ) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._bounds = list(bounds) if per == 1 else [round(bound * per) for bound in bounds]
        self._names = bound_names(bounds)
        self._per = per
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def _begin(self, labels: tuple[str, ...]) -> None:
        """Have a series, which is shown from now on."""
        self._sums[labels] = 0
        self._counts[labels] = [0] * len(self._names)

    def _count(self, labels: tuple[str, ...], values: Sequence[float]) -> None:
        """Count some into a series that has begun."""
        counts = self._counts[labels]
        for place in map(bisect_left, repeat(self._bounds), values):
            counts[place] += 1
        self._sums[labels] += sum(values)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """See ``Collector``."""
        (family,) = self.describe()
        for labels, counts in tuple(self._counts.items()):
            # The sum first: what is counted meanwhile is then in the buckets alone, and small.
            total = self._sums[labels] / self._per
            family.add_metric(labels, up_to(self._names, counts), total)
        yield family

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """See ``Collector``: so that a name used twice is noticed."""
        yield HistogramMetricFamily(self.name, self.text, labels=self.labels)


class Distribution(Histogram):
    """A histogram of numbers that are no durations, with a series for whatever labels come."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        super().__init__(name, text, labels, bounds)
        registry.register(self)

    def add_all(self, values: Sequence[float], *labels: str) -> None:
        """Count some."""
        if labels not in self._counts:
            self._begin(labels)
        self._count(labels, values)


def bound_names(bounds: Sequence[float]) -> list[str]:
    """The bounds of all buckets as the library writes them, that of the last one included."""
    return [
        floatToGoString(bound)  # type: ignore[no-untyped-call]
        for bound in (*bounds, float("inf"))
    ]


def up_to(names: list[str], counts: list[int]) -> list[tuple[str, float]]:
    """Each bucket's bound with what is in it and in all those below."""
    total, buckets = 0, []
    for name, count in zip(names, tuple(counts), strict=True):
        total += count
        buckets.append((name, float(total)))
    return buckets
