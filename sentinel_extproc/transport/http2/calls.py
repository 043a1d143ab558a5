"""One call: gRPC's messages out of DATA frames, and the windows of both directions. Pure.

A message travels as one byte (compressed or not), four bytes of length, and itself; frames may cut
it anywhere (PROTOCOL-HTTP2, "Length-Prefixed-Message").
"""

from __future__ import annotations

from collections import deque

from sentinel_extproc.transport.http2.head import Fields, Status

PREFIX_BYTES = 5
"""Before each message."""


class CallFault(Exception):
    """One call can't go on; the others do."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Assembler:
    """Collects messages.

    Args:
        max_bytes: largest message; the bound of what is held here.
    """

    __slots__ = ("_held", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = bytearray()

    @property
    def held(self) -> int:
        """Bytes of a message that has begun."""
        return len(self._held)

    def feed(self, payload: bytes) -> list[bytes]:
        """The messages that ``payload`` completes.

        Raises:
            CallFault: a message that is compressed, which we never offered, or too large.
        """
        held = self._held
        held += payload
        messages = []
        at = 0
        while len(held) - at >= PREFIX_BYTES:
            if held[at]:
                raise CallFault(Status.UNIMPLEMENTED, "compressed messages are not supported")
            size = int.from_bytes(held[at + 1 : at + PREFIX_BYTES])
            if size > self._max_bytes:
                raise CallFault(
                    Status.RESOURCE_EXHAUSTED,
                    f"a message of {size} bytes; at most {self._max_bytes} are taken",
                )
            end = at + PREFIX_BYTES + size
            if end > len(held):
                break
            messages.append(bytes(held[at + PREFIX_BYTES : end]))
            at = end
        del held[:at]
        return messages


class Call:
    """What the connection knows of one call.

    Attributes:
        assembler: of a message that has begun; None when none has.
        head: the fields that it began with.
        whole: the window while nothing waits.
        window: bytes that the peer may still send.
        credit: of those that came, how many are dealt with but not yet given back to it. What else
            the window is short of waits in messages that nobody took yet, or behind them.
        deferred: of what waits, how many bytes are of a message that has yet to end.
        unread: messages that nobody took yet.
        may_send: bytes that the peer still takes.
        waiting: frames' payloads that wait for it to take more, in order.
        ending: the block that ends the answer once nothing waits any more.
    """

    __slots__ = (
        "answered",
        "assembler",
        "credit",
        "deferred",
        "ending",
        "half_closed",
        "head",
        "may_send",
        "stream",
        "unread",
        "waiting",
        "whole",
        "window",
    )

    def __init__(
        self,
        stream: int,
        *,
        window: int,
        may_send: int,
        half_closed: bool,
        head: Fields = (),
    ) -> None:
        self.stream = stream
        self.whole = self.window = window
        self.may_send = may_send
        self.assembler: Assembler | None = None
        self.half_closed = half_closed
        self.head = head
        self.answered = False
        self.credit = 0
        self.unread = 0
        self.deferred = 0
        self.waiting: deque[memoryview] = deque()
        self.ending: bytes | None = None
