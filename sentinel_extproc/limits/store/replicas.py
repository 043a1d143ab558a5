"""How many replicas share one Redis: each says that it is there, and counts those that did."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

from . import StoreError
from .redis import RedisStore


class ReplicaCounter:
    """Keeps the last known number of replicas.

    Args:
        store: where they meet.
        every_s: how often this one says that it is there; it is forgotten after four times that.
        at_least: how many there are at any time, as far as the operator knows. A replica that
            starts while the store is away can't count the others.
    """

    def __init__(self, store: RedisStore, *, every_s: float = 5.0, at_least: int = 1) -> None:
        if at_least < 1:
            raise ValueError("at_least counts this replica, too: it can't be below 1")
        self._store = store
        self._every_s = every_s
        self._name = uuid.uuid4().hex
        self._task: asyncio.Task[None] | None = None
        self._at_least = at_least
        self.count = at_least
        """As last heard, but never below ``at_least``."""

    def start(self) -> None:
        """Begin to count, behind everything else."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="limits-replicas")

    async def beat(self) -> None:
        """Say that this replica is there, and count.

        Raises:
            StoreError: the number stays what it was.
        """
        self.count = max(self._at_least, await self._store.beat(self._name, self._every_s * 4))

    async def stop(self) -> None:
        """Stop counting."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                await self.beat()
            await asyncio.sleep(self._every_s)
