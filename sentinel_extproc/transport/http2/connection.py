"""One HTTP/2 connection, the server's side: bytes in, events out, bytes to send. No I/O.

Give it what the socket gives (`receive`), act on the events, answer with `send_message` and `end`,
and write what `take` returns. It keeps the peer to its windows, and itself to the peer's.

Bounds, all of them the peer's to hit: ``max_streams`` calls, ``max_message_bytes`` a message,
``stream_window`` and ``connection_window`` of bytes in messages that nobody took yet, a ``Budget``
over several connections of bytes in these, each with its overhead, and in messages that have begun
but not ended,
``_MAX_CHATTER`` frames at a time that only want an answer, and ``_MAX_GIVEN_UP`` and
``max_streams`` calls that it gives up before it got anything, beyond those that it waited for.
"""

from __future__ import annotations

import sys

from sentinel_extproc.transport.http2 import frames as h2
from sentinel_extproc.transport.http2.budget import OVERHEAD_BYTES, Budget
from sentinel_extproc.transport.http2.calls import PREFIX_BYTES, Assembler, Call, CallFault
from sentinel_extproc.transport.http2.events import (
    Alive,
    CallEnded,
    CallLost,
    CallOpened,
    CaughtUp,
    Event,
    MessageReceived,
    PeerKnows,
    PeerLeaves,
)
from sentinel_extproc.transport.http2.frames import (
    DATA,
    END_STREAM,
    FRAME_HEAD_BYTES,
    HEADERS,
    PADDED,
    ConnectionFault,
    ErrorCode,
    read_head,
)
from sentinel_extproc.transport.http2.head import (
    MAX_HEAD_BYTES,
    NOT_GRPC,
    HeadReader,
    Status,
    method_of,
)
from sentinel_extproc.transport.http2.sending import (
    ALIVE_PING,
    QUEUE_PING,
    SHUT_DOWN_PING,
    Sending,
)

_MAX_CHATTER = 20
"""Pings, settings and frames without a meaning that come in one piece. Envoy sends one of them now
and then; a flood costs us an answer each, and settings a look at every call."""

_MAX_GIVEN_UP = 1000
"""Besides all that may run: clients who leave before they are answered are no flood."""

_MAX_FRAME = 64 << 10
"""Largest frame that we take: a body of 64 KiB in one piece."""

_TOO_LARGE = _MAX_FRAME + 1 << 8
"""As ``read_head`` has it."""

_LONGER = h2.PADDED | h2.HAS_PRIORITY
"""Flags of HEADERS with more in them than a header block."""


class Connection(Sending):
    """The state of one connection. Here is what comes in; what goes out is in ``Sending``.

    Args:
        max_streams: calls at once; more are refused.
        max_message_bytes: largest message.
        stream_window, connection_window: bytes that may wait to be taken.
        budget: of all connections; None: this one has as much as it likes within its windows.
    """

    def __init__(
        self,
        *,
        max_streams: int,
        max_message_bytes: int,
        stream_window: int = 1 << 20,
        connection_window: int = 16 << 20,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(
            stream_window=stream_window,
            connection_window=connection_window,
            budget=Budget(sys.maxsize) if budget is None else budget,
        )
        self._max_streams = max_streams
        self._max_message = max_message_bytes
        self._chatter = 0
        self._heads = HeadReader()
        self._block: tuple[int, int, bytearray] | None = None
        self._greeted = False
        self._preface = b""
        self._rest = b""
        self._out += (
            h2.settings(
                {
                    h2.SETTING_MAX_CONCURRENT_STREAMS: max_streams,
                    h2.SETTING_INITIAL_WINDOW_SIZE: stream_window,
                    h2.SETTING_MAX_FRAME_SIZE: _MAX_FRAME,
                    h2.SETTING_MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
                }
            ),
            h2.window_update(0, connection_window - h2.DEFAULT_WINDOW),
        )

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the socket, cut anywhere.

        Raises:
            ConnectionFault: the peer broke the protocol; ``take`` has what to tell it, then close.
        """
        events: list[Event] = []
        self._chatter = 0
        try:
            if self._rest:
                data = self._rest + data  # less than a frame: this is no way to make us copy much
            if not self._greeted:
                data = self._greet(data)
            at = 0
            size = len(data)
            last = size - FRAME_HEAD_BYTES
            while at <= last:
                sized, flags, stream = read_head(data, at)
                if sized >= _TOO_LARGE:
                    raise ConnectionFault(  # noqa: TRY301
                        ErrorCode.FRAME_SIZE_ERROR, "too large a frame"
                    )
                begin = at + FRAME_HEAD_BYTES
                end = begin + (sized >> 8)
                if end > size:
                    break
                at = end
                kind = sized & 0xFF
                stream &= 0x7FFF_FFFF
                if self._block is not None and (kind, stream) != (h2.CONTINUATION, self._block[0]):
                    raise ConnectionFault(  # noqa: TRY301
                        ErrorCode.PROTOCOL_ERROR, "a header block interrupted"
                    )
                if kind == DATA:
                    self._data(flags, stream, data, begin, end, events)
                elif kind == HEADERS:
                    self._begin_block(flags, stream, data[begin:end], events)
                else:
                    self._other(kind, flags, stream, data[begin:end], events)
        except ConnectionFault as fault:
            self._out.append(h2.goaway(self._last, fault.code, fault.reason))
            raise
        self._rest = data[at:]
        return events

    def _greet(self, data: bytes) -> bytes:
        """What comes behind the preface; nothing while there is more of it to come."""
        data = self._preface = self._preface + data
        if not h2.PREFACE.startswith(data[: len(h2.PREFACE)]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not HTTP/2")
        if len(data) < len(h2.PREFACE):
            return b""
        self._greeted, self._preface = True, b""
        return data[len(h2.PREFACE) :]

    def _other(
        self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]
    ) -> None:
        match kind:
            case h2.CONTINUATION:
                self._continue_block(flags, payload, events)
            case h2.RST_STREAM:
                h2.read_word(payload)
                self._check_known(stream)
                if (call := self._calls.get(stream)) is not None:
                    self._give_up(call, events)
            case h2.WINDOW_UPDATE:
                self._more_room(stream, h2.read_word(payload), events)
            case h2.SETTINGS:
                self._chat()
                self._settings(flags, stream, payload)
            case h2.PING:
                if flags & h2.ACK and self._unanswered:
                    self._unanswered -= 1  # we wanted it: however many come at once, it is no flood
                else:
                    self._chat()
                self._ping(flags, payload, events)
            case h2.PUSH_PROMISE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client that pushes")
            case h2.GOAWAY:
                events.append(PeerLeaves())
            case _:
                self._chat()  # PRIORITY and unknown kinds mean nothing

    def _chat(self) -> None:
        self._chatter += 1
        if self._chatter > _MAX_CHATTER:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames to no purpose")

    def _give_up(self, call: Call, events: list[Event]) -> None:
        if not call.answered:
            # Each of these costs the work of a call; one that waits for answers earns it back.
            self._given_up += 1
            if self._given_up > self._max_streams + _MAX_GIVEN_UP:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many calls given up")
        self._lose(call, events)

    def _data(  # in one piece: most of what comes is a whole message in a frame of its own
        self, flags: int, stream: int, data: bytes, begin: int, end: int, events: list[Event]
    ) -> None:
        size = end - begin
        window = self._window = self._window - size
        call = self._calls.get(stream)
        if call is None or call.ending is not None:
            self._late(call, stream, size)
            return
        room = call.window - size
        if window < 0 or room < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more than the window")
        if call.half_closed:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "DATA after the end")
        budget = self._budget
        message = size - PREFIX_BYTES
        if (
            # The byte that says "not compressed" and the length, at once.
            int.from_bytes(data[begin : begin + PREFIX_BYTES]) == message
            and not flags
            and message <= self._max_message
            and call.assembler is None
            and budget.held <= budget.most
        ):
            call.window = room
            call.unread += 1
            budget.held += size + OVERHEAD_BYTES
            events.append(MessageReceived(stream, data[begin + PREFIX_BYTES : end], size))
            return
        if size or flags != END_STREAM or budget.held > budget.most:
            try:
                self._assemble(call, flags, data[begin:end], events)
            except CallFault as fault:
                self._give_back(size)
                self.end(stream, fault.status, fault.reason)
                events.append(CallLost(stream))
                return
        if flags & END_STREAM:
            call.half_closed = True
            events.append(CallEnded(stream))

    def _late(self, call: Call | None, stream: int, size: int) -> None:
        """Take DATA of a call that ended here while it was on its way."""
        if self._window < 0 or (call is not None and call.window < size):
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more than the window")
        self._check_known(stream)
        if call is not None:
            call.window -= size
            call.whole -= size
        self._give_back(size)

    def _assemble(self, call: Call, flags: int, payload: bytes, events: list[Event]) -> None:
        """Take a payload that isn't one whole message."""
        size = len(payload)
        messages = self._completed(call, h2.unpadded(flags & PADDED, payload))
        call.window -= size  # now that it is sure to wait, or to be given back
        if messages:
            call.unread += len(messages)
            self._budget.held += len(messages) * OVERHEAD_BYTES + size
            events.extend(MessageReceived(call.stream, message, 0) for message in messages[:-1])
            events.append(MessageReceived(call.stream, messages[-1], size))
        elif self._queued(call) > size:
            # One unfinished message may grow past the window, but no more behind one that waits.
            self._budget.held += size
            call.deferred += size
        else:
            self._credit_call(call, size)

    def _completed(self, call: Call, payload: bytes) -> list[bytes]:
        assembler = call.assembler
        if assembler is None:
            assembler = call.assembler = Assembler(self._max_message)
        before = assembler.held
        try:
            messages = assembler.feed(payload)
        finally:
            self._budget.held += assembler.held - before
        if self._budget.exceeded:
            raise CallFault(Status.RESOURCE_EXHAUSTED, "too much in messages that wait")
        if not assembler.held:
            call.assembler = None
        return messages

    def _begin_block(self, flags: int, stream: int, fragment: bytes, events: list[Event]) -> None:
        if flags & _LONGER:
            fragment = h2.unpadded(flags, fragment)
        if not stream % 2:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream that isn't a client's")
        if flags & h2.END_HEADERS:
            self._head(stream, flags, fragment, events)
        else:
            self._block = (stream, flags, bytearray(fragment))

    def _continue_block(self, flags: int, fragment: bytes, events: list[Event]) -> None:
        if self._block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        stream, first_flags, block = self._block
        block += fragment
        # Empty ones count as a byte, or there could be any number of them.
        if not fragment or len(block) > MAX_HEAD_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too large a header block")
        if flags & h2.END_HEADERS:
            self._block = None
            self._head(stream, first_flags, bytes(block), events)

    def _head(self, stream: int, flags: int, block: bytes, events: list[Event]) -> None:
        fields = self._heads.read(block)  # whatever becomes of it: the table must stay in step
        call = self._calls.get(stream)
        if call is not None:
            if not flags & h2.END_STREAM or call.half_closed:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a second head")
            call.half_closed = True
            events.append(CallEnded(stream))
            return
        if stream <= self._last:
            return  # trailers of a call that ended here while they were on their way
        self._last = stream
        if self._closing or len(self._calls) >= self._max_streams:
            self._out.append(h2.reset(stream, ErrorCode.REFUSED_STREAM))
            return
        path = method_of(fields)
        if path is None:
            self._out.append(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, NOT_GRPC))
            self._out.append(h2.reset(stream, ErrorCode.NO_ERROR))
            return
        half_closed = bool(flags & h2.END_STREAM)
        self._calls[stream] = Call(
            stream,
            window=self._stream_window,
            may_send=self._peer_window,
            half_closed=half_closed,
            head=fields,
        )
        events.append(CallOpened(stream, path))
        if half_closed:
            events.append(CallEnded(stream))

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & h2.ACK:
            return
        # Of a setting that is there twice only the last counts in the end.
        for name, value in dict(h2.read_settings(payload)).items():
            if name == h2.SETTING_INITIAL_WINDOW_SIZE:
                if value > h2.MAX_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "too large a window")
                change = value - self._peer_window
                self._peer_window = value
                for call in list(self._calls.values()):
                    call.may_send += change
                    self._flush(call)
            elif name == h2.SETTING_MAX_FRAME_SIZE:
                if not h2.DEFAULT_FRAME_BYTES <= value < 1 << 24:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "an impossible frame size")
                self._peer_frame = value
        self._out.append(h2.SETTINGS_ACK)

    def _ping(self, flags: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != len(ALIVE_PING):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING of another length")
        if not flags & h2.ACK:
            self._out.append(h2.ping(payload, ack=True))
        elif payload == ALIVE_PING:
            events.append(Alive())
        elif payload == QUEUE_PING:
            events.append(CaughtUp())
        elif payload == SHUT_DOWN_PING and not self._closing:
            # What was on its way when we said that we leave has arrived.
            self.close_to_new()
            events.append(PeerKnows())

    def _more_room(self, stream: int, room: int, events: list[Event]) -> None:
        if stream == 0:
            self._may_send += room
            if not room or self._may_send > h2.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "an impossible window")
            for call in list(self._blocked.values()):
                if self._may_send <= 0:
                    break
                self._flush(call)
            return
        self._check_known(stream)
        call_ = self._calls.get(stream)
        if call_ is None:
            return
        call_.may_send += room
        if not room or call_.may_send > h2.MAX_WINDOW:
            self._out.append(h2.reset(stream, ErrorCode.FLOW_CONTROL_ERROR))
            self._lose(call_, events)
            return
        self._flush(call_)

    def _check_known(self, stream: int) -> None:
        if not stream or stream > self._last:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame of no stream")

    def _lose(self, call: Call, events: list[Event]) -> None:
        self._forget(call)
        events.append(CallLost(call.stream))
