"""Single flight: of any number of callers who want the same thing at once, one asks.

The work runs in a task of its own, so a caller that is cancelled takes nobody with it, and the
answer still reaches the cache when all of them are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class TooManyFlightsError(Exception):
    """The bound on concurrent flights is reached."""


class SingleFlight(Generic[K, V]):
    """Runs at most one piece of work per key.

    Work is expected to return failures as values: a raised exception is passed on to every
    waiter, and that is for faults of our own.
    """

    def __init__(self) -> None:
        self._by_key: dict[K, asyncio.Task[V]] = {}
        self._running: set[asyncio.Task[V]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def flying(self, key: K) -> bool:
        """Whether new callers for ``key`` would join a flight."""
        return key in self._by_key

    def start(
        self, key: K, work: Callable[[], Coroutine[None, None, V]], *, max_flights: int
    ) -> asyncio.Task[V]:
        """Join the flight of ``key`` or start it. Shield the task when waiting for it.

        Raises:
            TooManyFlightsError: it would have to be started, and ``max_flights`` are running.
        """
        task = self._by_key.get(key)
        if task is not None:
            return task
        if len(self._running) >= max_flights:
            raise TooManyFlightsError
        task = asyncio.get_running_loop().create_task(work())
        self._by_key[key] = task
        self._running.add(task)
        task.add_done_callback(lambda done: self._landed(key, done))
        return task

    def part(self, key: K | None = None) -> None:
        """Let nobody else join the running flight of ``key``, or any: who comes next asks anew."""
        if key is None:
            self._by_key.clear()
        else:
            self._by_key.pop(key, None)

    async def aclose(self) -> None:
        """Cancel all flights and wait until they have ended."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, key: K, task: asyncio.Task[V]) -> None:
        self._running.discard(task)
        if self._by_key.get(key) is task:
            del self._by_key[key]
        if not task.cancelled():
            task.exception()  # marks it as seen when every waiter is gone
