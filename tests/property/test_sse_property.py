"""Whatever the split, the same events; whatever the bytes, none lost."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.sse import Event, Scanner

PIECES = [b"data: ", b"data:", b"event: x", b": c", b"\n", b"\r", b"\r\n", b"a", "é".encode(), b" "]
STREAMS = st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join)


def scan(chunks: list[bytes], bound: int) -> list[Event]:
    scanner = Scanner(bound)
    events = [event for chunk in chunks for event in scanner.feed(chunk)]
    return events + scanner.close()


def cut(stream: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(p % (len(stream) + 1) for p in points), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


@given(STREAMS, st.lists(st.integers(0, 10_000), max_size=20))
def test_any_split_gives_the_same_events(stream: bytes, points: list[int]) -> None:
    assert scan(cut(stream, points), 1 << 20) == scan([stream], 1 << 20)


@given(STREAMS | st.binary(max_size=300), st.lists(st.integers(0, 10_000)), st.integers(1, 40))
def test_no_byte_is_lost_or_added(stream: bytes, points: list[int], bound: int) -> None:
    assert b"".join(e.raw for e in scan(cut(stream, points), bound)) == stream


@given(STREAMS, st.lists(st.integers(0, 10_000)), st.integers(1, 40))
def test_read_events_do_not_depend_on_the_split_at_any_bound(
    stream: bytes, points: list[int], bound: int
) -> None:
    def read(events: list[Event]) -> list[bytes]:
        return [e.data for e in events if e.data is not None]

    assert read(scan(cut(stream, points), bound)) == read(scan([stream], bound))
