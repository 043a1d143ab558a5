"""The admin port's listening socket."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from sentinel_extproc.transport.unix_socket import make_way, socket_path

BACKLOG = 128


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
        make_way(path)
        return _listen(socket.socket(socket.AF_UNIX), str(path), mode=mode)
    host, port = host_of(listen), int(listen.rpartition(":")[2])
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    # `localhost` is two addresses; people mean the older one.
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return _listen(socket.socket(family, kind, protocol), address, reuse=True)


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
