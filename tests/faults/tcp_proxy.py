"""A TCP proxy that can be slow, half open, or gone."""

from __future__ import annotations

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024


class TcpProxy:
    """Forwards from a loopback port to a Unix socket.

    Attributes:
        delay_s: what comes back is held up by so much, in order.
        half_open: what comes is swallowed on both ways; connections stay.
    """

    def __init__(self, target: str) -> None:
        self.delay_s = 0.0
        self.half_open = False
        self.port = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Of the Redis behind it."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.go()

    async def go(self) -> None:
        """Refuse new connections, reset those that there are."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            link = writer.get_extra_info("socket")
            if link is not None and link.family == socket.AF_INET:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_unix_connection(self._target)
            self._writers.add(back)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._forward(reader, back))
                    both.create_task(self._back(there, writer))
            finally:
                self._writers.discard(back)
                back.transport.abort()
        except* (OSError, _Ended):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            if not self.half_open:
                writer.write(data)
                await writer.drain()
        raise _Ended

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(_CHUNK):
            # A delay, not a rate: what follows closely isn't held up twice.
            loop.call_later(self.delay_s, self._pass, writer, data)
        raise _Ended

    def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not self.half_open and not writer.is_closing():
            writer.write(data)


class _Ended(Exception):
    """One side has closed."""
