"""The live page of the demo's sidecar: on a loopback port, behind a token drawn for this run."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass

from sentinel_extproc.demo.process import StartError

PREFERRED_PORT = 9180
"""The admin port's own default."""


@dataclass(frozen=True, slots=True)
class LivePage:
    """Where the page is, and what opens it."""

    port: int
    token: str

    @property
    def link(self) -> str:
        """For a browser: its log-in form comes filled in, as what is behind # isn't sent."""
        return f"http://127.0.0.1:{self.port}/#token={self.token}"

    @property
    def settings(self) -> dict[str, str]:
        """The sidecar's, by environment name."""
        return {
            "SENTINEL_ADMIN__LISTEN": f"127.0.0.1:{self.port}",
            "SENTINEL_ADMIN__TOKEN": self.token,
        }


def live_page() -> LivePage:
    """A page on the usual port, or on a free one where that is taken, with a token of its own.

    Raises:
        StartError: there is no port to be had.
    """
    # The sidecar needs a number: nobody would learn which one it was given for a 0. In between
    # somebody may take it; then the sidecar says so, and ends.
    port = free_port(PREFERRED_PORT) or free_port(0)
    if port is None:
        raise StartError("no port on loopback is free for the live page")
    return LivePage(port, secrets.token_urlsafe(24))


def free_port(port: int) -> int | None:
    """``port`` on loopback if nobody listens there, for 0 one that the kernel chooses; or None."""
    # Without SO_REUSEPORT, so that an Envoy that already listens there is noticed.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return None
        return int(probe.getsockname()[1])
