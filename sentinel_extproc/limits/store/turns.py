"""So many at once; the others wait, in order and for a bounded time."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Like ``asyncio.Semaphore`` with a time-out, but what is free is taken without a wait.

    Args:
        count: at once.
        within_s: longest that anybody waits.
    """

    def __init__(self, count: int, *, within_s: float) -> None:
        self._free = count
        self._within_s = within_s
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a turn if one is free, which is so only when nobody waits."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def wait(self) -> None:
        """Take a turn, waiting for it.

        Raises:
            TimeoutError: none came.
        """
        if self.take():
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        expiry = loop.call_later(self._within_s, _expire, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back()  # it had just been handed over
            raise
        finally:
            expiry.cancel()

    def give_back(self) -> None:
        """End a turn: it goes to whoever waits longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def _expire(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())
