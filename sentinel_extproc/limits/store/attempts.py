"""Redis where it is a convenience: one short try, and after a failure it is left alone a moment.

For whatever can go on without: a cache's second level, a list that has a mirror here. What must be
certain uses ``RedisStore``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisClusterException, RedisError

logger = logging.getLogger(__name__)

T = TypeVar("T")

REDIS_FAULTS = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What a Redis that isn't there may look like; a cluster's own error is not a RedisError."""

PAUSE_S = 1.0
"""How long Redis is left alone after a failure."""


class Attempts:
    """Bounds what one part asks of Redis.

    Args:
        what: named in the log.
        budget_s: longest that one operation may take.
        concurrency: of operations, so that a flood of them leaves connections to the limits.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        what: str,
        *,
        budget_s: float,
        concurrency: int = 8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._budget_s = budget_s
        self._turns = asyncio.Semaphore(concurrency)
        self._clock = clock
        self._paused_until = 0.0
        self.failures = 0
        self.skipped = 0

    async def one(
        self, operation: Callable[[], Awaitable[T]], *, budget_s: float | None = None
    ) -> T | None:
        """What ``operation`` returns; None when it fails, or isn't tried so soon after a failure.

        Args:
            budget_s: instead of the usual one.
        """
        async with self._turns:
            # Asked only now: whoever waited behind a failure needn't see it fail again.
            if self._clock() < self._paused_until:
                self.skipped += 1
                return None
            try:
                async with asyncio.timeout(self._budget_s if budget_s is None else budget_s):
                    return await operation()
            except REDIS_FAULTS as error:
                self.failures += 1
                self._paused_until = self._clock() + PAUSE_S
                logger.warning("%s: Redis failed: %s", self._what, type(error).__name__)
                return None
