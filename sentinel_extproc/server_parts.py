"""The composition root's part about the server that Envoy calls, from the settings."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

from sentinel_extproc.config.sections.serving import ServerSettings, TransportName
from sentinel_extproc.transport.driver import Driver
from sentinel_extproc.transport.http2.server import Http2Server
from sentinel_extproc.transport.server import Keepalive, Server, ServerTls


def server_of(
    server: ServerSettings, driver: Driver, *, inherited: socket.socket | None = None
) -> Server:
    """The server; not started.

    Args:
        inherited: a socket that listens already, in place of the configured address.
    """
    make: Callable[..., Server] = partial(
        Http2Server, inherited=inherited, max_connections=server.max_connections
    )
    if server.transport is TransportName.GRPCIO:
        from sentinel_extproc.transport.grpcio_server import GrpcioServer

        make = partial(GrpcioServer, reflection=server.reflection)
    return make(
        driver,
        listen=server.listen,
        max_message_bytes=server.max_message_bytes,
        max_streams=server.max_streams,
        socket_mode=server.socket_mode,
        keepalive=Keepalive(interval_s=server.keepalive_seconds),
        tls=_server_tls(server),
    )


def _server_tls(server: ServerSettings) -> ServerTls | None:
    if server.tls_cert_file is None or server.tls_key_file is None:
        return None
    clients = None if server.client_ca_file is None else str(server.client_ca_file)
    return ServerTls(str(server.tls_cert_file), str(server.tls_key_file), clients)
