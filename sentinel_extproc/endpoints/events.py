"""A meter for event streams that pass unchanged. Pure."""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import structs

from sentinel_extproc.endpoints.contract import Reading
from sentinel_extproc.endpoints.meters import Tail, text_of, tokens_by_size
from sentinel_extproc.endpoints.provider_usage import ReadUsage, decode, find_member, read_usage
from sentinel_extproc.sse import Scanner
from sentinel_extproc.usage.record import TokenUsage

_LAST = frozenset({"message_stop", "response.completed", "response.incomplete", "response.failed"})
"""Types of events after which none comes."""


class EventReader(Protocol):
    """Understands the events of one API."""

    @property
    def volume(self) -> int:
        """Characters of generated text so far."""
        ...

    @property
    def waiting(self) -> int:
        """Those of them that are yet to be counted."""
        ...

    def read(self, event: dict[str, Any]) -> None:
        """Take the next event."""
        ...

    def reading(self) -> Reading:
        """What is known so far."""
        ...


class EventMeter:
    """Cuts a stream into events and has them read.

    Args:
        by_size: whether an event too large to be read is taken for text, 4 bytes a token.
    """

    rewrites = False
    held = b""

    def __init__(self, reader: EventReader, *, by_size: bool = True) -> None:
        self._reader = reader
        self._scanner = Scanner()
        self._by_size = by_size
        self._unread = 0
        self._tail = Tail()
        self.finished = False

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:
        events = self._scanner.feed(chunk)
        if end:
            events += self._scanner.close()
        for event in events:
            if event.oversized:
                self._unread += len(event.raw)
                self._tail.add(event.raw)
            elif event.data == b"[DONE]":
                self.finished = True
            elif event.data is not None:
                value = decode(event.data)
                if isinstance(value, dict):
                    self._reader.read(value)
                    self.finished = self.finished or text_of(value.get("type")) in _LAST
        return None

    @property
    def partial(self) -> int:
        return self._scanner.pending

    @property
    def volume(self) -> int:
        return self._reader.volume

    @property
    def waiting(self) -> int:
        return self._reader.waiting

    def reading(self) -> Reading:
        reading = self._reader.reading()
        if not self._unread or reading.reported is not None:
            return reading
        # The largest events are those that repeat a whole answer, with its usage at their end.
        usage = read_usage(find_member(self._tail.bytes(), "usage"))
        unread = tokens_by_size(self._unread) if self._by_size else 0
        return structs.replace(
            reading, reported=usage, output_tokens=reading.output_tokens + unread, exact=False
        )


class ConstantReader:
    """For sound and pictures, whose bytes tell no tokens: the reported usage, or a constant.

    Args:
        output_tokens: what the answer is taken for, unless it fails before any of it has come.
        read: understands its usage.
    """

    volume = 0
    waiting = 0

    def __init__(self, output_tokens: int, read: ReadUsage) -> None:
        self._output = output_tokens
        self._read = read
        self._begun = False
        self._reported: TokenUsage | None = None
        self._failed = False

    def read(self, event: dict[str, Any]) -> None:
        self._reported = self._read(event.get("usage")) or self._reported
        if isinstance(event.get("error"), dict):
            self._failed = True
        else:
            self._begun = True

    def reading(self) -> Reading:
        made = self._output if self._begun or not self._failed else 0
        return Reading(reported=self._reported, output_tokens=made, failed=self._failed)
