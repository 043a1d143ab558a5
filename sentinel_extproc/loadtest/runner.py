"""Sends what is planned when it is due: the closed and the open model. Bounded in all."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from .arrivals import arrivals, entrances
from .histogram import Histogram
from .outcome import Outcome, Result
from .planning import Planned, Planner
from .scenario import Load
from .tally import Tally

MAX_LINE = 10_000
"""Arrivals that may wait for room; more are counted as not sent."""
MAX_REST_S = 3600.0
_TICK_S = 0.05

Clock = Callable[[], float]
Send = Callable[[Planned, float, Clock], Awaitable[Outcome]]
"""Gets the plan, when it was due, and the clock; never raises but for cancellation."""


class Runner:
    """One test.

    Args:
        load: when, and the bounds.
        users: how many tokens there are.
        planner: what to send.
        send: sends it.
        tally: is told of everything.
        seed: of the arrivals.
    """

    def __init__(
        self, load: Load, users: int, planner: Planner, send: Send, tally: Tally, *, seed: int
    ) -> None:
        self._load = load
        self._planner = planner
        self._send = send
        self._tally = tally
        self._seed = seed
        # After the first nothing more is sent; after the second nothing is waited for either.
        self._stop = asyncio.Event()
        self._interrupted = asyncio.Event()
        self._ended_by = "duration"
        self._begun = 0.0
        self._left = load.max_requests
        self._tasks: set[asyncio.Task[None]] = set()
        self._line: deque[float] = deque()
        self._users = users
        self._not_before = [0.0] * users
        # The open model's users: those that may send, and those that rest with the end of it.
        self._ready = deque(range(users))
        self._resting: list[tuple[float, int]] = []
        self.delay = Histogram()

    def stop(self) -> None:
        """End now: nothing more is sent, and what is running is cut."""
        self._ended_by = "interrupted"
        self._interrupted.set()
        self._stop.set()

    def now(self) -> float:
        """Seconds from the beginning."""
        return time.perf_counter() - self._begun

    async def run(self) -> str:
        """Run to the end; says what ended it: ``duration``, ``max_requests``, ``interrupted``."""
        self._begun = time.perf_counter()
        ticking = asyncio.create_task(self._tick())
        timer = asyncio.get_running_loop().call_later(
            self._load.duration, lambda: self._end("duration")
        )
        try:
            await (self._closed() if self._load.model == "closed" else self._open())
            await self._wind_down()
            self._tally.not_sent += len(self._line)
        finally:
            timer.cancel()
            ticking.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, ticking, return_exceptions=True)
        return self._ended_by

    async def _wind_down(self) -> None:
        if not self._tasks or self._interrupted.is_set():
            return
        told = asyncio.create_task(self._interrupted.wait())
        done = asyncio.create_task(_all_of(self._tasks))
        await asyncio.wait(
            {done, told}, timeout=self._load.grace, return_when=asyncio.FIRST_COMPLETED
        )
        for waiting in (done, told):
            waiting.cancel()
        await asyncio.gather(done, told, return_exceptions=True)

    async def _closed(self) -> None:
        load = self._load
        for user, begin_s in enumerate(entrances(users=load.users, ramp_s=load.ramp)):
            self._start(self._user(user % self._users, begin_s))
        await self._stop.wait()

    async def _user(self, user: int, begin_s: float) -> None:
        await self._sleep_until(begin_s)
        while not self._stop.is_set() and self._take_one():
            planned = self._planner.plan(user)
            await self._one(planned, self.now())
            await self._sleep_until(max(self.now() + planned.think_s, self._not_before[user]))

    async def _open(self) -> None:
        load = self._load
        dice = random.Random(self._seed) if load.arrivals == "poisson" else None  # noqa: S311
        moments = arrivals(rate=load.rate, ramp_s=load.ramp, duration_s=load.duration, dice=dice)
        for due in moments:
            await self._sleep_until(due)
            if self._stop.is_set():
                if self._ended_by == "duration":
                    # This machine was too busy to come to them in time.
                    self._tally.not_sent += 1 + sum(1 for _ in moments)
                return
            if len(self._line) >= MAX_LINE:
                self._tally.not_sent += 1
                continue
            self._line.append(due)
            if len(self._tasks) < load.max_concurrency:
                self._start(self._work_off())
            # Also when it is late: what has begun must get on, and answers be taken in.
            await asyncio.sleep(0)
        await self._stop.wait()

    async def _work_off(self) -> None:
        # Whoever is done takes the next in line, which may have been due for a while.
        while self._line and not self._stop.is_set():
            due = self._line.popleft()
            user = self._next_user()
            if user is None:
                self._tally.held_back += 1
            elif self._take_one():
                await self._one(self._planner.plan(user), due)

    def _next_user(self) -> int | None:
        now = self.now()
        while self._resting and self._resting[0][0] <= now:
            self._ready.append(heapq.heappop(self._resting)[1])
        while self._ready:
            user = self._ready.popleft()
            if self._not_before[user] <= now:
                self._ready.append(user)
                return user
            heapq.heappush(self._resting, (self._not_before[user], user))
        return None

    async def _one(self, planned: Planned, due: float) -> None:
        sent = self.now()
        self._tally.sending(sent)
        try:
            outcome = await self._send(planned, due, self.now)
        except asyncio.CancelledError:
            self._tally.ended(Outcome(planned.kind, Result.CUT, due, sent, self.now()))
            raise
        self._tally.ended(outcome)
        if outcome.status == 429 and outcome.retry_after_s and self._load.honour_retry_after:
            rest = min(MAX_REST_S, outcome.retry_after_s)
            self._not_before[planned.user] = outcome.ended_s + rest

    def _take_one(self) -> bool:
        if self._left <= 0:
            self._end("max_requests")
            return False
        self._left -= 1
        return True

    def _start(self, work: Awaitable[None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, why: str) -> None:
        if not self._stop.is_set():
            self._ended_by = why
            self._stop.set()

    async def _sleep_until(self, moment: float) -> None:
        """Until then, or the end."""
        wait = moment - self.now()
        if wait > 0 and not self._stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stop.wait()

    async def _tick(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            self.delay.add(time.perf_counter() - before - _TICK_S)


async def _all_of(tasks: set[asyncio.Task[None]]) -> None:
    # Waits only: cancelling this doesn't cancel them.
    await asyncio.wait(set(tasks))
