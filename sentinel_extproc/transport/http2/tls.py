"""A server's TLS from files that may change while it serves."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from sentinel_extproc.transport.server import ServerError, ServerTls

log = logging.getLogger("sentinel.server")

LOOK_EVERY_S = 5.0

HANDSHAKE_S = 10.0
"""For a connection to show that it may be here; asyncio's own bound is a minute."""

Stamps = tuple[tuple[int, int, int], ...]


class ServingTls:
    """Context and files.

    Handshakes go by what the files held when they were last looked at and were usable.

    Raises:
        ServerError: they can't be used to start with.
    """

    def __init__(self, files: ServerTls) -> None:
        self._files = files
        self._stamps = self._look_at_files()
        self._refused = ""
        self._current = self.context = self._read()
        # OpenSSL asks it at every handshake, whether a name was sent or not. What it is given then
        # decides on the certificate and on whose clients' certificates are trusted.
        self.context.sni_callback = self._choose

    def look(self) -> bool:
        """Whether the files have changed, and are in use now. Does I/O."""
        stamps = self._look_at_files()
        if stamps == self._stamps:
            return False
        try:
            self._current = self._read()
        except (ServerError, OSError) as fault:
            # A certificate whose key has yet to follow, or no descriptor left: looked at again
            # until it is well, told once.
            if self._refused != str(fault):
                self._refused = str(fault)
                log.warning("tls_refused", extra={"reason": self._refused})
            return False
        self._stamps, self._refused = stamps, ""
        log.info("tls_reloaded")
        return True

    async def watch(self, changed: Callable[[], None], *, every_s: float = LOOK_EVERY_S) -> None:
        """Look for ever; ``changed`` is called after each change."""
        while True:
            await asyncio.sleep(every_s)
            try:
                found = await asyncio.to_thread(self.look)
            except Exception:  # what is in use stays in use
                log.exception("tls_watch_failed")
                continue
            if found:
                changed()

    def _choose(self, handshake: ssl.SSLObject, name: str | None, base: ssl.SSLContext) -> None:  # noqa: ARG002
        if self._current is not base:
            handshake.context = self._current

    @property
    def _paths(self) -> list[Path]:
        named = (self._files.certificate, self._files.key, self._files.client_ca)
        return [Path(one) for one in named if one is not None]

    def _look_at_files(self) -> Stamps:
        stamps = []
        for path in self._paths:
            try:
                found = path.stat()
            except OSError:
                stamps.append((0, 0, 0))
            else:
                stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
        return tuple(stamps)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        # Connections are few and long. A resumed session would be let in by what held long ago.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        for path in self._paths:
            if not path.is_file():  # OpenSSL's own message names no file
                raise ServerError(f"no such file: {path}")
        context.load_cert_chain(self._files.certificate, self._files.key)
        if self._files.client_ca is not None:
            context.load_verify_locations(self._files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
