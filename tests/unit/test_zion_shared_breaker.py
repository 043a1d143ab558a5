"""The shared breaker over a board that the test plays."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from sentinel_extproc.zion.breaker import Breaker, BreakerPolicy, Permit, Refusal, State
from sentinel_extproc.zion.breaker_board import Posted
from sentinel_extproc.zion.shared_breaker import SharedBreaker


@dataclass
class Board:
    """Answers ``posted`` to everything, None for a Redis that is away."""

    posted: Posted | None = None
    asked: list[str] = field(default_factory=list)
    hangs: bool = False

    async def look(self, *, budget_s: float | None = None) -> Posted | None:
        return await self._answer("look")

    async def open(self, open_s: float, left_s: float) -> Posted | None:
        return await self._answer(f"open {open_s:g} {left_s:g}")

    async def close(self, version: int) -> Posted | None:
        return await self._answer(f"close {version}")

    async def probe(self, probe_s: float) -> Posted | None:
        return await self._answer("probe")

    async def release(self) -> Posted | None:
        return await self._answer("release")

    async def _answer(self, what: str) -> Posted | None:
        self.asked.append(what)
        if self.hangs:
            await asyncio.Event().wait()
        return self.posted


class Bench:
    def __init__(self, posted: Posted | None = None) -> None:
        self.now = 0.0
        self.board = Board(posted)
        self.shared = SharedBreaker(
            Breaker(BreakerPolicy(min_calls=1)), self.board, clock=lambda: self.now
        )

    async def permit(self) -> Permit:
        granted = await self.shared.admit()
        assert isinstance(granted, Permit), granted
        return granted

    async def wait_s(self) -> float:
        refused = await self.shared.admit()
        assert isinstance(refused, Refusal), refused
        return refused.retry_after_s


async def test_while_the_board_is_away_the_breaker_here_decides_alone() -> None:
    bench = Bench(None)
    bench.shared.failure(await bench.permit())
    assert await bench.wait_s() == 5.0
    bench.now = 5.0
    probe = await bench.permit()
    assert probe.probe
    assert await bench.wait_s() == 10.0
    bench.shared.success(probe)
    assert bench.shared.state is State.CLOSED
    await bench.shared.settled()


async def test_it_looks_once_a_second_however_many_calls_there_are() -> None:
    bench = Bench(Posted(0, 0, 0))
    for step in range(30):
        bench.now = step / 10
        for _ in range(10):
            await bench.permit()
    assert bench.board.asked == ["look"] * 3


async def test_what_opened_elsewhere_is_open_here_within_a_second() -> None:
    bench = Bench(Posted(0, 0, 0))
    await bench.permit()
    bench.board.posted = Posted(7, 20.0, 12.0)
    await bench.permit()
    bench.now = 1.0
    assert await bench.wait_s() == 12.0
    bench.board.posted = Posted(8, 0, 0)
    bench.now = 2.0
    await bench.permit()
    assert bench.shared.state is State.CLOSED


async def test_a_new_process_finds_it_open_before_its_first_call() -> None:
    bench = Bench(Posted(7, 20.0, 12.0))
    await bench.shared.prime()
    assert bench.shared.state is State.OPEN
    assert await bench.wait_s() == 12.0


async def test_the_board_grants_the_probe() -> None:
    bench = Bench(Posted(7, 5.0, 0.0))
    bench.board.posted = Posted(7, 5.0, 0.0, probe_left_s=9.0)
    assert await bench.wait_s() == 1.0
    assert await bench.wait_s() == 1.0
    assert bench.board.asked == ["look", "probe"]
    bench.now = 1.0
    bench.board.posted = Posted(7, 5.0, 0.0, granted=True)
    probe = await bench.permit()
    assert probe.probe
    bench.board.posted = Posted(8, 0, 0)
    bench.shared.success(probe)
    await bench.shared.settled()
    assert bench.board.asked[-1] == "close 7"
    assert bench.shared.state is State.CLOSED


async def test_a_failed_probe_is_posted_with_twice_the_time() -> None:
    bench = Bench(Posted(7, 5.0, 0.0, granted=True))
    bench.shared.failure(await bench.permit())
    await bench.shared.settled()
    assert bench.board.asked[-1] == "open 10 10"


async def test_a_probe_that_told_nothing_is_given_back() -> None:
    bench = Bench(Posted(7, 5.0, 0.0, granted=True))
    bench.shared.abandon(await bench.permit())
    await bench.shared.settled()
    assert bench.board.asked[-1] == "release"


async def test_a_probe_asked_for_by_someone_who_left_is_given_back() -> None:
    bench = Bench(Posted(7, 5.0, 0.0))
    await bench.shared.prime()
    bench.board.hangs = True
    asking = asyncio.create_task(bench.shared.admit())
    while "probe" not in bench.board.asked:  # noqa: ASYNC110
        await asyncio.sleep(0)
    bench.board.hangs = False
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await bench.shared.settled()
    assert bench.board.asked[-1] == "release"


async def test_what_could_not_be_posted_is_posted_when_the_board_is_back() -> None:
    bench = Bench(None)
    bench.shared.failure(await bench.permit())
    await bench.shared.settled()
    bench.board.posted = Posted(0, 0, 0)
    bench.now = 2.0
    assert await bench.wait_s() == 3.0
    await bench.shared.settled()
    assert bench.board.asked[-1] == "open 5 3"


async def test_posting_ends_when_it_is_closed() -> None:
    bench = Bench(Posted(0, 0, 0))
    granted = await bench.permit()
    bench.board.hangs = True
    bench.shared.failure(granted)
    await bench.shared.aclose()


async def test_without_a_board_it_is_the_breaker() -> None:
    now = 0.0
    shared = SharedBreaker(Breaker(BreakerPolicy(min_calls=1)), clock=lambda: now)
    await shared.prime()
    granted = await shared.admit()
    assert isinstance(granted, Permit)
    shared.failure(granted)
    assert await shared.admit() == Refusal(5.0)
    now = 5.0
    probe = await shared.admit()
    assert isinstance(probe, Permit)
    assert probe.probe
    shared.abandon(probe)
    assert isinstance(await shared.admit(), Permit)
