"""Serves ext_proc on our own HTTP/2: listening, health, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from typing import Any

from sentinel_extproc.transport.codec import ACCESS_LOGS, METHOD, CodecError, read_access_logs
from sentinel_extproc.transport.http2.head import Status
from sentinel_extproc.transport.http2.health import Health
from sentinel_extproc.transport.http2.live import MAX_CONNECTIONS, Connections
from sentinel_extproc.transport.http2.protocol import (
    Abort,
    Bounds,
    Http2Protocol,
    Method,
    ServedCall,
)
from sentinel_extproc.transport.http2.tls import HANDSHAKE_S, ServingTls
from sentinel_extproc.transport.server import (
    KEEPALIVE,
    TOO_MANY,
    Keepalive,
    ServerError,
    ServerTls,
    StreamHandler,
    failure,
)
from sentinel_extproc.transport.unix_socket import make_way, socket_path

log = logging.getLogger("sentinel.server")

_SPARE_STREAMS = 100
"""Above our own bound, for health checks on the same connection."""

_BACKLOG = 1024
_PARTING_S = 1.0
"""For peers to hear that we leave, and for what they sent before that to come."""

_ACCEPTING_TURNS = 10
"""Of the event loop, in which it accepts who waits for it."""

_END_S = 1.0
"""For cancelled calls to account for themselves before their connection closes."""


class Http2Server:
    """A ``Server`` without grpcio.

    Args:
        listen: ``unix:/path`` or ``host:port``.
        max_message_bytes: largest message.
        max_streams: streams at once over all connections; more end with RESOURCE_EXHAUSTED,
            which Envoy answers with its ``status_on_error``.
        max_connections: further ones are closed at once.
        socket_mode: permissions of a Unix socket.
        tls: None serves in the clear, for a Unix socket or one pod. Its files are read again when
            they change, and then peers are asked to connect anew.
        inherited: a socket that listens already, and whose path is somebody else's to remove.
    """

    def __init__(
        self,
        handler: StreamHandler,
        *,
        listen: str,
        max_message_bytes: int = 64 << 20,
        max_streams: int = 10_000,
        max_connections: int = MAX_CONNECTIONS,
        socket_mode: int = 0o660,
        keepalive: Keepalive = KEEPALIVE,
        tls: ServerTls | None = None,
        inherited: socket.socket | None = None,
    ) -> None:
        self._handler = handler
        self._listen = listen
        self._inherited = inherited
        self._socket_mode = socket_mode
        self._max_streams = max_streams
        self._tls = tls
        self._bounds = Bounds(
            max_streams=max_streams + _SPARE_STREAMS,
            max_message_bytes=max_message_bytes,
            ping_s=keepalive.interval_s,
            ping_timeout_s=keepalive.timeout_s,
        )
        self._health = Health(("", METHOD[0]))
        self._methods: dict[bytes, Method] = {
            f"/{METHOD[0]}/{METHOD[1]}".encode(): self._process,
            f"/{ACCESS_LOGS[0]}/{ACCESS_LOGS[1]}".encode(): self._access_logs,
            **self._health.methods,
        }
        self._connections = Connections(max_connections)
        self._streams: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._watching: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """See ``Server``."""
        loop = asyncio.get_running_loop()
        path = socket_path(self._listen)
        try:
            tls = None if self._tls is None else ServingTls(self._tls)
            context, within_s = (None, None) if tls is None else (tls.context, HANDSHAKE_S)
            if self._inherited is not None:
                self._listener = await self._take_over(self._inherited, context)
            elif path is not None:
                make_way(path)
                self._listener = await loop.create_unix_server(
                    self._protocol,
                    str(path),
                    backlog=_BACKLOG,
                    ssl=context,
                    ssl_handshake_timeout=within_s,
                )
                path.chmod(self._socket_mode)
            else:
                host, _, port = self._listen.rpartition(":")
                self._listener = await loop.create_server(
                    self._protocol,
                    host.strip("[]"),
                    int(port),
                    backlog=_BACKLOG,
                    ssl=context,
                    ssl_handshake_timeout=within_s,
                )
                self.port = self._listener.sockets[0].getsockname()[1]
        except (OSError, ssl.SSLError) as fault:
            raise ServerError(f"can't listen on {self._listen}: {fault}") from fault
        if tls is not None:
            self._watching = asyncio.create_task(tls.watch(self._reconnect), name="tls-watch")
        self._health.set_serving(True)

    async def _take_over(
        self, inherited: socket.socket, context: ssl.SSLContext | None
    ) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        within_s = None if context is None else HANDSHAKE_S
        if inherited.family == socket.AF_UNIX:
            # Closing it must leave its path, where another process may listen.
            keep: dict[str, Any] = {} if sys.version_info < (3, 13) else {"cleanup_socket": False}
            return await loop.create_unix_server(
                self._protocol,
                sock=inherited,
                backlog=_BACKLOG,
                ssl=context,
                ssl_handshake_timeout=within_s,
                **keep,
            )
        return await loop.create_server(
            self._protocol,
            sock=inherited,
            backlog=_BACKLOG,
            ssl=context,
            ssl_handshake_timeout=within_s,
        )

    def _reconnect(self) -> None:
        """Have every peer come back under the new files; what runs goes on."""
        for connection in self._connections:
            connection.shut_down()

    async def drain(self, *, grace_s: float, hand_back_s: float, replaced: bool = False) -> None:
        """See ``Server``."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        if self._watching is not None:
            self._watching.cancel()
        # Who is told so stops asking at this address, where somebody else serves already.
        self._health.set_serving(replaced)
        self._connections.leaving = True
        if replaced:
            listener.close()  # who waits to be accepted is the other's
        elif self._inherited is None and (path := socket_path(self._listen)) is not None:
            # Nobody else shall come. Once: its next owner may be there before we are gone.
            path.unlink(missing_ok=True)
        for connection in self._connections:
            connection.shut_down()
        await self._parted(min(grace_s, _PARTING_S))
        # Not before: whoever waited to be accepted would be cut off, instead of sent elsewhere.
        listener.close()
        if not await self._idle(grace_s):
            log.warning("handing_back", extra={"streams": self._handler.live})
            self._handler.hand_back()
            await self._idle(hand_back_s)
        self._connections.gone = True
        for connection in self._connections:
            connection.close()
        for task in self._streams:
            task.cancel()
        await self._idle(_END_S)

    async def _parted(self, deadline_s: float) -> None:
        """Wait until no peer can open a call any more, for ``deadline_s`` at most."""
        for _ in range(_ACCEPTING_TURNS):
            await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while waiting := [one for one in self._connections if not one.parted.is_set()]:
                    await waiting[0].parted.wait()

    async def _idle(self, deadline_s: float) -> bool:
        """Wait until no stream runs, for ``deadline_s`` at most."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while self._streams and (left := end - loop.time()) > 0:
            await asyncio.wait(self._streams, timeout=left)
        return not self._streams

    async def _process(self, call: ServedCall) -> None:
        if self._handler.live >= self._max_streams or self._handler.is_hopeless(call):
            raise Abort(*TOO_MANY)
        task = call.task
        assert task is not None  # noqa: S101 - it is what runs this
        self._streams.add(task)
        try:
            await self._handler.run(call)
        except Exception as fault:
            raise Abort(*failure(fault)) from fault
        finally:
            self._streams.discard(task)

    async def _access_logs(self, call: ServedCall) -> None:
        while (data := await call.read()) is not None:
            try:
                entries = read_access_logs(data)
            except CodecError as fault:
                raise Abort(Status.INVALID_ARGUMENT, str(fault)) from fault
            for exchange_id, body_bytes in entries:
                self._handler.logged(exchange_id, body_bytes)

    def _protocol(self) -> Http2Protocol:
        return Http2Protocol(self._methods, self._bounds, self._connections)
