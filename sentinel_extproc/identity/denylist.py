"""Tokens that an operator revoked: refused whatever the identity source says of them.

The list is in Redis, for as long as was configured; every process mirrors what it hears of and what
it finds. It is asked before the source is, so it costs nothing while a token is cached; what makes
cached tokens be asked for again are the revocation's epoch and its message. With Redis away the
mirror stands, and the source decides about the rest; except where an epoch says that something was
revoked: then nothing is accepted before the list was read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.identity.cache import LruMap
from sentinel_extproc.limits.store.attempts import REDIS_FAULTS, Attempts
from sentinel_extproc.limits.store.redis import Client

_PATIENCE_S = 1.0
"""For a revocation, which somebody waits for and nobody's request."""


class DenyList(Protocol):
    """Knows revoked tokens by their SHA-256."""

    def mirrored(self, token_sha256: bytes) -> bool:
        """Whether it is known here to be on the list."""
        ...

    async def denied(self, token_sha256: bytes) -> bool | None:
        """Whether it is on the list; None when that can't be known now. Never raises, never takes
        long."""
        ...

    def mirror(self, token_sha256: bytes) -> None:
        """Remember here that it was put on the list."""
        ...

    async def deny(self, token_sha256: bytes) -> None:
        """Put it on the list, for everybody.

        Raises:
            Unavailable: it could not be stored; here it is refused all the same.
        """
        ...


@dataclass(slots=True)
class DenyCounters:
    """What happened so far; only ever grows.

    Attributes:
        added: tokens that were put on the list here.
        refused: times that a token was found on it, mirrored or in Redis.
        unsure: times that Redis could not be asked.
    """

    added: int = 0
    refused: int = 0
    unsure: int = 0


class RedisDenyList:
    """Implements ``DenyList``. One event loop.

    Args:
        ttl_s: how long a token stays on the list; beyond the life of any token it need not be.
        prefix: of every key.
        budget_s: longest that one look may take.
        max_entries: of the mirror; the one used longest ago makes room, and Redis still has it.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        client: Client,
        *,
        ttl_s: float = 86_400.0,
        prefix: str = "sentinel",
        budget_s: float = 0.025,
        max_entries: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._ttl_s = ttl_s
        self._prefix = prefix
        self._clock = clock
        self._attempts = Attempts("the list of revoked tokens", budget_s=budget_s, clock=clock)
        self._until: LruMap[bytes, float] = LruMap(max_entries)
        self._counters = DenyCounters()

    def __len__(self) -> int:
        return len(self._until)

    @property
    def counters(self) -> DenyCounters:
        """Counts for telemetry, as they stand."""
        attempts = self._attempts
        return replace(self._counters, unsure=attempts.failures + attempts.skipped)

    def mirrored(self, token_sha256: bytes) -> bool:
        """See ``DenyList``."""
        until = self._until.get(token_sha256)
        if until is None:
            return False
        if self._clock() >= until:
            self._until.remove(token_sha256)
            return False
        self._counters.refused += 1
        return True

    async def denied(self, token_sha256: bytes) -> bool | None:
        """See ``DenyList``."""
        if self.mirrored(token_sha256):
            return True
        left_ms = await self._attempts.one(lambda: self._client.pttl(self._key(token_sha256)))
        if left_ms is None:
            return None
        if left_ms <= 0:
            return False
        self._counters.refused += 1
        self._until.put(token_sha256, self._clock() + left_ms / 1000)
        return True

    def mirror(self, token_sha256: bytes) -> None:
        """See ``DenyList``."""
        self._until.put(token_sha256, self._clock() + self._ttl_s)

    async def deny(self, token_sha256: bytes) -> None:
        """See ``DenyList``."""
        self.mirror(token_sha256)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._client.set(self._key(token_sha256), b"1", px=round(self._ttl_s * 1000))
        except REDIS_FAULTS as error:
            raise Unavailable(
                "The revocation could not be stored: repeat it.", code="revocation_failed"
            ) from error
        self._counters.added += 1

    def _key(self, token_sha256: bytes) -> str:
        return f"{self._prefix}:1:deny:{token_sha256.hex()}"
