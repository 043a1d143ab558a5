"""Counters and histograms with labels, in plain dictionaries.

The library has an object with a lock for each series and goes through five calls to add to one; an
exchange adds to nine. Facts come one at a time, so nothing need be locked: whoever reads meanwhile
sees some of them. The labels' values are bounded, and so is what is kept here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

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


class Distribution(Collector):
    """A histogram of numbers that are no durations.

    Args:
        labels: their names.
        bounds: of the buckets, rising; one for all that is greater is added.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._bounds = list(bounds)
        self._names = bound_names(bounds)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def add_all(self, values: Sequence[float], *labels: str) -> None:
        """Count some."""
        counts = self._counts.get(labels)
        if counts is None:
            self._sums[labels] = 0.0
            counts = self._counts[labels] = [0] * len(self._names)
        for value in values:
            counts[bisect_left(self._bounds, value)] += 1
        self._sums[labels] += sum(values)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """See ``Collector``."""
        (family,) = self.describe()
        for labels, counts in tuple(self._counts.items()):
            # The sum first, as in ``Durations``.
            total = self._sums[labels]
            family.add_metric(labels, up_to(self._names, counts), total)
        yield family

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """See ``Collector``: so that a name used twice is noticed."""
        yield HistogramMetricFamily(self.name, self.text, labels=self.labels)


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
