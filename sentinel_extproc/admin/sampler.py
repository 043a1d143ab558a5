"""Numbers that are read from a file now and then, not at every scrape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from sentinel_extproc.errors import Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_SHARE = 0.05
"""Of the time that reading may take."""


class Sampler(Generic[T]):
    """One background task that keeps what it last read.

    Args:
        read: ``Outbox.backlog``, for instance.
        every_s: between readings, as long as they are quick.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], *, every_s: float = 5.0) -> None:
        self._read = read
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self.last: T | None = None
        """None until it was read once, and while it can't be."""

    def start(self) -> None:
        """Begin; once."""
        self._task = asyncio.create_task(self._run(), name="sampler")

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
                self.last = await self._read()
            except Unavailable:
                self.last = None
            except Exception:
                # A wrong number would be worse than none, and no number better than no sampler.
                self.last = None
                log.exception("a sample can't be taken")
            took = loop.time() - started
            await asyncio.sleep(max(self._every_s, took / MAX_SHARE))
