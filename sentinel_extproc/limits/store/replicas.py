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
    """

    def __init__(self, store: RedisStore, *, every_s: float = 5.0) -> None:
        self._store = store
        self._every_s = every_s
        self._name = uuid.uuid4().hex
        self._task: asyncio.Task[None] | None = None
        self.count = 1
        """At least this one; as last heard."""

    def start(self) -> None:
        """Begin to count, behind everything else."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="limits-replicas")

    async def beat(self) -> None:
        """Say that this replica is there, and count.

        Raises:
            StoreError: the number stays what it was.
        """
        self.count = max(1, await self._store.beat(self._name, self._every_s * 4))

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
