"""The composition root's part about Redis: its clients, from the settings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from sentinel_extproc.config.sections.limits import RedisSettings
from sentinel_extproc.limits.store import StoreError
from sentinel_extproc.limits.store.connect import TlsFiles, build_client
from sentinel_extproc.limits.store.redis import Client, RedisStore
from sentinel_extproc.start_error import StartError
from sentinel_extproc.usage.deferred import RedisDeferredUsage
from sentinel_extproc.zion.breaker_board import RedisBoard

log = logging.getLogger("sentinel.app")


def redis_client(redis: RedisSettings, stack: AsyncExitStack, *, max_connections: int) -> Client:
    """A client; ``stack`` closes it."""
    client = build_client(
        redis.url,
        timeout_s=redis.timeout_seconds,
        max_connections=max_connections,
        tls=redis_tls(redis),
    )
    stack.push_async_callback(client.aclose)
    return client


def redis_store(redis: RedisSettings) -> RedisStore:
    """The store of limits; whoever uses it closes it."""
    return RedisStore(
        build_client(redis.url, timeout_s=redis.timeout_seconds, tls=redis_tls(redis)),
        prefix=redis.prefix,
        timeout_s=redis.timeout_seconds,
    )


def breaker_boards(redis: RedisSettings, stack: AsyncExitStack) -> Callable[[str], RedisBoard]:
    """Makes the board of a breaker, by its name."""
    # A client of its own: reports are sent until the very end, after the store has closed.
    client = redis_client(redis, stack, max_connections=16)

    def board(name: str) -> RedisBoard:
        return RedisBoard(client, name, prefix=redis.prefix, budget_s=redis.timeout_seconds)

    return board


def deferred_usage(redis: RedisSettings, stack: AsyncExitStack) -> RedisDeferredUsage:
    """Usage that is told of later; ``stack`` closes its client."""
    client = redis_client(redis, stack, max_connections=8)
    return RedisDeferredUsage(client, prefix=redis.prefix, budget_s=redis.timeout_seconds)


@dataclass(frozen=True, slots=True)
class RedisFound:
    """What is there.

    Attributes:
        topology: ``standalone``, ``sentinel`` or ``cluster``.
        version: with its name; of a cluster's nodes all that differ. Empty: not told.
        problem: why it wasn't reached; empty: it was.
    """

    topology: str
    version: str = ""
    problem: str = ""


async def check_redis(store: RedisStore, settings: RedisSettings) -> RedisFound:
    """Look at how Redis is set up.

    Raises:
        StartError: it may forget limits, and ``require_noeviction``.
    """
    topology = _topology(settings.url)
    try:
        complaints = await store.complaints()
    except StoreError as fault:
        # Not fatal: Redis may come later, and until then each limit's own rung decides.
        log.warning("redis_unreachable", extra={"reason": str(fault)})
        return RedisFound(topology, problem=str(fault))
    for complaint in complaints:
        if settings.require_noeviction:
            raise StartError(f"redis: {complaint} (or redis.require_noeviction: false)")
        log.error("redis_unsafe", extra={"reason": complaint})
    return RedisFound(topology, version=", ".join(await store.versions()))


def _topology(url: str) -> str:
    _, _, many = url.partition("://")[0].partition("+")
    return many or "standalone"


def redis_tls(redis: RedisSettings) -> TlsFiles | None:
    """The files for TLS, if any are set."""
    files = (redis.ca_file, redis.client_cert_file, redis.client_key_file)
    if files == (None, None, None):
        return None
    ca, certificate, key = (None if file is None else str(file) for file in files)
    return TlsFiles(ca=ca, certificate=certificate, key=key)
