"""One circuit breaker for the whole fleet, mirrored in every process.

The pure ``Breaker`` here decides. What it learns by itself is posted, behind the calls; what others
posted is looked at once a second before a call, so a process that starts anew finds it open. While
it is open and its time is over, the board grants one probe to the fleet. Without the board (Redis
is away) the breaker here decides alone, as it would in a fleet of one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine

from sentinel_extproc.zion.breaker import Breaker, Permit, Refusal, State
from sentinel_extproc.zion.breaker_board import BreakerBoard, Posted

LOOK_EVERY_S = 1.0
"""How old the mirror may be; also how soon a probe elsewhere is asked about again."""


class SharedBreaker:
    """See the module. One event loop.

    Args:
        breaker: decides here.
        board: what the fleet knows; None for a fleet of one.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        breaker: Breaker,
        board: BreakerBoard | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._breaker = breaker
        self._board = board
        self._clock = clock
        self._look_at = float("-inf")
        self._seen = 0
        self._others_probe_until = float("-inf")
        self._posting: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    @property
    def state(self) -> State:
        """As the mirror has it."""
        return self._breaker.state

    async def prime(self, budget_s: float = 1.0) -> None:
        """Look before the first call, with time enough to connect."""
        if self._board is not None:
            self._look_at = self._clock() + LOOK_EVERY_S
            self._take(await self._board.look(budget_s=budget_s))

    async def admit(self) -> Permit | Refusal:
        """Ask for leave to make one call; to be given back with one of the three results."""
        board = self._board
        if board is None:
            return self._breaker.admit(self._clock())
        if self._clock() >= self._look_at:
            # Others needn't wait for this look: they go by the mirror.
            self._look_at = self._clock() + LOOK_EVERY_S
            self._take(await board.look())
        now = self._clock()
        if not self._breaker.probe_due(now):
            return self._breaker.admit(now)
        if now < self._others_probe_until:
            return Refusal(self._others_probe_until - now)
        return await self._probe(board)

    def success(self, permit: Permit) -> None:
        """The call got a proper answer, whatever it said."""
        before = self._breaker.state
        self._breaker.success(permit, self._clock())
        if before is not State.CLOSED and self._breaker.state is State.CLOSED:
            self._post_closed()

    def failure(self, permit: Permit) -> None:
        """The call failed in a way that tells of ill health."""
        before = self._breaker.opened
        self._breaker.failure(permit, self._clock())
        if self._breaker.opened > before:
            self._post_open()

    def abandon(self, permit: Permit) -> None:
        """The call ended without telling anything."""
        self._breaker.abandon(permit, self._clock())
        if permit.probe:
            self._release()

    async def settled(self) -> None:
        """Return when everything learned so far is posted, or could not be."""
        while self._posting:
            await asyncio.gather(*self._posting)

    async def aclose(self) -> None:
        """Stop posting."""
        for task in self._posting:
            task.cancel()
        await asyncio.gather(*self._posting, return_exceptions=True)

    async def _probe(self, board: BreakerBoard) -> Permit | Refusal:
        try:
            posted = await board.probe(self._breaker.policy.probe_s)
        except asyncio.CancelledError:
            self._release()  # it may have been granted all the same
            raise
        self._take(posted)
        now = self._clock()
        if posted is None or posted.version == 0:
            return self._breaker.admit(now)  # nobody else knows of it: as in a fleet of one
        if posted.granted:
            permit = self._breaker.admit(now)
            if not isinstance(permit, Permit) or not permit.probe:
                self._release()
            return permit
        if posted.probe_left_s > 0 and self._breaker.probe_due(now):
            wait_s = min(posted.probe_left_s, LOOK_EVERY_S)
            self._others_probe_until = now + wait_s
            return Refusal(wait_s)
        if self._breaker.probe_due(now):  # closed there and not here, or open for longer
            self._look_at = now
            return Refusal(LOOK_EVERY_S)
        return self._breaker.admit(now)

    def _take(self, posted: Posted | None) -> None:
        """Adopt what the fleet knows, or post what it doesn't."""
        if posted is None or self._adopt(posted):
            return
        if self._breaker.state is State.OPEN and posted.open_s == 0:
            self._post_open()
        elif self._breaker.state is State.CLOSED and posted.open_s > 0:
            self._post_closed()

    def _adopt(self, posted: Posted | None) -> bool:
        """Whether it was news."""
        if posted is None or posted.version in (0, self._seen):
            return False
        self._seen = posted.version
        if posted.open_s > 0:
            self._breaker.adopt_open(posted.open_s, posted.left_s, self._clock())
        elif self._breaker.state is not State.CLOSED:
            self._breaker.adopt_closed()
        return True

    def _post_open(self) -> None:
        async def post(board: BreakerBoard) -> None:
            left_s = self._breaker.left_s(self._clock())
            if self._breaker.state is State.OPEN and left_s > 0:
                self._adopt(await board.open(self._breaker.open_s, left_s))

        self._post(post)

    def _post_closed(self) -> None:
        async def post(board: BreakerBoard) -> None:
            if self._breaker.state is State.CLOSED and self._seen:
                self._adopt(await board.close(self._seen))

        self._post(post)

    def _release(self) -> None:
        async def post(board: BreakerBoard) -> None:
            await board.release()

        self._post(post)

    def _post(self, work: Callable[[BreakerBoard], Coroutine[None, None, None]]) -> None:
        board = self._board
        if board is None:
            return

        async def in_turn() -> None:
            # In the order of what happened: open after close must not arrive before it.
            async with self._turn:
                await work(board)

        task = asyncio.get_running_loop().create_task(in_turn())
        self._posting.add(task)
        task.add_done_callback(self._posting.discard)
