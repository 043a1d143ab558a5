"""Serves the admin application with uvicorn, inside the sidecar's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from sentinel_extproc.admin.listening import open_socket
from sentinel_extproc.transport.server import ServerError
from sentinel_extproc.transport.unix_socket import socket_path

log = logging.getLogger("sentinel.admin")

MAX_CONNECTIONS = 64
"""A few scrapers, probes and people. The bound is for the file descriptors of the main job."""

MAX_CONNECTION_S = 60.0
"""Longest life of a connection, less the answer that it is in: so silence takes no place for ever,
nor does a request that never gets complete."""

STOP_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. With ``client_ca`` only clients with its certificates can connect."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class _Connection(H11Protocol):
    """A connection that can't outstay its welcome."""

    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._end = self.loop.call_later(MAX_CONNECTION_S, self.shutdown)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)


class _Uvicorn(uvicorn.Server):
    """A guest in our loop: signals stay with the host."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


class AdminServer:
    """Serves one application on one address.

    Args:
        listen: ``unix:/path`` or ``host:port``.
        socket_mode: permissions of a Unix socket; whoever may open it may control.
    """

    def __init__(
        self, app: ASGIApp, *, listen: str, socket_mode: int = 0o600, tls: Tls | None = None
    ) -> None:
        self._app = app
        self._listen = listen
        self._socket_mode = socket_mode
        self._tls = tls
        self._server: _Uvicorn | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            ServerError: the address or the certificates can't be used.
        """
        try:
            config = self._config()
            config.load()
            listening = await open_socket(self._listen, mode=self._socket_mode)
        except (OSError, ssl.SSLError) as fault:
            raise ServerError(f"the admin port can't listen on {self._listen}: {fault}") from fault
        if listening.family != socket.AF_UNIX:
            self.port = int(listening.getsockname()[1])
        self._server = _Uvicorn(config)
        self._task = asyncio.create_task(self._server.serve([listening]), name="admin-server")
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({self._task, up}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if self._task.done():
            listening.close()
            raise ServerError(f"the admin port can't serve on {self._listen}") from (
                self._task.exception()
            )
        self._task.add_done_callback(_tell_if_it_broke)

    async def aclose(self) -> None:
        """Finish what is being answered, within 2 s, and stop. May be called twice."""
        task, self._task = self._task, None
        if task is None or self._server is None:
            return
        self._server.should_exit = True
        await asyncio.wait({task}, timeout=STOP_WITHIN_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if (path := socket_path(self._listen)) is not None:
            path.unlink(missing_ok=True)

    def _config(self) -> uvicorn.Config:
        tls = self._tls
        return uvicorn.Config(
            self._app,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=16 * 1024,
            timeout_graceful_shutdown=1,
            ssl_certfile=None if tls is None else tls.certificate,
            ssl_keyfile=None if tls is None else tls.key,
            ssl_ca_certs=None if tls is None or tls.client_ca is None else str(tls.client_ca),
            ssl_cert_reqs=ssl.CERT_NONE
            if tls is None or tls.client_ca is None
            else ssl.CERT_REQUIRED,
        )


def _tell_if_it_broke(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (fault := task.exception()) is not None:
        # The data path goes on: without the admin port we are blind, not broken.
        log.error("admin_server_broke", exc_info=fault)
