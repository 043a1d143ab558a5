"""Where an endpoint is, as far as its address tells. Pure."""

from __future__ import annotations

import ipaddress

LOOPBACK = "loopback"
"""In place of a host that is this machine, however it is spelt."""


def place(address: str) -> str:
    """An endpoint's address (``host:port`` or a path) so that spellings of one place are equal."""
    if address.startswith(("/", "@")):
        return f"/{address.lstrip('/')}" if address.startswith("/") else address
    host, _, port = address.rpartition(":")
    host = host.strip("[]").lower()
    return f"{LOOPBACK if is_loopback(host) else host}:{port}"


def is_local(address: str) -> bool:
    """Whether an endpoint is on Envoy's own machine for sure."""
    return place(address).startswith(("/", "@", f"{LOOPBACK}:"))


def is_loopback(host: str) -> bool:
    """Whether it names this machine."""
    return host == "localhost" or (is_literal(host) and ipaddress.ip_address(host).is_loopback)


def is_literal(host: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
