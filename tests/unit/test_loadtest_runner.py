"""When requests are sent: both models, their bounds, and how they end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from sentinel_extproc.loadtest.arrivals import arrivals
from sentinel_extproc.loadtest.outcome import Outcome, Result
from sentinel_extproc.loadtest.planning import Planned, Planner
from sentinel_extproc.loadtest.runner import Clock, Runner
from sentinel_extproc.loadtest.scenario import Kind, Load
from sentinel_extproc.loadtest.tally import Tally

KIND = Kind(name="chat")


@dataclass
class Gateway:
    """Answers soon, refuses at once, and does neither when it hangs."""

    status: int = 200
    retry_after_s: float | None = None
    hangs: bool = False
    users: Counter[int] = field(default_factory=Counter)
    dues: list[float] = field(default_factory=list)
    running: int = 0
    most: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, planned: Planned, due: float, now: Clock) -> Outcome:
        sent = now()
        self.users[planned.user] += 1
        self.dues.append(due)
        self.running += 1
        self.most = max(self.most, self.running)
        self.asked.set()
        try:
            if self.hangs:
                await asyncio.sleep(3600)
            elif self.status == 200:
                await asyncio.sleep(0)
        finally:
            self.running -= 1
        result = Result.OK if self.status == 200 else Result.REFUSED
        return Outcome(
            planned.kind,
            result,
            due,
            sent,
            now(),
            status=self.status,
            retry_after_s=self.retry_after_s,
        )


def runner(load: Load, gateway: Gateway, *, users: int = 3) -> tuple[Runner, Tally]:
    tally = Tally([KIND.name], sending_s=load.duration, longest_s=load.duration)
    planner = Planner([KIND], ["t"] * users, 1)
    return Runner(load, users, planner, gateway.send, tally, seed=7), tally


@pytest.mark.parametrize("model", ["closed", "open"])
async def test_it_sends_no_more_than_allowed(model: str) -> None:
    load = Load.model_validate(
        {"model": model, "rate": 5000, "users": 4, "max_requests": 20, "duration": "60s"}
    )
    made, tally = runner(load, gateway := Gateway())
    assert await made.run() == "max_requests"
    assert tally.all.results == {Result.OK: 20}
    assert gateway.users.total() == 20
    assert tally.running == 0


async def test_users_of_the_closed_model_wait_for_their_answers() -> None:
    load = Load(users=4, duration=0.2, grace=0)
    made, tally = runner(load, gateway := Gateway(hangs=True), users=2)
    assert await made.run() == "duration"
    assert gateway.users == {0: 2, 1: 2}
    assert tally.all.results == {Result.CUT: 4}


async def test_arrivals_of_the_open_model_wait_for_nobody() -> None:
    load = Load(model="open", rate=100, arrivals="even", duration=0.5, grace=0)
    made, tally = runner(load, gateway := Gateway(hangs=True))
    assert await made.run() == "duration"
    meant = list(arrivals(rate=100, ramp_s=0, duration_s=0.5, dice=None))
    assert gateway.dues == meant
    assert tally.all.results == {Result.CUT: len(meant)}
    assert gateway.users.keys() == {0, 1, 2}


async def test_what_finds_no_room_waits_in_line_and_is_told_in_the_end() -> None:
    load = Load(model="open", rate=200, duration=0.3, grace=0, max_concurrency=2)
    made, tally = runner(load, gateway := Gateway(hangs=True))
    assert await made.run() == "duration"
    meant = list(arrivals(rate=200, ramp_s=0, duration_s=0.3, dice=random.Random(7)))
    assert (gateway.users.total(), gateway.most) == (2, 2)
    assert tally.not_sent == len(meant) - 2


async def test_the_line_is_worked_off_from_when_each_was_due() -> None:
    load = Load(model="open", rate=2000, arrivals="even", duration=0.3, max_concurrency=1)
    made, tally = runner(load, gateway := Gateway())
    await made.run()
    meant = list(arrivals(rate=2000, ramp_s=0, duration_s=0.3, dice=None))
    assert gateway.most == 1
    assert gateway.dues == meant[: len(gateway.dues)]
    assert len(gateway.dues) + tally.not_sent == len(meant)


async def test_who_was_told_to_come_back_later_does() -> None:
    refusing = Gateway(status=429, retry_after_s=100)
    made, tally = runner(Load(users=3, duration=0.3), refusing)
    assert await made.run() == "duration"
    assert refusing.users == {0: 1, 1: 1, 2: 1}
    # The same three, asked for by strangers.
    refusing = Gateway(status=429, retry_after_s=100)
    made, tally = runner(Load(model="open", rate=200, duration=0.4), refusing)
    await made.run()
    assert refusing.users == {0: 1, 1: 1, 2: 1}
    assert tally.held_back > 0


async def test_who_does_not_listen_comes_back_at_once() -> None:
    load = Load(users=1, duration=60, max_requests=10, honour_retry_after=False)
    made, _ = runner(load, refusing := Gateway(status=429, retry_after_s=100), users=1)
    assert await made.run() == "max_requests"
    assert refusing.users == {0: 10}


@pytest.mark.parametrize("model", ["closed", "open"])
async def test_it_can_be_stopped(model: str) -> None:
    load = Load.model_validate({"model": model, "users": 2, "rate": 100, "duration": "1h"})
    made, tally = runner(load, gateway := Gateway(hangs=True))
    running = asyncio.create_task(made.run())
    await gateway.asked.wait()
    made.stop()
    assert await asyncio.wait_for(running, 30) == "interrupted"
    assert set(tally.all.results) == {Result.CUT}
    assert (tally.running, gateway.running) == (0, 0)


async def test_a_stop_does_not_wait_for_the_grace() -> None:
    made, tally = runner(Load(users=1, duration=0.1, grace=3600), Gateway(hangs=True))
    running = asyncio.create_task(made.run())
    # Long enough for the sending to be over; if it isn't, the stop only comes earlier.
    await asyncio.sleep(0.2)
    made.stop()
    assert await asyncio.wait_for(running, 30) == "interrupted"
    assert tally.all.results == {Result.CUT: 1}
