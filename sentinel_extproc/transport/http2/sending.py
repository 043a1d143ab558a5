"""What goes to the peer of one connection, and how much either side may still send. Pure."""

from __future__ import annotations

from sentinel_extproc.transport.http2 import frames as h2
from sentinel_extproc.transport.http2.budget import OVERHEAD_BYTES, Budget
from sentinel_extproc.transport.http2.calls import PREFIX_BYTES, Call
from sentinel_extproc.transport.http2.frames import ErrorCode
from sentinel_extproc.transport.http2.head import OK_TRAILERS, OPENING, Fields, Status, trailers

SHUT_DOWN_PING = b"sentinel"
ALIVE_PING = b"alive   "
QUEUE_PING = b"queue   "

_LAST = h2.END_HEADERS | h2.END_STREAM

_BEFORE_OPENING = h2.head(h2.HEADERS, h2.END_HEADERS, 0, len(OPENING))[:-4]
_BEFORE_OK = h2.head(h2.HEADERS, _LAST, 0, len(OK_TRAILERS))[:-4]
"""What stands in a frame before its stream, of those that every call has."""


class Sending:
    """The half of a ``Connection`` that its server calls; the other one reads what comes.

    Args:
        stream_window, connection_window: bytes that may wait to be taken.
        budget: of all connections.
    """

    def __init__(self, *, stream_window: int, connection_window: int, budget: Budget) -> None:
        self._stream_window = stream_window
        self._stream_owes = stream_window >> 1
        self._connection_owes = connection_window >> 1
        self._window = connection_window
        self._credit = 0
        self._may_send = h2.DEFAULT_WINDOW
        self._peer_window = h2.DEFAULT_WINDOW
        self._peer_frame = h2.DEFAULT_FRAME_BYTES
        self._calls: dict[int, Call] = {}
        self._last = 0
        self._budget = budget
        self._blocked: dict[int, Call] = {}
        self._unanswered = 0
        self._given_up = 0
        self._closing = False
        self._out: list[bytes | memoryview] = []

    @property
    def calls(self) -> int:
        """Calls that have not ended on both sides."""
        return len(self._calls)

    @property
    def has_output(self) -> bool:
        """Whether ``take`` would return anything."""
        return bool(self._out)

    def take(self) -> bytes:
        """What to write to the socket now."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return b"".join(out)

    def head(self, stream: int) -> Fields:
        """What a call began with; empty once it has ended."""
        call = self._calls.get(stream)
        return () if call is None else call.head

    def send_message(self, stream: int, data: bytes) -> bool:
        """Send one message.

        Returns:
            Whether the peer takes it now; if not, wait for ``waits`` to turn false before more.
        """
        call = self._calls.get(stream)
        if call is None or call.ending is not None:
            return True  # lost meanwhile; the event that tells is on its way
        if not call.answered:
            call.answered = True
            if self._given_up:
                self._given_up -= 1
            self._out.append(_BEFORE_OPENING + stream.to_bytes(4) + OPENING)
        size = len(data)
        framed = size + PREFIX_BYTES
        if (
            not call.waiting
            and framed <= call.may_send
            and framed <= self._may_send
            and framed <= self._peer_frame
        ):
            call.may_send -= framed
            self._may_send -= framed
            # The frame's head, the byte that says "not compressed" and the length, at once.
            self._out.append((framed << 88 | stream << 40 | size).to_bytes(14) + data)
            return True
        call.waiting.append(memoryview(size.to_bytes(PREFIX_BYTES) + data))
        self._flush(call)
        return not call.waiting

    def waits(self, stream: int) -> bool:
        """Whether messages wait for the peer to take more."""
        call = self._calls.get(stream)
        return call is not None and bool(call.waiting)

    def end(self, stream: int, status: Status = Status.OK, reason: str = "") -> None:
        """End a call: after what still waits if it ends well, at once if not."""
        call = self._calls.get(stream)
        if call is None or call.ending is not None:
            return
        if not call.answered and self._given_up:
            self._given_up -= 1
        if status is not Status.OK or not call.answered:
            self._finish(call, trailers(status, reason, alone=not call.answered))
        elif call.waiting:
            call.ending = OK_TRAILERS
            self._flush(call)
        else:
            self._finish(call, OK_TRAILERS)

    def taken(self, stream: int, credit: int) -> bool:
        """A message was dealt with: the peer may send as much again.

        Returns:
            Whether there is something to ``take``.
        """
        call = self._calls.get(stream)
        if call is None:
            return False
        call.unread -= 1
        if call.deferred and self._queued(call) - credit == call.deferred:
            credit += call.deferred
            call.deferred = 0
        self._budget.held -= credit + OVERHEAD_BYTES
        call.credit += credit
        self._credit += credit
        if call.credit < self._stream_owes and self._credit < self._connection_owes:
            return False
        self._update_windows(call)
        return True

    def reset(self, stream: int, code: ErrorCode) -> None:
        """Drop a call."""
        call = self._calls.get(stream)
        if call is not None:
            self._out.append(h2.reset(stream, code))
            self._forget(call)

    def drop(self) -> None:
        """The socket is gone, and all that waited for it."""
        for call in list(self._calls.values()):
            self._forget(call)
        self._out.clear()

    def ask_alive(self) -> None:
        """Have the peer show that it is there, by an ``Alive``."""
        self._ask(ALIVE_PING)

    def ask_queue(self) -> None:
        """Have the peer answer behind all that it has sent, by a ``CaughtUp``."""
        self._ask(QUEUE_PING)

    def shut_down(self) -> None:
        """Ask the peer to open no more calls here; what is on its way is still served."""
        if not self._closing:
            self._out.append(h2.goaway(h2.MAX_WINDOW, ErrorCode.NO_ERROR))
            self._ask(SHUT_DOWN_PING)

    def close_to_new(self) -> None:
        """Refuse every new call from here on, whether or not the peer has heard that we leave."""
        if not self._closing:
            self._closing = True
            self._out.append(h2.goaway(self._last, ErrorCode.NO_ERROR))

    def _ask(self, payload: bytes) -> None:
        self._unanswered += 1
        self._out.append(h2.ping(payload, ack=False))

    def _flush(self, call: Call) -> None:
        waiting = call.waiting
        while waiting:
            room = min(call.may_send, self._may_send, self._peer_frame)
            if room <= 0:
                self._blocked[call.stream] = call
                return
            payload = waiting[0]
            if len(payload) <= room:
                waiting.popleft()
            else:
                waiting[0] = payload[room:]
                payload = payload[:room]
            call.may_send -= len(payload)
            self._may_send -= len(payload)
            self._out += (h2.head(h2.DATA, 0, call.stream, len(payload)), payload)
        self._blocked.pop(call.stream, None)
        if call.ending is not None:
            self._finish(call, call.ending)

    def _finish(self, call: Call, ending: bytes) -> None:
        if ending is OK_TRAILERS:
            self._out.append(_BEFORE_OK + call.stream.to_bytes(4) + OK_TRAILERS)
        else:
            self._out.append(h2.frame(h2.HEADERS, _LAST, call.stream, ending))
        if not call.half_closed:
            # Nobody reads what the peer might still send (RFC 9113, section 8.1).
            self._out.append(h2.reset(call.stream, ErrorCode.NO_ERROR))
        self._forget(call)

    def _forget(self, call: Call) -> None:
        del self._calls[call.stream]
        self._blocked.pop(call.stream, None)
        if call.assembler is not None:
            self._budget.held -= call.assembler.held
        if call.unread or call.deferred:
            queued = self._queued(call)
            self._budget.held -= queued + call.unread * OVERHEAD_BYTES
            self._give_back(queued)

    def _queued(self, call: Call) -> int:
        """Bytes that wait in messages that nobody took yet, or behind them."""
        return call.whole - call.window - call.credit

    def _credit_call(self, call: Call, size: int) -> None:
        call.credit += size
        self._credit += size
        self._update_windows(call)

    def _update_windows(self, call: Call) -> None:
        if call.credit >= self._stream_owes and not call.half_closed:
            self._out.append(h2.window_update(call.stream, call.credit))
            call.window += call.credit
            call.credit = 0
        self._give_back(0)

    def _give_back(self, size: int) -> None:
        self._credit += size
        if self._credit >= self._connection_owes:
            self._out.append(h2.window_update(0, self._credit))
            self._window += self._credit
            self._credit = 0
