"""The event stream's grammar, worked cases."""

from __future__ import annotations

import pytest

from sentinel_extproc.sse import Event, Scanner

CASES: list[tuple[str, bytes, list[tuple[str, bytes | None]]]] = [
    ("one event", b"data: a\n\n", [("", b"a")]),
    ("no space", b"data:a\n\n", [("", b"a")]),
    ("one space only is eaten", b"data:  a\n\n", [("", b" a")]),
    ("crlf", b"data: a\r\n\r\ndata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
    ("cr", b"data: a\r\rdata: b\r\r\n", [("", b"a"), ("", b"b")]),
    ("mixed ends", b"data: a\n\r\ndata: b\r\n\n", [("", b"a"), ("", b"b")]),
    ("several data lines", b"data: a\ndata: b\n\n", [("", b"a\nb")]),
    ("comment", b": ping\n\ndata: a\n\n", [("", None), ("", b"a")]),
    ("named", b"event: error\ndata: a\n\n", [("error", b"a")]),
    ("unknown fields", b"id: 7\nretry: 1\ndata: a\n\n", [("", b"a")]),
    ("field without colon", b"data\n\n", [("", b"")]),
    ("bom", b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
    ("extra blank lines", b"\n\n\n\ndata: a\n\n", [("", None), ("", None), ("", b"a")]),
    ("unterminated at the end", b"data: a\n\ndata: b", [("", b"a"), ("", b"b")]),
    ("utf-8", "data: für 🎈\n\n".encode(), [("", "für 🎈".encode())]),
]


def scan(chunks: list[bytes], bound: int = 1 << 20) -> list[Event]:
    scanner = Scanner(bound)
    events = [event for chunk in chunks for event in scanner.feed(chunk)]
    return events + scanner.close()


@pytest.mark.parametrize(("stream", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_whole_and_byte_by_byte(stream: bytes, expected: list[tuple[str, bytes | None]]) -> None:
    whole = scan([stream])
    assert [(e.name, e.data) for e in whole] == expected
    assert scan([stream[i : i + 1] for i in range(len(stream))]) == whole
    assert b"".join(e.raw for e in whole) == stream


def test_an_event_over_the_bound_passes_unread_and_the_next_is_read() -> None:
    big = b"data: " + b"x" * 100 + b"\n\n"
    stream = b"data: a\n\n" + big + b"data: b\n\n"
    for size in (1, 7, 64, len(stream)):
        events = scan([stream[i : i + size] for i in range(0, len(stream), size)], bound=50)
        assert b"".join(e.raw for e in events) == stream
        assert [e.data for e in events if not e.oversized] == [b"a", b"b"]


def test_memory_is_bounded_while_an_event_never_ends() -> None:
    scanner = Scanner(1000)
    for _ in range(1000):
        scanner.feed(b"y" * 500)
        assert len(scanner.held) <= 1500
