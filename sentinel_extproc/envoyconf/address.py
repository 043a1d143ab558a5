"""Addresses as people write them, and as Envoy wants them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from sentinel_extproc.envoyconf.api import core

MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path that fit ``sockaddr_un`` on Linux, less the final NUL."""


@dataclass(frozen=True, slots=True)
class SocketPath:
    """A Unix socket."""

    path: str


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP address; ``host`` is a name or an IP literal without brackets."""

    host: str
    port: int

    @property
    def is_literal(self) -> bool:
        """Whether ``host`` is an IP address, so that no DNS is involved."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


def parse_address(text: str, *, parameter: str) -> SocketPath | HostPort:
    """Read ``unix:/path``, ``host:port`` or ``[v6]:port``.

    Raises:
        ValueError: anything else; the message names ``parameter``.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path.startswith("//"):
            path = path[2:]
        if not path.startswith("/"):
            raise ValueError(f"{parameter}: {text!r} must name an absolute path")
        if len(path.encode()) > MAX_SOCKET_PATH:
            raise ValueError(f"{parameter}: {text!r} is longer than {MAX_SOCKET_PATH} bytes")
        return SocketPath(path)
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{parameter}: {text!r} is neither unix:/path nor host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{parameter}: {text!r}: an IPv6 address goes in brackets")
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{parameter}: {text!r} has no port from 1 to 65535")
    check_host(host, parameter=parameter)
    return HostPort(host, int(port))


def check_host(host: str, *, parameter: str) -> None:
    """Refuse what can be neither a DNS name nor an IP literal.

    Raises:
        ValueError: naming ``parameter``.
    """
    if not host or len(host) > 253 or any(c in "/?#@[]\\ %" or not c.isprintable() for c in host):
        raise ValueError(f"{parameter}: {host!r} is not a host name or address")


def to_envoy(address: SocketPath | HostPort) -> core.Address:
    """The same address in Envoy's type."""
    if isinstance(address, SocketPath):
        return core.Address(pipe=core.Pipe(path=address.path))
    return core.Address(
        socket_address=core.SocketAddress(address=address.host, port_value=address.port)
    )
