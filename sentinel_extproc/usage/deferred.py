"""Usage that a provider tells later: who owes for what, in Redis, so that it is billed once.

A claim is a lease: until it is confirmed, which happens when its record is durable, it runs out and
can be claimed again. So a crash in between loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol, cast

from sentinel_extproc.limits.store.redis import Client

_KEPT_S = 35 * 86_400
"""Batches end within a day; OpenAI shows them, and their results, for 30."""

_LEASE_S = 120

_CLAIM = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[2]) then return 1 end
return 0
"""


class DeferredUsage(Protocol):
    """Who owes for work that is not yet billed. Every method may raise ``Exception``."""

    async def register(self, name: str, owner: str) -> None:
        """Note that ``owner`` will owe for ``name``."""
        ...

    async def claim(self, name: str, owner: str) -> bool:
        """Whether ``owner`` owes for ``name`` and it isn't being billed already."""
        ...

    async def confirm(self, name: str) -> None:
        """It was billed: nobody owes for it any more."""
        ...


class RedisDeferredUsage:
    """Implements :class:`DeferredUsage`.

    Args:
        prefix: of every key.
        budget_s: longest that one operation may take.
    """

    def __init__(self, client: Client, *, prefix: str, budget_s: float) -> None:
        self._client = client
        self._prefix = prefix
        self._budget = budget_s

    async def register(self, name: str, owner: str) -> None:
        key, _ = self._keys(name)
        async with asyncio.timeout(self._budget):
            await self._client.set(key, owner, ex=_KEPT_S, nx=True)

    async def claim(self, name: str, owner: str) -> bool:
        async with asyncio.timeout(self._budget):
            answer = self._client.eval(_CLAIM, 2, *self._keys(name), owner, str(_LEASE_S))
            return await cast("Awaitable[int]", answer) == 1

    async def confirm(self, name: str) -> None:
        async with asyncio.timeout(self._budget):
            await self._client.delete(*self._keys(name))

    def _keys(self, name: str) -> tuple[str, str]:
        tagged = f"{self._prefix}:1:deferred:{{{name}}}"
        return tagged, tagged + ":lease"
