"""The cache's second level, in Redis: what one replica learned the others needn't ask for, and a
restart begins warm.

Never more than a convenience: every failure is a miss, within a small time budget, and after one
Redis is left alone for a moment. What is stored says who a token belongs to, under the token's
hash; it can't be turned back into a token.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol, cast

import msgspec

from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Epoch
from sentinel_extproc.limits.store.attempts import Attempts
from sentinel_extproc.limits.store.redis import Client


@dataclass(frozen=True, slots=True)
class SharedEntry:
    """A principal, and when its source vouched for it.

    Attributes:
        checked_at_ms: milliseconds since the epoch.
        signed_sha256: of a JWT's signed part, so that whoever revokes it by the SHA-256 of its text
            can refuse its other spellings; empty for other tokens.
    """

    principal: Principal
    checked_at_ms: int
    signed_sha256: bytes = b""


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
    signed_sha256: bytes = b""


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
        self._attempts = Attempts("the shared identity cache", budget_s=budget_s, clock=clock)
        self._counters = SharedCounters()

    @property
    def counters(self) -> SharedCounters:
        """Counts for telemetry, as they stand."""
        attempts = self._attempts
        return replace(self._counters, failures=attempts.failures, skipped=attempts.skipped)

    async def get(self, token_sha256: bytes) -> SharedEntry | None:
        """What is shared of this token."""
        body = await self._attempts.one(
            lambda: cast("Awaitable[object]", self._client.get(self._key(token_sha256)))
        )
        try:
            stored = msgspec.msgpack.decode(body, type=_Stored) if isinstance(body, bytes) else None
        except (msgspec.MsgspecError, UnicodeDecodeError):  # of another version
            stored = None
        if stored is None:
            self._counters.misses += 1
            return None
        self._counters.hits += 1
        return SharedEntry(
            Principal(
                external_id=stored.external_id,
                user_id=stored.user_id,
                email=stored.email,
                plan=stored.plan,
                epochs=tuple(Epoch(name, seen) for name, seen in stored.epochs),
            ),
            stored.checked_at_ms,
            stored.signed_sha256,
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
                signed_sha256=entry.signed_sha256,
            )
        )
        life_ms = int(ttl_s * 1000)
        if life_ms > 0:
            await self._attempts.one(
                lambda: cast(
                    "Awaitable[object]",
                    self._client.set(self._key(token_sha256), body, px=life_ms),
                )
            )

    async def remove(self, token_sha256: bytes) -> None:
        """Share nothing of this token any more."""
        await self._attempts.one(
            lambda: cast("Awaitable[object]", self._client.delete(self._key(token_sha256)))
        )

    def _key(self, token_sha256: bytes) -> str:
        return f"{self._prefix}:1:id:{token_sha256.hex()}"


class OwnersOnly:
    """A ``SharedCache`` that nothing is believed from: for sources that check for themselves.

    Asking them costs less than asking Redis, and a key taken out of a file must not live on there.
    What is written still tells whose token it is, to whoever revokes it elsewhere.
    """

    def __init__(self, shared: SharedCache) -> None:
        self._shared = shared

    async def get(self, token_sha256: bytes) -> SharedEntry | None:  # noqa: ARG002
        """Nothing."""
        return None

    async def put(self, token_sha256: bytes, entry: SharedEntry, ttl_s: float) -> None:
        """See ``SharedCache``."""
        await self._shared.put(token_sha256, entry, ttl_s)

    async def remove(self, token_sha256: bytes) -> None:
        """See ``SharedCache``."""
        await self._shared.remove(token_sha256)
