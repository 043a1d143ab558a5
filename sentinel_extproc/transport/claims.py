"""Asks who owes for deferred work, without ever failing the answer that tells of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from sentinel_extproc.endpoints.contract import Deferred
from sentinel_extproc.telemetry.facts import Emit, InternalFault
from sentinel_extproc.transport.background import Background
from sentinel_extproc.usage.deferred import DeferredUsage

_WAITS_S = (0.5, 2.0, 8.0, 30.0)
"""Between tries of what must not be lost: long enough for Redis to fail over."""


class Claims:
    """Registers, claims and confirms.

    Args:
        deferred: None: nobody owes for anything.
        emit: is told of every failure.
        background: where what failed is tried again.
    """

    def __init__(
        self, deferred: DeferredUsage | None, *, emit: Emit, background: Background
    ) -> None:
        self._deferred = deferred
        self._emit = emit
        self._background = background

    async def claim(
        self, exchange_id: str, owner: str, deferrals: tuple[Deferred, ...]
    ) -> tuple[Deferred, ...]:
        """What of ``deferrals`` to bill to ``owner`` now; work not seen before is registered.

        What can't be claimed for want of Redis is billed at a later look.
        """
        if self._deferred is None:
            return ()
        claimed = []
        for one in deferrals:
            try:
                if one.usage is None:
                    await self._deferred.register(one.name, owner)
                elif await self._deferred.claim(one.name, owner):
                    claimed.append(one)
            except Exception as fault:  # noqa: BLE001 - the client's bytes must not wait for Redis
                self._failed(exchange_id, fault)
                if one.usage is not None:
                    break
                self._retry(exchange_id, partial(self._deferred.register, one.name, owner))
        return tuple(claimed)

    def confirm(self, exchange_id: str, claimed: tuple[Deferred, ...]) -> None:
        """Say that ``claimed`` is billed, in the background."""
        if self._deferred is not None:
            for one in claimed:
                self._retry(exchange_id, partial(self._deferred.confirm, one.name))

    def _retry(self, exchange_id: str, work: Callable[[], Awaitable[None]]) -> None:
        self._background.start(self._until_done(exchange_id, work))

    async def _until_done(self, exchange_id: str, work: Callable[[], Awaitable[None]]) -> None:
        for wait_s in (*_WAITS_S, None):
            try:
                await work()
            except Exception as fault:  # noqa: BLE001 - as above
                self._failed(exchange_id, fault)
                if wait_s is not None:
                    await asyncio.sleep(wait_s)
            else:
                return

    def _failed(self, exchange_id: str, fault: Exception) -> None:
        self._emit(InternalFault(exchange_id, "deferred usage", fault, True))
