"""Frames read the same whatever the split, and nothing makes the scanner raise."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.endpoints.websocket import FrameScanner, Message


def read(stream: bytes, cuts: list[int]) -> tuple[list[Message], bool]:
    scanner = FrameScanner(50)
    messages: list[Message] = []
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        messages += scanner.feed(stream[start:end])
    return messages, scanner.broken


FRAMES = st.builds(
    lambda first, masked, content: (
        bytes([first, (0x80 if masked else 0) | len(content)])
        + (b"mask" if masked else b"")
        + content
    ),
    st.sampled_from([0x01, 0x81, 0x00, 0x80, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0x83]),
    st.booleans(),
    st.binary(max_size=60),
)


@given(
    st.one_of(st.binary(max_size=300), st.lists(FRAMES, max_size=8).map(b"".join)),
    st.lists(st.integers(0, 10_000)),
)
def test_every_split_reads_alike(stream: bytes, cuts: list[int]) -> None:
    assert read(stream, cuts) == read(stream, []) == read(stream, list(range(len(stream))))
