"""Brings counts to the file every few seconds, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3

from sentinel_extproc.shadow.store import ShadowStore
from sentinel_extproc.shadow.tally import Tally
from sentinel_extproc.usage.record import Intent, UsageRecord

log = logging.getLogger("sentinel.shadow")

INTERVAL_S = 5.0


class ShadowRecorder:
    """Keeps a tally's counts.

    Args:
        interval_s: between two writes; a crash loses what was counted since the last.
    """

    def __init__(self, tally: Tally, store: ShadowStore, *, interval_s: float = INTERVAL_S) -> None:
        self._tally = tally
        self._store = store
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin.

        Raises:
            OSError, sqlite3.Error: the file can't be made.
        """
        self._tally.know(await asyncio.to_thread(self._store.create))
        self._task = asyncio.create_task(self._run(), name="shadow-recorder")

    async def aclose(self) -> None:
        """Write what is left."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await self._write()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            # To its end, also when we are closed meanwhile: what was drained must be kept.
            await asyncio.shield(self._write())

    async def _write(self) -> None:
        counts = self._tally.drain()
        if not counts:
            return
        try:
            await asyncio.to_thread(self._store.add, counts)
        except (OSError, sqlite3.Error):
            self._tally.give_back(counts)
            log.exception("shadow_counts_not_stored")


class NoLedger:
    """A ``Ledger`` that keeps nothing: what isn't enforced isn't billed."""

    def check_room(self) -> None:
        """There is always room."""

    def begin(self, intent: Intent) -> None:
        """Nothing is noted."""

    async def abandon(self, exchange_id: str) -> None:
        """Nothing was noted."""

    async def append(self, record: UsageRecord) -> None:
        """Nothing is kept."""
