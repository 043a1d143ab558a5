"""Our counters and histograms with labels say what the library's own would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from sentinel_extproc.telemetry.counting import Counts, Distribution

BOUNDS = (0.5, 0.995, 1.0, 2.0)
LABELS = ("model", "kind")
SEEN = st.lists(
    st.tuples(st.sampled_from(("a", 'b"\\')), st.sampled_from(("x", "y")), st.integers(0, 40)),
    max_size=50,
)


def lines(registry: CollectorRegistry) -> list[str]:
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if "_created" not in line]


def registries() -> tuple[CollectorRegistry, CollectorRegistry]:
    return CollectorRegistry(auto_describe=True), CollectorRegistry(auto_describe=True)


@given(SEEN)
def test_counts(seen: list[tuple[str, str, int]]) -> None:
    ours, theirs = registries()
    counts = Counts("x", "Text.", LABELS, ours)
    counter = Counter("x", "Text.", LABELS, registry=theirs)
    for model, kind, count in seen:
        counts.add(count, model, kind)
        counter.labels(model, kind).inc(count)
    assert lines(ours) == lines(theirs)
    assert openmetrics(ours)  # type: ignore[no-untyped-call]


@given(SEEN)
def test_distributions(seen: list[tuple[str, str, int]]) -> None:
    ours, theirs = registries()
    distribution = Distribution("x", "Text.", LABELS, BOUNDS, ours)
    histogram = Histogram("x", "Text.", LABELS, buckets=BOUNDS, registry=theirs)
    for model, kind, sixteenths in seen:
        distribution.add_all([sixteenths / 16], model, kind)
        histogram.labels(model, kind).observe(sixteenths / 16)
    assert lines(ours) == lines(theirs)
    assert openmetrics(ours)  # type: ignore[no-untyped-call]


def test_nothing_counts_down_and_no_name_is_used_twice() -> None:
    ours, _ = registries()
    counts = Counts("x", "Text.", LABELS, ours)
    with pytest.raises(ValueError, match="down"):
        counts.add(-1, "a", "x")
    with pytest.raises(ValueError, match="x"):
        Distribution("x_total", "Text.", LABELS, BOUNDS, ours)
