"""Work that outlives the exchange that asked for it: tracked, bounded in time at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sentinel_extproc.limits.model import Settled


class Background:
    """A set of tasks that nobody awaits but everybody may wait for.

    asyncio keeps only weak references to tasks, so a task that nothing holds can vanish.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None] | Settled) -> asyncio.Task[None] | None:
        """Run ``work``, which handles its own errors.

        Returns:
            Its task, for who waits all the same; None if there is nothing left of it to do.
        """
        if isinstance(work, Settled):
            return None
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def join(self, deadline_s: float) -> int:
        """Wait until all is done or ``deadline_s`` is over, then cancel the rest.

        Returns:
            How many tasks had to be cancelled.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while self._tasks and (left := end - loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        late = list(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return len(late)
