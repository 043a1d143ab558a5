"""An ASGI app served by uvicorn in a thread and event loop of its own.

Stand-ins must also be able to fail as real servers do, by cutting a connection, which ASGI has no
word for; `drop_connection` does it for apps that are served here.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sentinel_extproc.demo.process import StartError
from sentinel_extproc.demo.stopping import Stopping

_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0

_connections: dict[object, asyncio.Transport] = {}


class _CuttableConnection(H11Protocol):
    """Remembers its transport under the addresses that the app finds in its scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _connections[self.client, self.server] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        _connections.pop((self.client, self.server), None)
        super().connection_lost(exc)


async def drop_connection(
    scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[MutableMapping[str, Any]]]
) -> None:
    """Reset the client's connection; whatever was not sent yet never arrives."""
    transport = _connections.get((scope["client"], scope["server"]))
    if transport is None:
        raise RuntimeError("this app isn't served by sentinel_extproc.demo.hosting")
    transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass


class HostedApp(Stopping):
    """A running app; ``port`` is what the kernel gave when 0 was asked for."""

    def __init__(self, *, name: str, server: uvicorn.Server, listening: socket.socket) -> None:
        self.name = name
        self.port = int(listening.getsockname()[1])
        self._host = str(listening.getsockname()[0])
        self._server = server
        self._socket = listening
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, name=name, daemon=True
        )

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://{self._host}:{self.port}"

    def start(self) -> Self:
        """Start the thread and wait until the app is served.

        Raises:
            StartError: it isn't within 10 s.
        """
        self._thread.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() >= deadline:
                self.stop()
                raise StartError(f"{self.name} could not be served at {self.url}")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """Stop serving; responses that don't end by themselves are cut after a second."""
        self._server.should_exit = True
        self._thread.join(_STOP_TIMEOUT_S)
        self._socket.close()


def serve_app(app: Any, *, name: str, host: str = "127.0.0.1", port: int = 0) -> HostedApp:
    """Serve ``app`` until its `stop`.

    Raises:
        StartError: the address can't be bound, or the app doesn't come up.
    """
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1024)
    except OSError as fault:
        listening.close()
        raise StartError(f"{name} could not listen on {host}:{port}: {fault}") from fault
    return HostedApp(
        name=name, server=uvicorn.Server(server_config(app)), listening=listening
    ).start()


def server_config(app: Any, *, host: str = "127.0.0.1", port: int = 0) -> uvicorn.Config:
    """How stand-ins are served, in a thread or as a command."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        http=_CuttableConnection,
        ws="none",
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
