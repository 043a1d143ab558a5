"""Applies settlements behind the answers they belong to, until the store takes them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass

from .store import Claim, Store, StoreError

log = logging.getLogger(__name__)

_BATCH = 32
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class _Due:
    claim: Claim
    since_s: float


class Settler:
    """A bounded queue of settlements in front of a store.

    Args:
        store: takes each one once; repeating is harmless for ``give_up_s``.
        max_pending: beyond it the oldest is dropped: its hold heals by itself, over-counted.
        give_up_s: how long one is tried; less than the store recognises repetitions.
    """

    def __init__(
        self, store: Store, *, max_pending: int = 100_000, give_up_s: float = 240.0
    ) -> None:
        self._store = store
        self._max_pending = max_pending
        self._give_up_s = give_up_s
        self._due: dict[tuple[str, str], _Due] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    @property
    def pending(self) -> int:
        """Settlements that are not applied yet."""
        return len(self._due)

    def submit(self, claim: Claim) -> None:
        """Take a settlement over; returns at once. Needs a running event loop."""
        if len(self._due) >= self._max_pending:
            self._due.pop(next(iter(self._due)))
            self._drop()
        self._due.setdefault((claim.owner, claim.id), _Due(claim, time.monotonic()))
        self._idle.clear()
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="limits-settler")

    async def flush(self) -> None:
        """Return when nothing is pending."""
        await self._idle.wait()

    async def close(self, *, timeout_s: float) -> None:
        """Flush for at most ``timeout_s``, then stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.flush()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due:
                if await self._settle_some():
                    pause_s = _FIRST_PAUSE_S
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            self._idle.set()

    async def _settle_some(self) -> bool:
        batch = list(self._due.items())[:_BATCH]
        results = await asyncio.gather(
            *(self._store.settle(due.claim) for _, due in batch), return_exceptions=True
        )
        now, all_taken = time.monotonic(), True
        for (key, due), result in zip(batch, results, strict=True):
            if result is None:
                self._due.pop(key, None)
            elif isinstance(result, StoreError) and now - due.since_s < self._give_up_s:
                all_taken = False
            else:
                if not isinstance(result, StoreError):
                    log.error("a settlement failed", exc_info=result)
                self._due.pop(key, None)
                self._drop()
        return all_taken

    def _drop(self) -> None:
        self.dropped += 1
        log.warning("a settlement was dropped; its hold will lapse by itself")
