"""Unix sockets as addresses: their paths, and making way for a new one."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

_PROBE_S = 1.0


def socket_path(listen: str) -> Path | None:
    """The path in ``unix:/path`` or ``unix:///path``; None for ``host:port``."""
    scheme, _, rest = listen.partition(":")
    return Path(rest.removeprefix("//")) if scheme == "unix" else None


def make_way(path: Path) -> None:
    """Create the socket's folder, and remove a socket that a killed process left behind.

    Raises:
        OSError: another process still listens there, or the folder can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_S)
        # Only trying tells a socket that is served from one that was left behind.
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
            probe.connect(str(path))
            raise OSError(f"another process is listening on {path}")
    path.unlink(missing_ok=True)
