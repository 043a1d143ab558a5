"""Where a load may go: this machine, unless told otherwise."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit


class NotAllowed(ValueError):
    """The target is elsewhere, or can't be found at all; says which."""


def check_target(url: str, *, allow_remote: bool) -> None:
    """Look up the host of ``url``.

    Raises:
        NotAllowed: it isn't (only) this machine and ``allow_remote`` is false, or it is unknown.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as fault:
        raise NotAllowed(f"{url} is no address: {fault}") from fault
    try:
        found = socket.getaddrinfo(host, port or 80, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as fault:
        raise NotAllowed(f"{host} can't be found: {fault}") from fault
    elsewhere = [
        str(address)
        for *_, where in found
        if not (address := ipaddress.ip_address(str(where[0]).split("%")[0])).is_loopback
    ]
    if elsewhere and not allow_remote:
        which = host if host == elsewhere[0] else f"{host} ({elsewhere[0]})"
        raise NotAllowed(
            f"{which} is not this machine. Load only what is yours; if it is, say --allow-remote."
        )
