"""Numbers that somebody else counts, read when a scrape asks for them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sentinel_extproc.telemetry.across import Across

log = logging.getLogger(__name__)

Values = float | Mapping[str, float] | None
"""One number, or one per value of the label; None when it isn't known."""


class Kind(Enum):
    """Whether a number can fall."""

    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric whose value lies elsewhere.

    Attributes:
        name: with its unit; a counter's ends in ``_total``.
        text: what it says, for the person at the dashboard.
        read: returns the value; quick, and safe to call from another thread.
        label: the label's name when ``read`` returns a mapping.
        across: of a gauge, what it is over several worker processes.
    """

    name: str
    text: str
    kind: Kind
    read: Callable[[], Values]
    label: str | None = None
    across: Across = Across.SUM


Family = CounterMetricFamily | GaugeMetricFamily


class Readings(Collector):
    """Reads all of them at every scrape. One that fails is left out, and counted."""

    def __init__(self, readings: Iterable[Reading]) -> None:
        self._readings = tuple(readings)
        self._faults: Counter[str] = Counter()

    def collect(self) -> Iterator[Family]:
        """See ``Collector``."""
        for reading in self._readings:
            family = _family(reading)
            try:
                _fill(family, reading)
            except Exception:
                # A bug in one part must not blind the operator to all the others.
                if not self._faults[reading.name]:
                    log.exception("the metric %s can't be read", reading.name)
                self._faults[reading.name] += 1
                continue
            yield family
        faults = _faults_family()
        for name, count in sorted(self._faults.items()):
            faults.add_metric([name], count)
        yield faults

    def describe(self) -> Iterator[Family]:
        """See ``Collector``: names without values, so that a name used twice is noticed."""
        for reading in self._readings:
            yield _family(reading)
        yield _faults_family()


def _family(reading: Reading) -> Family:
    labels = () if reading.label is None else (reading.label,)
    kind = CounterMetricFamily if reading.kind is Kind.COUNTER else GaugeMetricFamily
    return kind(reading.name, reading.text, labels=labels)


def _fill(family: Family, reading: Reading) -> None:
    values = reading.read()
    if values is None:
        return
    if isinstance(values, Mapping):
        for label, value in values.items():
            family.add_metric([label], value)
    else:
        family.add_metric([], values)


def _faults_family() -> CounterMetricFamily:
    return CounterMetricFamily(
        "sentinel_reading_faults_total", "Metrics that could not be read.", labels=("metric",)
    )
