"""The workers' listening sockets, which outlive every worker.

While a socket is open, connections to it wait for whoever serves there next; while it is closed
they are refused, and go to another worker.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from sentinel_extproc.transport.server import ServerError
from sentinel_extproc.transport.unix_socket import make_way, socket_path

BACKLOG = 1024


class Seats:
    """One address for each worker.

    Args:
        socket_mode: permissions of Unix sockets.
    """

    def __init__(self, addresses: Sequence[str], *, socket_mode: int) -> None:
        self.addresses = tuple(addresses)
        self._socket_mode = socket_mode
        self._open: dict[int, socket.socket] = {}

    def listening(self, seat: int) -> socket.socket:
        """The socket of a seat, opened if need be.

        Raises:
            ServerError: it can't listen there.
        """
        if seat not in self._open:
            address = self.addresses[seat]
            try:
                self._open[seat] = _listen(address, self._socket_mode)
            except OSError as fault:
                raise ServerError(f"can't listen on {address}: {fault}") from fault
        return self._open[seat]

    def close(self, seat: int) -> None:
        """Refuse connections there."""
        if (opened := self._open.pop(seat, None)) is not None:
            opened.close()
            if (path := socket_path(self.addresses[seat])) is not None:
                path.unlink(missing_ok=True)

    def leave(self, keep: int | None) -> None:
        """In a new process: let go of the sockets of the others, which they need."""
        for seat, opened in self._open.items():
            if seat != keep:
                opened.close()

    def close_all(self) -> None:
        """End."""
        for seat in list(self._open):
            self.close(seat)


def _listen(address: str, mode: int) -> socket.socket:
    path = socket_path(address)
    if path is not None:
        make_way(path)
        made = socket.socket(socket.AF_UNIX)
        target: object = str(path)
    else:
        host, _, port = address.rpartition(":")
        found = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # `localhost` is two addresses; people mean the older one.
        family, kind, protocol, _, target = min(found, key=lambda one: one[0] != socket.AF_INET)
        made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        if path is None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(target)  # type: ignore[arg-type]
        if path is not None:
            # Before it listens: nobody gets in while the permissions are still the default ones.
            path.chmod(mode)
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made
