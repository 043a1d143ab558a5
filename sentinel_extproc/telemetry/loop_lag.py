"""How late the event loop runs what is due: the delay that every request feels."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable


class LoopLag:
    """Sleeps, and tells by how much it overslept.

    Args:
        observe: takes seconds.
        every_s: between samples; four a second cost nothing and catch what lasts.
    """

    def __init__(self, observe: Callable[[float], None], *, every_s: float = 0.25) -> None:
        self._observe = observe
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; once, on the loop that is measured."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="loop-lag")

    async def aclose(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._every_s
            await asyncio.sleep(self._every_s)
            self._observe(max(0.0, loop.time() - due))
