"""How readings are made of a part's counters and other numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sentinel_extproc.telemetry.across import Across
from sentinel_extproc.telemetry.readings import Kind, Reading

Fields = Mapping[str, str]
"""From a label's value to the counters' field."""


def counters_of(
    name: str, text: str, label: str, counters: Callable[[], object], fields: Fields
) -> Reading:
    """Fields of a part's counters under one name, told apart by a label."""

    def read() -> dict[str, float]:
        now = counters()
        return {value: getattr(now, field) for value, field in fields.items()}

    return Reading(name, text, Kind.COUNTER, read, label=label)


def gauge(
    name: str,
    text: str,
    read: Callable[[], float | None],
    across: Across = Across.SUM,
) -> Reading:
    """A number that can fall; workers' are added up."""
    return Reading(name, text, Kind.GAUGE, read, across=across)


def greatest(name: str, text: str, read: Callable[[], float | None]) -> Reading:
    """The same where the greatest of the workers' stands for all."""
    return gauge(name, text, read, Across.GREATEST)
