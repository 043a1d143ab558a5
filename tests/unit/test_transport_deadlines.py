"""One timer for all that wait: each is ended in time, others are not, no cancellation is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from sentinel_extproc.transport.deadlines import APART_S, Deadlines


def start(
    deadlines: Deadlines, after_s: float, work: Coroutine[None, None, str]
) -> asyncio.Task[str]:
    async def run() -> str:
        task = asyncio.current_task()
        assert task is not None
        now_s = asyncio.get_running_loop().time()
        return await deadlines.within(now_s + after_s, task, work)

    return asyncio.get_running_loop().create_task(run())


async def after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


async def for_ever() -> str:
    await asyncio.Event().wait()
    return "never"


async def test_what_is_in_time_is_left_alone() -> None:
    deadlines = Deadlines()
    assert await start(deadlines, 5, after(0)) == "done"
    assert await start(deadlines, 5, after(0.02)) == "done"


async def test_whoever_is_late_is_ended_whenever_the_others_are_due() -> None:
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    began_s = loop.time()
    lasting = start(deadlines, 60, for_ever())
    ended: dict[float, float] = {}

    async def late(after_s: float) -> None:
        with pytest.raises(TimeoutError):
            await start(deadlines, after_s, for_ever())
        ended[after_s] = loop.time() - began_s

    # Neither the first to wait nor the last is the first that is due.
    await asyncio.gather(*(late(after_s) for after_s in (0.2, 0.05, 0.1, 0.051)))
    for after_s, took_s in ended.items():
        # The loop's clock goes by the millisecond.
        assert after_s - 0.002 <= took_s < after_s + APART_S + 0.1
    assert not lasting.done()
    lasting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lasting


async def test_a_deadline_that_is_over_ends_what_waits() -> None:
    with pytest.raises(TimeoutError):
        await start(Deadlines(), -1, for_ever())


async def test_a_task_may_wait_again_after_it_was_late() -> None:
    deadlines = Deadlines()
    task = asyncio.current_task()
    assert task is not None
    now_s = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await deadlines.within(now_s, task, for_ever())
    assert not task.cancelling()
    assert await deadlines.within(now_s + 5, task, after(0.02)) == "done"


async def test_a_failure_comes_through() -> None:
    async def fails() -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await start(Deadlines(), 5, fails())


@pytest.mark.parametrize("cancelled_after_s", [0.0, 0.05])
async def test_a_cancellation_is_none_of_its_own(cancelled_after_s: float) -> None:
    """Whoever is cancelled ends so, even if it is late at the same moment."""
    waiting = start(Deadlines(), 0.05, for_ever())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(cancelled_after_s, waiting.cancel)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_swallows_its_end_still_counts_as_nothing_but_its_answer() -> None:
    async def stubborn() -> str:
        try:
            return await for_ever()
        except asyncio.CancelledError:
            return "all the same"

    waiting = start(Deadlines(), 0, stubborn())
    assert await waiting == "all the same"
    assert not waiting.cancelling()
