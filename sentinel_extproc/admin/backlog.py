"""How much usage waits, counted now and then: counting millions of records takes a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage.item_queue import Backlog

log = logging.getLogger(__name__)

MAX_SHARE = 0.05
"""Of the time that counting may take."""


class BacklogSampler:
    """One background task that keeps the last count.

    Args:
        count: usually ``Outbox.backlog``.
        every_s: between counts, as long as they are quick.
    """

    def __init__(self, count: Callable[[], Awaitable[Backlog]], *, every_s: float = 5.0) -> None:
        self._count = count
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self.last: Backlog | None = None
        """None until it was counted once, and while it can't be."""

    def start(self) -> None:
        """Begin; once."""
        self._task = asyncio.create_task(self._run(), name="backlog-sampler")

    async def aclose(self) -> None:
        """End. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                self.last = await self._count()
            except Unavailable:
                self.last = None
            except Exception:
                # A wrong number would be worse than none, and no number better than no sampler.
                self.last = None
                log.exception("the backlog can't be counted")
            took = loop.time() - started
            await asyncio.sleep(max(self._every_s, took / MAX_SHARE))
