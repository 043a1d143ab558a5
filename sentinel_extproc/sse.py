"""Server-sent events, from bytes, whatever the split. Pure.

The grammar is the WHATWG HTML standard's "event stream": lines end with LF, CRLF or CR; a blank
line ends an event; ``data`` lines join with LF; a line that starts with a colon is a comment; one
BOM may lead the stream.

A scanner keeps the raw bytes beside the meaning, so that a filter can drop or replace one event
and pass every other byte through untouched: the ``raw`` of all events, in order, is the input.
"""

from __future__ import annotations

import re

from msgspec import Struct

MAX_EVENT_BYTES = 1 << 20
"""Default bound of one event. OpenAI's largest events (whole responses in ``response.completed``)
stay well below; over it an event is passed through unread."""

# A blank line: a line end followed by another. "(?!\n)" keeps CRLF from reading as two ends.
_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Event(Struct, frozen=True, gc=False):
    """One event of the stream, or a stretch of it that is none.

    Attributes:
        raw: the exact bytes, terminating blank line included.
        data: the joined ``data`` lines; None when there were none (comments, keep-alives).
        name: the ``event`` field; empty when absent.
        oversized: part of an event over the bound; ``data`` is None.
    """

    raw: bytes
    data: bytes | None = None
    name: str = ""
    oversized: bool = False


class Scanner:
    """Cuts a byte stream into events. Holds at most ``max_event_bytes`` plus one chunk.

    Args:
        max_event_bytes: bound of one event, in bytes of its raw form.
    """

    __slots__ = ("_buffer", "_max", "_searched", "_skipping", "_started")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._skipping = False
        self._started = False

    @property
    def held(self) -> bytes:
        """Bytes taken in but not given out yet; a copy."""
        return bytes(self._buffer)

    @property
    def pending(self) -> int:
        """How many bytes ``held`` has."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes; give the events they complete."""
        buffer = self._buffer
        if not buffer and chunk.endswith(b"\n\n") and b"\r" not in chunk and b"\n\n\n" not in chunk:
            # Whole events, as providers send them: there is nothing to be kept, or read two ways.
            return [self._event(text + b"\n\n") for text in chunk.split(b"\n\n")[:-1]]
        buffer += chunk  # grows in place: a long event in small chunks must not be copied each time
        events: list[Event] = []
        start = 0
        search = self._searched
        while True:
            end = _EVENT_END.search(buffer, search)
            # A CR at the very end may be half of a CRLF: the cut must not depend on the split.
            if end is None or (end.end() == len(buffer) and buffer.endswith(b"\r")):
                break
            stop = end.end()
            del end  # a match holds its buffer, which then can't be resized
            events.append(self._event(bytes(buffer[start:stop])))
            start = search = stop
        del end
        rest = len(buffer) - start
        if rest > self._max or (self._skipping and rest):
            # Line ends at the tail stay: they may be the first half of the blank line.
            last = bytes(buffer[-3:]) if rest >= 3 else bytes(buffer[start:])
            given = rest - (len(last) - len(last.rstrip(b"\r\n")))
            if given:
                events.append(Event(bytes(buffer[start : start + given]), oversized=True))
                self._skipping = True
                start += given
        del buffer[:start]
        self._searched = max(0, len(buffer) - 3)
        return events

    def close(self) -> list[Event]:
        """End of the stream: give what is left.

        The standard discards an unterminated event; providers that forget the last blank line
        exist, so its data is read all the same.
        """
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return [self._event(rest)] if rest else []

    def _event(self, raw: bytes) -> Event:
        if self._skipping:
            self._skipping = False
            return Event(raw, oversized=True)
        if len(raw) > self._max:
            return Event(raw, oversized=True)
        text = raw
        if not self._started:
            self._started = True
            text = raw.removeprefix(_BOM)
        return _parse(raw, text)


def _parse(raw: bytes, text: bytes) -> Event:
    if text.startswith(b"data: ") and text.find(b"\n") == len(text) - 2 and b"\r" not in text:
        return Event(raw, text[6:-2])  # the form that providers send, without the loop below
    data: list[bytes] = []
    name = ""
    for line in _LINE_END.split(text):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return Event(raw, b"\n".join(data) if data else None, name)
