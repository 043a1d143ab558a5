"""Ends what waits too long, with one timer for all that wait.

``asyncio.timeout`` sets a timer of its own for each, and nearly none ever goes off: that costs
several times as much as all the rest of asking something that answers at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

APART_S = 0.01
"""Between two looks at who is late, so that thousands of them cost little: how late one may be."""


class Deadlines:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Task[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._look_s = math.inf

    async def within(
        self, deadline_s: float, task: asyncio.Task[Any], work: Coroutine[Any, Any, T]
    ) -> T:
        """What ``work`` gives, if it does so in time.

        Args:
            deadline_s: on the loop's clock.
            task: the one that this runs in; it waits for one thing at a time.

        Raises:
            TimeoutError: it is over the deadline, and cancelled.
        """
        asked_to_end = task.cancelling()
        self._waiting[task] = deadline_s
        if deadline_s < self._look_s:
            self._look_at(deadline_s)
        cancelled: asyncio.CancelledError | None = None
        try:
            return await work
        except asyncio.CancelledError as error:
            cancelled = error
            raise
        finally:
            in_time = self._waiting.pop(task, None) is not None
            # If somebody else has cancelled it too, that counts.
            if not in_time and task.uncancel() <= asked_to_end and cancelled is not None:
                raise TimeoutError from cancelled

    def _look_at(self, when_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._look_s = when_s
        self._timer = asyncio.get_running_loop().call_at(when_s, self._look)

    def _look(self) -> None:
        now_s = asyncio.get_running_loop().time()
        self._timer, self._look_s = None, math.inf
        for task in [task for task, due_s in self._waiting.items() if due_s <= now_s]:
            del self._waiting[task]
            task.cancel()
        if self._waiting:
            self._look_at(max(min(self._waiting.values()), now_s + APART_S))
