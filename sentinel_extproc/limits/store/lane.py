"""One connection to Redis on which the commands of many exchanges travel together.

redis-py gives each command a connection to itself: taking it, waiting and giving it back costs more
than all the rest of a reserve. Here commands are written as they come (uvloop writes those of one
moment in one piece), and replies are handed out in the order of the commands, in which Redis
answers. Who gives up leaves a place in that order, so that a late reply is dropped and never
mistaken for another's.

The connection is redis-py's until it is made: addresses, Sentinel, TLS and authentication are its
business. From then on ``Line`` takes what the socket gives, without a task and a stream between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import inf

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, RedisError

from .line import Line, Sent

Argument = bytes | str | int

_STALLED_S = 1.0
"""A reply that is out for longer means that nobody is there: the connection is dropped."""

_GRAIN_S = 0.001
"""Of uvloop's timers: one may go off so much earlier."""

_LOOK_S = 0.001
"""Until the socket has been looked at once more, before a reply is said to be late. When it is this
process that stood still, timers go off before what came meanwhile is read."""

_CONNECT_S = 3.0
"""For all of connecting. A server that hangs takes connections too, and says nothing on them;
redis-py would wait for its greeting for ever, while another one has taken over."""


class Lane:
    """Sends commands over one connection of ``pool``, made when first needed and again when lost.

    Args:
        pool: one server, or the master of a Sentinel service.
        within_s: how long ``send`` waits for a reply.
        connect_s: longest that connecting may take, asking sentinels and greeting included.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        within_s: float = 1.0,
        connect_s: float = _CONNECT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._within_s = within_s
        self._connect_s = connect_s
        self._clock = clock
        self._unsent: list[tuple[bytes, Sent]] = []
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        """Nothing is written until this has found whether the connection is dead."""
        self._closed = False

    async def call(self, *command: Argument, soon_s: float = 0.0) -> object:
        """One command's reply, however long it takes: the caller bounds it. Giving up is safe at
        any time.

        Args:
            soon_s: it may wait that long for others to travel with.

        Raises:
            RedisError, OSError: Redis' own errors, or a connection that can't be made or was lost;
                then the command may have been carried out.
            DataError: an argument can't be sent; nothing was.
        """
        return await self.send(packed(command), soon_s, bounded=False)

    def send(
        self, command: bytes, soon_s: float = 0.0, *, bounded: bool = True
    ) -> asyncio.Future[object]:
        """The reply to a packed command, as of ``call``; a ``TimeoutError`` when there is none
        within ``within_s``. A tenth of what ``asyncio.timeout`` costs.

        Raises:
            RedisConnectionError: the lane is closed; nothing was sent.
        """
        loop = asyncio.get_running_loop()
        now_s = self._clock()
        reply: asyncio.Future[object] = loop.create_future()
        until_s = now_s + self._within_s if bounded else inf
        if bounded and self._expiry is None:
            self._expiry = loop.call_later(self._within_s, self._expire)
        line = self._line
        if line is not None and line.sent and now_s - line.sent[0][1] > _STALLED_S:
            if self._looking is None:
                self._looking = loop.call_later(_LOOK_S, self._look, line.sent[0])
            line = None
        if line is not None and line.writable and not soon_s and not self._unsent:
            # Nearly every command. Its place comes after: what can't be written must not have one.
            line.write(command)
            line.sent.append((reply, now_s, until_s))
        else:
            self._queue(command, (reply, now_s, until_s), soon_s)
        return reply

    def _queue(self, command: bytes, sent: Sent, soon_s: float) -> None:
        if self._closed:
            raise RedisConnectionError("the connection is closed")
        self._unsent.append((command, sent))
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())
        if not soon_s:
            self._flush()
        elif self._later is None:
            self._later = loop.call_later(soon_s, self._flush)

    def _look(self, oldest: Sent) -> None:
        """Leave a connection on which ``oldest`` still waits for its reply; what has not been
        written goes to the next one."""
        self._looking = None
        line = self._line
        if line is None or not line.sent or line.sent[0] is not oldest:
            self._flush()
            return
        unsent, self._unsent = self._unsent, []
        self._drop()
        for command, sent in unsent:
            self._queue(command, sent, 0.0)

    async def aclose(self) -> None:
        """End the connection; commands under way fail."""
        self._closed = True
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        task = self._drop()
        if task is not None:
            await asyncio.wait([task])

    def _drop(self) -> asyncio.Task[None] | None:
        """Give the connection up, at once; the task that still has to close it. Waits for nobody:
        whoever calls may be cancelled, and that must not be lost here."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._fail(RedisConnectionError("the connection was given up"))
        return task

    async def _run(self) -> None:
        """Serve one connection until it is lost."""
        fault: Exception = RedisConnectionError("the connection was given up")
        connection: AbstractConnection | None = None
        try:
            async with asyncio.timeout(self._connect_s):
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            if self._task is not asyncio.current_task():
                return  # dropped meanwhile, and redis-py swallowed it
            self._line = line = Line(connection, on_writable=self._flush)
            self._flush()
            fault = await line.lost
        except (RedisError, OSError) as error:
            fault = error
        finally:
            # From here on this task serves nobody; who comes now needs another. What was dropped
            # has failed already, and what waits now is the next one's.
            if self._task is asyncio.current_task():
                self._task = None
                self._fail(fault)
            if connection is not None:
                await connection.disconnect(nowait=True)
                await self._pool.release(connection)

    def _flush(self) -> None:
        """Write what waits, if there is a connection that takes it."""
        line = self._line
        if line is None or not line.writable or self._looking is not None:
            return  # this comes again when it does
        if self._later is not None:
            self._later.cancel()
            self._later = None
        now_s = self._clock()
        try:
            for command, (reply, _, until_s) in self._unsent:
                if not reply.done():  # else it was given up before it was sent: nothing happened
                    line.write(command)
                    line.sent.append((reply, now_s, until_s))
        except BaseException:
            self._drop()
            raise
        self._unsent.clear()

    def _fail(self, fault: Exception) -> None:
        line, self._line = self._line, None
        lost = self._waiting(line)
        self._unsent = []
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        for reply, _, _ in lost:
            if not reply.done():
                reply.set_exception(fault)

    def _waiting(self, line: Line | None) -> list[Sent]:
        sent = [] if line is None else list(line.sent)
        return sent + [waiting for _, waiting in self._unsent]

    def _expire(self) -> None:
        """One timer for all, since all have the same time."""
        self._expiry = asyncio.get_running_loop().call_later(_LOOK_S, self._end_late)

    def _end_late(self) -> None:
        """Tell those whose time is over."""
        now_s, next_s = self._clock(), inf
        for reply, _, until_s in self._waiting(self._line):
            if not reply.done():
                if until_s > now_s + _GRAIN_S:
                    next_s = min(next_s, until_s)
                else:
                    reply.set_exception(TimeoutError())
        self._expiry = None
        if next_s != inf:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(next_s - now_s, self._expire)


def packed(command: tuple[Argument, ...]) -> bytes:
    """As Redis reads it. redis-py packs for asyncio in Python, argument by argument.

    Raises:
        DataError: an argument can't be sent.
    """
    try:
        data: bytes = pack_command(command)  # type: ignore[arg-type]  # its stub has one
    except (TypeError, ValueError) as error:
        raise DataError(f"a command that can't be sent: {type(error).__name__}") from error
    return data
