"""Redis clients from URLs, without retries of their own.

A client that repeats a command by itself charges twice; here a command is repeated by its id, in
one place (``ladder``).
"""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from .redis import Client


def build_client(url: str, *, timeout_s: float = 0.025, max_connections: int = 64) -> Client:
    """A client that has not connected yet.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, with ``user:password@`` for ACLs.
        timeout_s: of a read or write; connecting may take up to 1 s, outside of any request.

    Raises:
        ValueError: a URL that names no Redis.
    """
    pool = ConnectionPool.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=max(timeout_s, 1.0),
        max_connections=max_connections,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
    return Redis.from_pool(pool)
