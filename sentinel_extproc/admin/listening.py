"""The admin port's listening socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

BACKLOG = 128


def socket_path(listen: str) -> Path | None:
    """The path in ``unix:/path`` or ``unix:///path``; None for ``host:port``."""
    scheme, _, rest = listen.partition(":")
    return Path(rest.removeprefix("//")) if scheme == "unix" else None


def host_of(listen: str) -> str:
    """The host in ``host:port``, without brackets."""
    return listen.rpartition(":")[0].strip("[]")


async def open_socket(listen: str, *, mode: int) -> socket.socket:
    """Bind and listen.

    Args:
        listen: ``unix:/path``, or ``host:port``; port 0 lets the kernel choose.
        mode: permissions of a Unix socket.

    Raises:
        OSError: that can't be done.
    """
    path = socket_path(listen)
    if path is not None:
        return _open_unix(path, mode)
    host, port = host_of(listen), int(listen.rpartition(":")[2])
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    # `localhost` is two addresses; people mean the older one.
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return _listen(socket.socket(family, kind, protocol), address, reuse=True)


def _open_unix(path: Path, mode: int) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket():
        # Left behind by a process that was killed; one that still listens is told apart by trying.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
                probe.connect(str(path))
                raise OSError(f"another process is listening on {path}")
        path.unlink(missing_ok=True)
    return _listen(socket.socket(socket.AF_UNIX), str(path), mode=mode)


def _listen(
    made: socket.socket, address: object, *, reuse: bool = False, mode: int | None = None
) -> socket.socket:
    try:
        made.setblocking(False)
        if reuse:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)  # type: ignore[arg-type]
        if mode is not None:
            # Before it listens: nobody gets in while the permissions are still the default ones.
            Path(str(address)).chmod(mode)
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made
