"""Facts that wait until there are some, and are dealt with together.

Between two exchanges the processor's caches fill with other work, so what an adapter does costs
several times as much alone as behind its like: one log line took up to a sixth of a whole JSON
exchange (docs/benchmarks.md). So adapters take facts in batches, and whoever reads drains first.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

F = TypeVar("F")

MOST = 64
"""Facts that may wait; what an exchange leaves is a few hundred bytes of each."""


def _nothing_more() -> None:
    pass


class Batch(Generic[F]):
    """Facts in front of an adapter. One thread adds; any may drain it.

    Args:
        take: the adapter, one fact at a time and never two at once; must not raise, nor add.
        done: called behind the facts of each draining, as ``take``: for what an adapter has put
            together of them.
    """

    __slots__ = ("_done", "_lock", "_most", "_take", "_waiting")

    def __init__(
        self,
        take: Callable[[F], None],
        *,
        most: int = MOST,
        done: Callable[[], None] = _nothing_more,
    ) -> None:
        self._take = take
        self._done = done
        self._most = most
        self._waiting: list[F] = []
        self._lock = threading.Lock()

    def add(self, fact: F) -> None:
        """Deal with ``fact``, at the latest when somebody drains."""
        waiting = self._waiting
        waiting.append(fact)
        if len(waiting) >= self._most:
            self.drain()

    def drain(self) -> None:
        """Deal with all that wait, in order. When it returns, they are dealt with."""
        with self._lock:
            # What is added meanwhile comes behind these, and stays.
            facts = self._waiting[:]
            if facts:
                del self._waiting[: len(facts)]
                take = self._take
                for fact in facts:
                    take(fact)
                self._done()


class TimedBatch(Batch[F]):
    """One that drains itself, at the latest after ``within_s``. For one event loop."""

    __slots__ = ("_timer", "_within_s")

    def __init__(
        self,
        take: Callable[[F], None],
        *,
        within_s: float,
        most: int = MOST,
        done: Callable[[], None] = _nothing_more,
    ) -> None:
        super().__init__(take, most=most, done=done)
        self._within_s = within_s
        self._timer: asyncio.TimerHandle | None = None

    def add(self, fact: F) -> None:
        """See ``Batch``. Needs a running event loop."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._within_s, self._due)
        waiting = self._waiting
        waiting.append(fact)
        if len(waiting) >= self._most:
            self.drain()

    def _due(self) -> None:
        self._timer = None
        self.drain()
