"""The asyncio edge: a socket's bytes into a ``Connection``, a task for each call."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

from sentinel_extproc.transport.http2 import events as on
from sentinel_extproc.transport.http2.connection import Connection
from sentinel_extproc.transport.http2.events import MessageReceived
from sentinel_extproc.transport.http2.frames import ConnectionFault
from sentinel_extproc.transport.http2.head import Fields, Status
from sentinel_extproc.transport.http2.live import Connections

log = logging.getLogger("sentinel.server")

_GREETING_S = 10.0
"""From connecting to the first frame."""


_SLICE = 128
"""Events in one turn of the loop, or some 60 new calls. What a turn answers is written at its end:
a burst handled whole would have its first answers wait for its last ones."""

_MANY = 16
"""Events that came at once: more may wait behind them, so the peer is asked how far we are."""

_ASK_EVERY_S = 0.05
_MOST_ASKED = 100
"""Questions without an answer yet; it would be late by seconds."""

_TELL_EVERY = 1000
"""Of refused connections, for one line in the log."""


class Abort(Exception):
    """A method ends its call with an error.

    Args:
        status: never OK: to Envoy that would be "let it through".
    """

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ServedCall:
    """One call, as its method sees it: ``driver.Stream``."""

    __slots__ = (
        "_connection",
        "_connections",
        "_ended",
        "_head",
        "_messages",
        "_protocol",
        "_stream",
        "_waiter",
        "came_s",
        "task",
    )

    def __init__(
        self, protocol: Http2Protocol, stream: int, head: Fields = (), *, came_s: float = 0.0
    ) -> None:
        self._protocol = protocol
        self._connection = protocol.connection
        self._connections = protocol.connections
        self._stream = stream
        self._head = head
        self._messages: deque[tuple[MessageReceived, float]] = deque()
        self._ended = False
        self.came_s = came_s
        """When the call, and later the message that was read last, came, on the loop's clock."""
        self._waiter: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None

    def header(self, name: str) -> bytes:
        """A header line of the call itself; empty when there is none."""
        wanted = name.encode()
        return next((value for key, value in self._head if key == wanted), b"")

    @property
    def behind(self) -> int:
        """Messages, of all calls of the server, that came and that nobody has read yet; about."""
        return self._connections.queued

    async def read(self) -> bytes | None:
        """The next message; None when the peer has ended its side."""
        messages = self._messages
        while not messages:
            if self._ended:
                return None
            self._waiter = self._protocol.loop.create_future()
            await self._waiter
        message, self.came_s = messages.popleft()
        self._connections.queued -= 1
        if self._connection.taken(self._stream, message.credit):
            self._protocol.flush()
        return message.data

    async def write(self, data: bytes) -> None:
        """Send one message; returns once the peer takes more."""
        if not self._protocol.send(self._stream, data):
            await self._protocol.drained(self._stream)

    def stop_reading(self) -> None:
        """Have ``read`` say that the peer has ended its side, though it hasn't."""
        self.feed_end()

    def feed(self, message: MessageReceived, came_s: float) -> None:
        """A message came."""
        self._messages.append((message, came_s))
        self._connections.queued += 1
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def feed_end(self) -> None:
        """No more will come."""
        self._ended = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def cancel(self) -> None:
        """The call is gone."""
        # For a task that swallows the cancellation, as libraries' races have done: it would wait
        # for ever for a message that can't come, with all that it holds.
        self._ended = True
        self.forget()
        if self.task is not None:
            self.task.cancel()

    def forget(self) -> None:
        """Nobody will read what came."""
        if self._messages:
            self._connections.queued -= len(self._messages)
            self._messages.clear()


Method = Callable[[ServedCall], Awaitable[None]]
"""Serves one call to its end. Raises Abort; anything else that it raises becomes INTERNAL."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may take up, and when a silent one is dead.

    Attributes:
        max_streams: calls at once.
        max_message_bytes: largest message.
        ping_s, ping_timeout_s: seconds between our pings, and until an unanswered one is fatal.
    """

    max_streams: int
    max_message_bytes: int
    ping_s: float = 30.0
    ping_timeout_s: float = 10.0


class Http2Protocol(asyncio.Protocol):
    """One connection.

    Args:
        methods: by path.
        connections: the server's live ones, kept by this.
    """

    def __init__(
        self,
        methods: Mapping[bytes, Method],
        bounds: Bounds,
        connections: Connections,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._methods = methods
        self._bounds = bounds
        self.connections = connections
        self.connection = Connection(
            max_streams=bounds.max_streams,
            max_message_bytes=bounds.max_message_bytes,
            budget=connections.budget,
        )
        self._calls: dict[int, ServedCall] = {}
        self._later: deque[on.Event] = deque()
        """What the next turns of the loop are for; nothing is read until then."""
        self._asked: deque[float] = deque()
        """When the peer was asked for answers that have yet to come."""
        self._received_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._room: asyncio.Future[None] | None = None
        self._full = False
        self._greeted = False
        self._leaving = False
        self._timer: asyncio.TimerHandle | None = None
        self._parting: asyncio.TimerHandle | None = None
        self.parted = asyncio.Event()
        """Set once no more calls can come."""

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        made = cast("asyncio.Transport", transport)  # what servers make
        if not self.connections.admit(self):
            if self.connections.refused % _TELL_EVERY == 1:
                log.warning("http2_refused", extra={"connections": len(self.connections)})
            made.abort()
            return
        self._transport = made
        self._again(_GREETING_S, partial(self._dead, "no greeting"))
        if self.connections.leaving:
            self.connection.shut_down()
        self.flush()
        if self.connections.gone:
            self._close()

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        try:
            events = self.connection.receive(data)
        except ConnectionFault as fault:
            log.warning("http2_fault", extra={"code": fault.code.name, "reason": fault.reason})
            self.flush()
            self._close()
            return
        if not self._greeted:
            self._greeted = True
            self._ask_later()
        if self._later or len(events) >= _MANY:
            self._many(events)
        else:
            self._received_s = self.loop.time()
            self._handle(events)
        if self._room is not None:
            self._wake_writers()
        if self.connection.has_output:
            self.flush()

    def pause_writing(self) -> None:
        """The peer reads too slowly: neither write nor read until it has caught up."""
        self._full = True
        self._read_if_may()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._full = False
        self._read_if_may()
        self._wake_writers()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """See ``asyncio.Protocol``."""
        self._transport = None
        self.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._parting is not None:
            self._parting.cancel()
        self.parted.set()
        for call in list(self._calls.values()):
            call.cancel()
        self._calls.clear()
        self.connections.queued -= len(self._later)
        self._later.clear()
        self.connection.drop()
        self._wake_writers()

    # Calls call these

    def send(self, stream: int, data: bytes) -> bool:
        """Send a message; False when ``drained`` should be awaited before the next."""
        connection = self.connection
        now = connection.send_message(stream, data)
        if self._transport is not None and (said := connection.take()):
            self._transport.write(said)
        return now and not self._full

    def flush(self) -> None:
        """Write what the connection has to say."""
        if self._transport is not None and (said := self.connection.take()):
            self._transport.write(said)

    async def drained(self, stream: int) -> None:
        """Wait until there is room for another message, or the connection is gone."""
        while self._transport is not None and (self._full or self.connection.waits(stream)):
            if self._room is None:
                self._room = self.loop.create_future()
            await asyncio.shield(self._room)

    # The server calls these

    def shut_down(self) -> None:
        """Ask the peer to go elsewhere with new calls. One that doesn't say that it has heard that
        is held to it all the same, and closed once its last call has ended."""
        if self._parting is None and self._transport is not None:
            self._parting = self.loop.call_later(self._bounds.ping_timeout_s, self._part)
        self.connection.shut_down()
        self.flush()

    def close(self) -> None:
        """End every call that still runs with an error, and the connection."""
        for stream in list(self._calls):
            self.connection.end(stream, Status.UNAVAILABLE, "the sidecar stops")
        self.flush()
        self._close()

    def _many(self, events: list[on.Event]) -> None:
        """Handle them some in each turn, so that answers leave in between."""
        if not self._later:
            self._received_s = self.loop.time()
        if len(events) >= _MANY:
            self._ask_queue()
        if not self._later:
            if len(events) <= _SLICE:
                self._handle(events)
                return
            self.loop.call_soon(self._next_slice)
        self._later.extend(events)
        self.connections.queued += len(events)
        self._read_if_may()

    def _next_slice(self) -> None:
        for _ in range(min(_SLICE, len(self._later))):
            self.connections.queued -= 1
            self._handle((self._later.popleft(),))
        if self._later:
            self._ask_queue()
            self.loop.call_soon(self._next_slice)
        else:
            self._read_if_may()
        self.flush()

    def _read_if_may(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._full or self._later:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _ask_queue(self) -> None:
        """Ask where the peer's own queue stands: what comes before its answer was sent no later
        than it heard the question, however long we took to read it."""
        now = self.loop.time()
        if not self._asked or (
            now - self._asked[-1] >= _ASK_EVERY_S and len(self._asked) < _MOST_ASKED
        ):
            self._asked.append(now)
            self.connection.ask_queue()

    def _came_s(self) -> float:
        """When what is being handled came, as far as is known."""
        return self._asked[0] if self._asked else self._received_s

    def _handle(self, events: Iterable[on.Event]) -> None:
        for event in events:
            if type(event) is not MessageReceived:
                self._on(event)
            elif (call := self._calls.get(event.stream)) is not None:
                call.feed(event, self._asked[0] if self._asked else self._received_s)

    def _on(self, event: on.Event) -> None:
        match event:
            case on.CallOpened(stream, path):
                self._open(stream, path)
            case on.CallEnded(stream):
                if (call := self._calls.get(stream)) is not None:
                    call.feed_end()
            case on.CallLost(stream):
                if (call := self._calls.pop(stream, None)) is not None:
                    call.cancel()
            case on.Alive():
                self._ask_later()
            case on.CaughtUp() if self._asked:  # or it answers what nobody asked
                self._asked.popleft()
            case on.PeerLeaves():
                self._leaving = True
                self.parted.set()
                self._close_if_left()
            case on.PeerKnows():
                self.parted.set()

    def _open(self, stream: int, path: bytes) -> None:
        method = self._methods.get(path)
        if method is None:
            self.connection.end(stream, Status.UNIMPLEMENTED, "no such method")
            return
        head = self.connection.head(stream)
        call = self._calls[stream] = ServedCall(self, stream, head, came_s=self._came_s())
        call.task = self.loop.create_task(self._serve(stream, call, method))

    async def _serve(self, stream: int, call: ServedCall, method: Method) -> None:
        # Only a method that returns ends its call with OK (ENVOY.md, trap 1).
        status, reason = Status.CANCELLED, "cancelled"
        try:
            await method(call)
            status, reason = Status.OK, ""
        except Abort as abort:
            status, reason = abort.status, abort.reason
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a library's panic must not end the loop
            log.exception("call_failed")
            status, reason = Status.INTERNAL, "internal fault"
        finally:
            self._calls.pop(stream, None)
            call.forget()
            self.connection.end(stream, status, reason)
            self.flush()
            if self._leaving:
                self._close_if_left()

    def _part(self) -> None:
        self.connection.close_to_new()
        self.flush()
        self._leaving = True
        self.parted.set()
        self._close_if_left()

    def _close_if_left(self) -> None:
        if self._leaving and not self._calls and not self.connection.calls:
            self._close()

    def _ask_later(self) -> None:
        self._again(self._bounds.ping_s, self._ask)

    def _ask(self) -> None:
        self.connection.ask_alive()
        self.flush()
        self._again(self._bounds.ping_timeout_s, partial(self._dead, "no answer to a ping"))

    def _again(self, delay_s: float, what: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._timer = self.loop.call_later(delay_s, what)

    def _dead(self, reason: str) -> None:
        log.warning("http2_dead", extra={"reason": reason})
        if self._transport is not None:
            self._transport.abort()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _wake_writers(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)
