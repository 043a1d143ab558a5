"""Our histogram says what the library's own would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from sentinel_extproc.telemetry.durations import Durations

BOUNDS_S = (0.0001, 0.00025, 0.001, 0.5, 1.0)
KINDS = ("a", "b")


def both() -> tuple[CollectorRegistry, Durations, CollectorRegistry, Histogram]:
    ours, theirs = CollectorRegistry(auto_describe=True), CollectorRegistry(auto_describe=True)
    durations = Durations("x_seconds", "Text.", label="kind", values=KINDS, bounds_s=BOUNDS_S)
    ours.register(durations)
    histogram = Histogram("x_seconds", "Text.", ["kind"], buckets=BOUNDS_S, registry=theirs)
    for kind in KINDS:
        histogram.labels(kind)
    return ours, durations, theirs, histogram


def lines(registry: CollectorRegistry) -> list[str]:
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if "_created" not in line]


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 4 * 10**6)), max_size=50))
def test_it_says_what_the_librarys_would(seen: list[tuple[str, int]]) -> None:
    ours, durations, theirs, histogram = both()
    sums = dict.fromkeys(KINDS, 0)
    for kind, microseconds in seen:
        durations.add(kind, microseconds * 1000)
        histogram.labels(kind).observe(microseconds / 1e6)
        sums[kind] += microseconds
    without_sums = [[line for line in lines(one) if "_sum" not in line] for one in (ours, theirs)]
    assert without_sums[0] == without_sums[1]
    for kind, total in sums.items():
        assert f'x_seconds_sum{{kind="{kind}"}} {total / 1e6}' in lines(ours)
    assert openmetrics(ours)  # type: ignore[no-untyped-call]


def test_a_bound_is_in_its_own_bucket() -> None:
    ours, durations, _, _ = both()
    durations.add("a", 1_000_000)
    assert 'x_seconds_bucket{kind="a",le="0.001"} 1.0' in lines(ours)
    assert 'x_seconds_bucket{kind="a",le="0.00025"} 0.0' in lines(ours)
