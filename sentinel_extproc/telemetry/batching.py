"""Facts that wait until there are some, and are dealt with together.

Between two exchanges the processor's caches fill with other work, so what an adapter does costs
several times as much alone as behind its like: one log line took up to a sixth of a whole JSON
exchange (docs/benchmarks.md). So adapters take facts in batches, and whoever reads drains first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

F = TypeVar("F")

MOST = 64
"""Facts that may wait; what an exchange leaves is a few hundred bytes of each."""


class Batch(Generic[F]):
    """Facts in front of an adapter. Any thread may drain it.

    Args:
        take: the adapter; must not raise.
    """

    __slots__ = ("_most", "_take", "_waiting")

    def __init__(self, take: Callable[[F], None], *, most: int = MOST) -> None:
        self._take = take
        self._most = most
        self._waiting: deque[F] = deque()

    def add(self, fact: F) -> None:
        """Deal with ``fact``, at the latest when somebody drains."""
        self._waiting.append(fact)
        if len(self._waiting) >= self._most:
            self.drain()

    def drain(self) -> None:
        """Deal with all that wait, in order."""
        waiting = self._waiting
        while waiting:
            try:
                fact = waiting.popleft()
            except IndexError:  # another thread was quicker
                return
            self._take(fact)


class TimedBatch(Batch[F]):
    """One that drains itself, at the latest after ``within_s``. For one event loop."""

    __slots__ = ("_timer", "_within_s")

    def __init__(self, take: Callable[[F], None], *, within_s: float, most: int = MOST) -> None:
        super().__init__(take, most=most)
        self._within_s = within_s
        self._timer: asyncio.TimerHandle | None = None

    def add(self, fact: F) -> None:
        """See ``Batch``. Needs a running event loop."""
        super().add(fact)
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_later(self._within_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self.drain()
