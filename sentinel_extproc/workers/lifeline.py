"""The wire between the supervisor and one process of its: single bytes, both ways.

Up go ``READY``, once, and ``BEAT`` every second, from the event loop, so that a loop that hangs is
silent. Down comes ``LEAVE``. When the supervisor dies, however, the wire ends, and the process
drains and ends too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

log = logging.getLogger("sentinel.workers")

READY, BEAT, LEAVE = b"R", b"b", b"L"

BEAT_S = 1.0


class Lifeline:
    """A process' end of it.

    Args:
        channel: one of a pair of connected sockets; ours from now on.
    """

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._beating: asyncio.Task[None] | None = None

    def hold(self, leave: Callable[[bool], None]) -> None:
        """Begin to beat and to listen.

        Args:
            leave: called when this process is to drain and end; whether another one serves at its
                address.
        """

        def hear() -> None:
            try:
                heard = self._channel.recv(64)
            except BlockingIOError:
                return
            except OSError:
                heard = b""
            if not heard:
                asyncio.get_running_loop().remove_reader(self._channel)
                log.error("supervisor_gone")
            leave(LEAVE in heard)

        asyncio.get_running_loop().add_reader(self._channel, hear)
        self._beating = asyncio.create_task(self._beat(), name="heartbeat")

    def ready(self) -> None:
        """Say that this process serves."""
        self._say(READY)

    async def let_go(self) -> None:
        """End, the last thing of all."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()

    async def _beat(self) -> None:
        while True:
            self._say(BEAT)
            await asyncio.sleep(BEAT_S)

    def _say(self, what: bytes) -> None:
        # A supervisor that is gone is noticed where we listen; one that is slow has beats enough.
        with contextlib.suppress(OSError):
            self._channel.send(what)
