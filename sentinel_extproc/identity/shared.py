"""The cache's second level, in Redis: what one replica learned the others needn't ask for, and a
restart begins warm.

Never more than a convenience: every failure is a miss, within a small time budget, and after one
Redis is left alone for a moment. What is stored says who a token belongs to, under the token's
hash; it can't be turned back into a token.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import msgspec
from redis.exceptions import RedisError

from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Epoch
from sentinel_extproc.limits.store.redis import Client

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE_S = 1.0
"""How long Redis is left alone after a failure."""


@dataclass(frozen=True, slots=True)
class SharedEntry:
    """A principal, and when its source vouched for it: milliseconds since the epoch."""

    principal: Principal
    checked_at_ms: int


class SharedCache(Protocol):
    """Shared between replicas. Nothing raises, nothing takes long."""

    async def get(self, token_sha256: bytes) -> SharedEntry | None: ...

    async def put(self, token_sha256: bytes, entry: SharedEntry, ttl_s: float) -> None: ...

    async def remove(self, token_sha256: bytes) -> None: ...


class _Stored(msgspec.Struct, array_like=True, frozen=True):
    external_id: str
    user_id: str
    email: str
    plan: str | None
    epochs: tuple[tuple[str, int], ...]
    checked_at_ms: int


@dataclass(slots=True)
class SharedCounters:
    """What happened so far; only ever grows."""

    hits: int = 0
    misses: int = 0
    failures: int = 0
    skipped: int = 0


class RedisSharedCache:
    """Implements ``SharedCache``.

    Args:
        prefix: of every key.
        budget_s: longest that one operation may take.
    """

    def __init__(
        self,
        client: Client,
        *,
        prefix: str = "sentinel",
        budget_s: float = 0.025,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._budget_s = budget_s
        self._clock = clock
        self._paused_until = 0.0
        self.counters = SharedCounters()

    async def get(self, token_sha256: bytes) -> SharedEntry | None:
        """What is shared of this token."""
        body = await self._try(
            lambda: cast("Awaitable[object]", self._client.get(self._key(token_sha256)))
        )
        try:
            stored = msgspec.msgpack.decode(body, type=_Stored) if isinstance(body, bytes) else None
        except msgspec.MsgspecError:  # of another version
            stored = None
        if stored is None:
            self.counters.misses += 1
            return None
        self.counters.hits += 1
        return SharedEntry(
            Principal(
                external_id=stored.external_id,
                user_id=stored.user_id,
                email=stored.email,
                plan=stored.plan,
                epochs=tuple(Epoch(name, seen) for name, seen in stored.epochs),
            ),
            stored.checked_at_ms,
        )

    async def put(self, token_sha256: bytes, entry: SharedEntry, ttl_s: float) -> None:
        """Share what the source said, for ``ttl_s`` seconds."""
        principal = entry.principal
        body = msgspec.msgpack.encode(
            _Stored(
                external_id=principal.external_id,
                user_id=principal.user_id,
                email=principal.email,
                plan=principal.plan,
                epochs=tuple((epoch.name, epoch.seen) for epoch in principal.epochs),
                checked_at_ms=entry.checked_at_ms,
            )
        )
        life_ms = int(ttl_s * 1000)
        if life_ms > 0:
            await self._try(
                lambda: cast(
                    "Awaitable[object]",
                    self._client.set(self._key(token_sha256), body, px=life_ms),
                )
            )

    async def remove(self, token_sha256: bytes) -> None:
        """Share nothing of this token any more."""
        await self._try(
            lambda: cast("Awaitable[object]", self._client.delete(self._key(token_sha256)))
        )

    def _key(self, token_sha256: bytes) -> str:
        return f"{self._prefix}:1:id:{token_sha256.hex()}"

    async def _try(self, operation: Callable[[], Awaitable[T]]) -> T | None:
        if self._clock() < self._paused_until:
            self.counters.skipped += 1
            return None
        try:
            async with asyncio.timeout(self._budget_s):
                return await operation()
        except (RedisError, OSError, TimeoutError) as error:
            self.counters.failures += 1
            self._paused_until = self._clock() + PAUSE_S
            logger.warning("the shared identity cache failed: %s", type(error).__name__)
            return None
