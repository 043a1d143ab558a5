"""The same server on grpcio: one generic method on raw bytes, health, and an orderly end.

Slower than our own HTTP/2 (docs/benchmarks.md), and kept to fall back on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from sentinel_extproc.transport.codec import METHOD
from sentinel_extproc.transport.http2.head import Status
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

Context = grpc.aio.ServicerContext[bytes, bytes]
_SERVING = health_pb2.HealthCheckResponse.SERVING


class GrpcioServer:
    """A ``Server`` on grpc.aio.

    Args:
        listen: ``unix:/path`` or ``host:port``.
        max_message_bytes: largest message; grpcio's own default of 4 MiB would turn every larger
            buffered body into a 500.
        max_streams: streams at once over all connections; more are refused with
            RESOURCE_EXHAUSTED, which Envoy answers with its ``status_on_error``.
        socket_mode: permissions of a Unix socket.
    """

    def __init__(
        self,
        handler: StreamHandler,
        *,
        listen: str,
        max_message_bytes: int = 64 << 20,
        max_streams: int = 10_000,
        socket_mode: int = 0o660,
        keepalive: Keepalive = KEEPALIVE,
        reflection: bool = False,
        tls: ServerTls | None = None,
    ) -> None:
        self._handler = handler
        self._listen = listen
        self._socket_mode = socket_mode
        self._max_streams = max_streams
        self._reflection = reflection
        self._tls = tls
        self._health = health_aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._options = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # Some above our own bound, for health checks on the same connection.
            ("grpc.max_concurrent_streams", max_streams + 100),
            ("grpc.keepalive_time_ms", int(keepalive.interval_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(keepalive.timeout_s * 1000)),
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ("grpc.so_reuseport", 0),
        ]
        self.port = 0

    async def start(self) -> None:
        """See ``Server``."""
        server = grpc.aio.server(options=self._options)
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
            self._process
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(METHOD[0], {METHOD[1]: handler}),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._reflection:
            from grpc_reflection.v1alpha import reflection

            names = (health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,)
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        path = socket_path(self._listen)
        try:
            if path is not None:
                make_way(path)
            if self._tls is None:
                self.port = server.add_insecure_port(self._listen)
            else:
                self.port = server.add_secure_port(self._listen, _credentials(self._tls))
            if path is not None:
                path.chmod(self._socket_mode)
        except (OSError, RuntimeError) as fault:
            raise ServerError(f"can't listen on {self._listen}: {fault}") from fault
        await server.start()
        self._server = server
        await self._set_serving(True)

    async def drain(
        self,
        *,
        grace_s: float,
        hand_back_s: float,
        replaced: bool = False,  # noqa: ARG002 - a single process is never replaced
    ) -> None:
        """See ``Server``."""
        if self._server is None:
            return
        await self._set_serving(False)
        stopped = asyncio.create_task(self._server.stop(grace_s + hand_back_s))
        done, _ = await asyncio.wait({stopped}, timeout=grace_s)
        if not done:
            log.warning("handing_back", extra={"streams": self._handler.live})
            self._handler.hand_back()
        await stopped
        self._server = None
        if (path := socket_path(self._listen)) is not None:
            path.unlink(missing_ok=True)

    async def _set_serving(self, serving: bool) -> None:
        status = _SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", METHOD[0]):
            await self._health.set(service, status)

    async def _process(self, _: AsyncIterator[bytes], context: Context) -> None:
        # Not grpcio's own bound, which would refuse health checks just when there is much to do.
        if self._handler.live >= self._max_streams:
            await _abort(context, *TOO_MANY)
        try:
            await self._handler.run(_GrpcStream(context))
        except asyncio.CancelledError:
            raise
        except Exception as fault:  # noqa: BLE001 - already told as a fact; Envoy must see an error
            await _abort(context, *failure(fault))


async def _abort(context: Context, status: Status, reason: str) -> None:
    await context.abort(_CODES[status], reason)


_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class _GrpcStream:
    """``driver.Stream`` on a grpc.aio context."""

    __slots__ = ("_context", "came_s")

    behind = 0  # grpcio doesn't tell

    def __init__(self, context: Context) -> None:
        self._context = context
        self.came_s = 0.0

    def header(self, name: str) -> bytes:
        for key, value in self._context.invocation_metadata() or ():
            if key == name:
                return value.encode() if isinstance(value, str) else value
        return b""

    async def read(self) -> bytes | None:
        message: Any = await self._context.read()
        self.came_s = asyncio.get_running_loop().time()
        return None if message is grpc.aio.EOF else message

    async def write(self, data: bytes) -> None:
        await self._context.write(data)

    def stop_reading(self) -> None:
        """Only streams that are metered natively are ended so, which needs the other server."""


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    pair = (Path(tls.key).read_bytes(), Path(tls.certificate).read_bytes())
    clients = None if tls.client_ca is None else Path(tls.client_ca).read_bytes()
    return grpc.ssl_server_credentials(
        [pair], root_certificates=clients, require_client_auth=clients is not None
    )
