"""One connection to Redis on which the commands of many exchanges travel together.

redis-py gives each command a connection to itself: taking it, waiting and giving it back costs more
than all the rest of a reserve. Here commands are written as they come, those of one moment in one
piece, and replies are handed out in the order of the commands, in which Redis answers. Who
gives up leaves a place in that order, so that a late reply is dropped and never mistaken for
another's.

The connection itself is redis-py's: addresses, Sentinel, TLS and authentication are its business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, ReadOnlyError, RedisError

Argument = bytes | str | int
_Sent = deque[tuple[asyncio.Future[object], float]]

_STALLED_S = 1.0
"""A reply that is out for longer means that nobody is there: the connection is dropped."""

_CONNECT_S = 3.0
"""For all of connecting. A server that hangs takes connections too, and says nothing on them;
redis-py would wait for its greeting for ever, while another one has taken over."""


class Lane:
    """Sends commands over one connection of ``pool``, made when first needed and again when lost.

    Args:
        pool: one server, or the master of a Sentinel service.
        connect_s: longest that connecting may take, asking sentinels and greeting included.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        connect_s: float = _CONNECT_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._pool = pool
        self._connect_s = connect_s
        self._clock = clock
        self._unsent: list[tuple[bytes, asyncio.Future[object]]] = []
        self._sent: _Sent = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._closed = False

    async def call(
        self, *command: Argument, soon_s: float = 0.0, within_s: float | None = None
    ) -> object:
        """One command's reply. Giving up is safe at any time.

        Args:
            soon_s: it may wait that long for others to travel with.
            within_s: how long to wait for the reply; None: for ever, so that the caller bounds it.
                A tenth of what ``asyncio.timeout`` costs.

        Raises:
            RedisError, OSError: Redis' own errors, or a connection that can't be made or was lost;
                then the command may have been carried out.
            TimeoutError: no reply came within ``within_s``; it may have been carried out.
            DataError: an argument can't be sent; nothing was.
        """
        if self._closed:
            raise RedisConnectionError("the connection is closed")
        # Before it is among the others, which must not fail for it.
        packed = _packed(command)
        loop = asyncio.get_running_loop()
        if self._sent and self._now() - self._sent[0][1] > _STALLED_S:
            self._drop()
        reply: asyncio.Future[object] = loop.create_future()
        self._unsent.append((packed, reply))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())
        if soon_s:
            if self._later is None:
                self._later = loop.call_later(soon_s, self._wake.set)
        else:
            self._wake.set()
        if within_s is None:
            return await reply
        expiry = loop.call_later(within_s, _expire, reply)
        try:
            return await reply
        finally:
            expiry.cancel()

    async def aclose(self) -> None:
        """End the connection; commands under way fail."""
        self._closed = True
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
        reading: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._connect_s):
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            if self._task is not asyncio.current_task():
                return  # dropped meanwhile, and redis-py swallowed it
            reading = asyncio.get_running_loop().create_task(self._read(connection, self._sent))
            while True:
                await self._wake.wait()
                if reading.done():
                    break  # writing would connect again, with nobody who reads
                self._wake.clear()
                await self._write(connection)
            await reading
        except (RedisError, OSError) as error:
            fault = error
        finally:
            # From here on this task serves nobody; who comes now needs another. What was dropped
            # has failed already, and what waits now is the next one's.
            if self._task is asyncio.current_task():
                self._task = None
                self._fail(fault)
            if reading is not None:
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError, RedisError, OSError):
                    await reading
            if connection is not None:
                await connection.disconnect(nowait=True)
                await self._pool.release(connection)

    async def _write(self, connection: AbstractConnection) -> None:
        unsent, self._unsent = self._unsent, []
        if self._later is not None:
            self._later.cancel()
            self._later = None
        now = self._now()
        pieces: list[bytes] = []
        for packed, reply in unsent:
            if reply.done():
                continue  # given up before it was sent: nothing happened
            pieces.append(packed)
            self._sent.append((reply, now))
        if pieces:
            await connection.send_packed_command(pieces, check_health=False)

    async def _read(self, connection: AbstractConnection, sent: _Sent) -> None:
        try:
            while True:
                try:
                    answer: object = await connection.read_response(disable_decoding=True)
                except RedisError as error:
                    if not connection.is_connected or isinstance(error, RedisConnectionError):
                        raise
                    answer = error
                if not sent:
                    raise RedisConnectionError("a reply that nobody asked for")
                reply, _ = sent.popleft()
                if reply.done():
                    pass  # given up
                elif isinstance(answer, Exception):
                    reply.set_exception(answer)
                else:
                    reply.set_result(answer)
                if isinstance(answer, ReadOnlyError):
                    # A master that was demoted: its address may lead to the new one by now.
                    raise answer
        finally:
            self._wake.set()  # the writer is to notice

    def _fail(self, fault: Exception) -> None:
        lost = [reply for reply, _ in self._sent] + [reply for _, reply in self._unsent]
        # New ones: a reader that is not gone yet goes on with the old.
        self._sent, self._unsent = deque(), []
        if self._later is not None:
            self._later.cancel()
            self._later = None
        for reply in lost:
            if not reply.done():
                reply.set_exception(fault)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() if self._clock is None else self._clock()


def _packed(command: tuple[Argument, ...]) -> bytes:
    """As Redis reads it. redis-py packs for asyncio in Python, argument by argument."""
    try:
        packed: bytes = pack_command(command)  # type: ignore[arg-type]  # its stub has one
    except (TypeError, ValueError) as error:
        raise DataError(f"a command that can't be sent: {type(error).__name__}") from error
    return packed


def _expire(reply: asyncio.Future[object]) -> None:
    if not reply.done():
        reply.set_exception(TimeoutError())
