"""Metrics of several processes as one. Pure.

What only grows is added up, and what ended processes had counted stays in the sum, so that it never
falls. A gauge says itself what it is over all processes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Across(enum.StrEnum):
    """What a gauge is over several processes."""

    SUM = "sum"
    GREATEST = "greatest"
    LEAST = "least"


_NOT_OURS = {
    "process_start_time_seconds": Across.LEAST,
    "process_max_fds": Across.LEAST,
    "python_info": Across.GREATEST,
}
"""Gauges of the library's that aren't sums."""

_GROW = frozenset({"counter", "histogram", "summary"})

Labels = tuple[tuple[str, str], ...]
Value = tuple[str, Labels, float]
"""Name, labels and number of a series."""


class Family(msgspec.Struct, frozen=True):
    """A metric with its series."""

    name: str
    text: str
    kind: str
    across: Across
    values: tuple[Value, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Family]).decode


def families(registry: CollectorRegistry, across: Mapping[str, Across]) -> list[Family]:
    """What a process has counted.

    Args:
        across: of its gauges; those that aren't there are sums.
    """
    rules = {**_NOT_OURS, **across}
    return [
        Family(
            one.name,
            one.documentation,
            one.type,
            Across.GREATEST if one.type == "info" else rules.get(one.name, Across.SUM),
            tuple((s.name, tuple(sorted(s.labels.items())), s.value) for s in one.samples),
        )
        for one in registry.collect()
    ]


def pack(found: Sequence[Family]) -> bytes:
    """For another process."""
    return _encode(found)


def unpack(data: bytes) -> list[Family]:
    """What ``pack`` made.

    Raises:
        msgspec.MsgspecError: it didn't.
    """
    return _decode(data)


def growing(found: Iterable[Family]) -> list[Family]:
    """What is kept of a process that ended."""
    return [family for family in found if family.kind in _GROW]


def further(one: list[Family], other: list[Family]) -> list[Family]:
    """Of two counts by one process, the later: counters only grow."""
    return max(one, other, key=_grown)


def _grown(found: Iterable[Family]) -> float:
    return sum(value for family in growing(found) for _, _, value in family.values)


def merged(processes: Iterable[Iterable[Family]]) -> list[Family]:
    """All of them as one; families and series in the order in which they first come."""
    first: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, Labels], float]] = {}
    for process in processes:
        for family in process:
            known = first.setdefault(family.name, family)
            if known.kind != family.kind:  # another version's; can't be one metric
                continue
            values = sums.setdefault(family.name, {})
            for name, labels, value in family.values:
                before = values.get((name, labels))
                values[name, labels] = (
                    value if before is None else _put_together(family, before, value)
                )
    return [
        Family(
            family.name,
            family.text,
            family.kind,
            family.across,
            tuple((*series, value) for series, value in sums[family.name].items()),
        )
        for family in first.values()
    ]


def _put_together(family: Family, one: float, other: float) -> float:
    if family.kind in _GROW or family.across is Across.SUM:
        return one + other
    return max(one, other) if family.across is Across.GREATEST else min(one, other)


class Collected(Collector):
    """Families as the library takes them, to be written out."""

    def __init__(self, found: Iterable[Family]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        """See ``Collector``."""
        for family in self._found:
            metric = Metric(family.name, family.text, family.kind)
            for name, labels, value in family.values:
                metric.add_sample(name, dict(labels), value)
            yield metric
