"""What keeps a flood of invented tokens from the source, without holding back real ones.

Every look-up of an unknown token takes a unit from a bucket; a token that turns out to be real
gives it back at once. So real tokens are limited only in how many are looked up at the same time,
and invented ones to ``rate_per_s`` on average, whoever sends them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class DenialBudget:
    """A token bucket whose units can be given back. Pure: ``now`` is in seconds of one
    monotonic clock."""

    def __init__(self, rate_per_s: float, burst: float) -> None:
        if rate_per_s <= 0 or burst < 1:
            raise ValueError("the budget must have a rate, and a burst of at least one")
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._level = burst
        self._filled_at = 0.0

    def take(self, now: float) -> float:
        """Take a unit if there is one and return 0; else the seconds until there will be."""
        elapsed = max(0.0, now - self._filled_at)
        self._level = min(self._burst, self._level + elapsed * self._rate_per_s)
        self._filled_at = now
        if self._level >= 1:
            self._level -= 1
            return 0.0
        return (1 - self._level) / self._rate_per_s

    def give_back(self) -> None:
        """Return a unit that was taken for good reason."""
        self._level = min(self._burst, self._level + 1)


class Gate:
    """Lets look-ups wait, for a bounded time, until the budget has a unit.

    Args:
        rate_per_s, burst: of look-ups that end in a denial. In any 5 s no more than
            ``burst + 5 * rate_per_s`` of them start: 240 with the defaults.
        max_wait_s: longest wait.
    """

    def __init__(
        self,
        *,
        rate_per_s: float = 40.0,
        burst: float = 40.0,
        max_wait_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = DenialBudget(rate_per_s, burst)
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._returned = asyncio.Event()

    async def enter(self) -> bool:
        """Take a unit; False when none could be had in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._max_wait_s
        while wait_s := self._budget.take(self._clock()):
            left_s = deadline - loop.time()
            if left_s <= 0:
                return False
            # Whoever comes first takes it: a flood of waiters is bounded by its flights.
            returned = self._returned
            try:
                async with asyncio.timeout(min(wait_s, left_s)):
                    await returned.wait()
            except TimeoutError:
                continue
        return True

    def give_back(self) -> None:
        """The look-up did not end in a denial."""
        self._budget.give_back()
        self._returned.set()
        self._returned = asyncio.Event()
