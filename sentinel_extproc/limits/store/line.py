"""What comes in on one connection to Redis, handed out to whom it belongs."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from hiredis import PushNotification, Reader
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError

log = logging.getLogger(__name__)

Sent = tuple[asyncio.Future[object], float, float]
"""A reply that is waited for; since when, and until when, on the owner's clock."""

_NO_MORE = object()
"""What the reader says when the next reply is not whole yet; ``False`` may be a reply."""


_UNUSUAL = (PushNotification, Exception)


class _PushHandler(Protocol):
    """The part of redis-py's parsers that knows what a server says unasked."""

    async def handle_push_response(self, response: object) -> object: ...


class Line(asyncio.Protocol):
    """Takes the socket of ``connection`` over, which redis-py has greeted and which is idle.

    Whoever writes a command appends its place to ``sent`` before anything else happens. When the
    socket is lost, or nothing that comes can be trusted any more, ``lost`` says why; whoever waits
    then is the owner's to tell.

    Attributes:
        sent: who waits for a reply, in order; done if given up.
        writable: whether more may be written now.
        lost: its result is the fault.

    Args:
        on_writable: called when that is so again.
    """

    def __init__(self, connection: AbstractConnection, *, on_writable: Callable[[], None]) -> None:
        self.sent: deque[Sent] = deque()
        self.writable = True
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._on_writable = on_writable
        # Names that redis-py's parsers use, too: a connection gives them its streams by them.
        self._parser = cast("_PushHandler", connection._parser)  # noqa: SLF001
        writer = cast("asyncio.StreamWriter", connection._writer)  # noqa: SLF001
        self._pushed: set[asyncio.Task[object]] = set()
        self._reader = Reader(
            protocolError=InvalidResponse,
            replyError=DefaultParser.parse_error,
            notEnoughData=_NO_MORE,
        )
        transport = cast("asyncio.Transport", writer.transport)
        self.write = transport.write
        self._stream = transport.get_protocol()
        transport.set_protocol(self)
        if transport.is_closing():
            # Lost on its last steps here, of which the stream was told.
            self.connection_lost(None)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if self.lost.done():
            return
        reader, sent = self._reader, self.sent
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not _NO_MORE:
                unusual = isinstance(answer, _UNUSUAL)
                if unusual:
                    if self._took(answer):
                        continue
                    if self.lost.done():
                        return
                if not sent:
                    self._end(RedisConnectionError("a reply that nobody asked for"))
                    return
                reply = sent.popleft()[0]
                if reply.done():
                    pass  # given up
                elif unusual:
                    reply.set_exception(answer)
                else:
                    reply.set_result(answer)
        except InvalidResponse as fault:
            self._end(fault)

    def _took(self, answer: Any) -> bool:
        """Whether that was nobody's reply. What isn't about one command alone ends the line."""
        if isinstance(answer, PushNotification):
            task = asyncio.ensure_future(self._parser.handle_push_response(answer))
            self._pushed.add(task)
            task.add_done_callback(self._pushed.discard)
            return True
        if isinstance(answer, RedisConnectionError | ReadOnlyError):
            # Loading, too many clients: nobody of those who wait will be served here. Or a master
            # that was demoted: its address may lead to the new one by now.
            self._end(answer)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        why = "" if exc is None else f": {exc}"
        self._end(RedisConnectionError(f"the server closed the connection{why}"))
        # redis-py may wait for it there, when a whole pool is closed.
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self.writable = False

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self.writable = not self.lost.done()
        if self.writable:
            self._on_writable()

    def _end(self, fault: Exception) -> None:
        self.writable = False
        if not self.lost.done():
            self.lost.set_result(fault)
