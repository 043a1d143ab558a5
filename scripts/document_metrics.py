"""Writes docs/metrics.md from the metrics themselves. Called by `make docs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import MagicMock

from prometheus_client import Counter, Histogram, Info

from sentinel_extproc.admin.assembly import _readings
from sentinel_extproc.telemetry import counting
from sentinel_extproc.telemetry.prometheus import Metrics
from sentinel_extproc.workers.front import supervisor_families
from sentinel_extproc.workers.shelf import Roster

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

HEAD = """# Metrics

<!-- Written by `make docs` from the metrics' own texts; a test keeps it current. -->

What `/metrics` of the admin port has, by name. Every label's values are from a bounded set,
whatever clients send: models and limits beyond the first ones are `other`, and users are no label
at all. A histogram has `_bucket`, `_sum` and `_count`. Metrics of CPython and the process
(`python_…`, `process_…`) are there, too. What to look at first is in
[observability](observability.md#metrics); what to wake somebody for, in [alerts](alerts.md).

| Metric | Kind | Labels | What it says |
|---|---|---|---|
"""


class Row(NamedTuple):
    """One metric."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def page() -> str:
    """The whole page, Markdown."""
    lines = []
    for row in sorted({*_own(), *_read(), *_of_workers()}):
        labels = ", ".join(f"`{label}`" for label in row.labels)
        text = row.text.replace("|", "\\|")
        lines.append(f"| `{row.name}` | {row.kind} | {labels} | {text} |\n")
    return HEAD + "".join(lines)


def _own() -> Iterator[Row]:
    for collector in Metrics().registry._collector_to_names:
        if isinstance(collector, counting.Counts):
            yield Row(f"{collector.name}_total", "counter", collector.labels, collector.text)
        if isinstance(collector, counting.Histogram):
            yield Row(collector.name, "histogram", collector.labels, collector.text)
        if not isinstance(collector, Counter | Histogram | Info):
            continue  # CPython's and the process's
        (family,) = collector.describe()
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = ("version",) if family.type == "info" else collector._labelnames
        kind = "gauge" if family.type == "info" else family.type
        yield Row(family.name + suffix, kind, tuple(labels), family.documentation)


def _read() -> Iterator[Row]:
    # Only their names are asked for, so that nothing behind them need be there.
    for reading in _readings(MagicMock(), MagicMock(), MagicMock()):
        labels = () if reading.label is None else (reading.label,)
        yield Row(reading.name, reading.kind.value, labels, reading.text)
    faults = "Metrics that could not be read."
    yield Row("sentinel_reading_faults_total", "counter", ("metric",), faults)


def _of_workers() -> Iterator[Row]:
    # Only a sidecar with several workers has these.
    for family in supervisor_families(Roster(1, ())):
        name, labels, _ = family.values[0]
        yield Row(name, family.kind, tuple(label for label, _ in labels), family.text)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.name}")
