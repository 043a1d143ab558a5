"""So many at once: who waits gets a turn in order, and whoever gives up costs nobody one."""

from __future__ import annotations

import asyncio
import random

import pytest

from sentinel_extproc.limits.store.turns import Turns


async def test_what_is_free_is_taken_at_once_and_no_more_than_that() -> None:
    turns = Turns(2, within_s=0.01)
    assert turns.take()
    assert turns.take()
    assert not turns.take()
    with pytest.raises(TimeoutError):
        await turns.wait()
    turns.give_back()
    await turns.wait()
    assert not turns.take()


async def test_turns_go_to_those_who_wait_in_their_order_and_to_nobody_before_them() -> None:
    turns, order = Turns(1, within_s=10.0), list[int]()

    async def one(number: int) -> None:
        await turns.wait()
        order.append(number)
        turns.give_back()

    assert turns.take()
    waiting = [asyncio.ensure_future(one(number)) for number in range(5)]
    await asyncio.sleep(0)
    turns.give_back()
    assert not turns.take(), "it has been handed over"
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]
    assert turns.take()


async def test_a_turn_that_comes_as_its_taker_leaves_is_the_next_one_s() -> None:
    turns = Turns(1, within_s=10.0)
    assert turns.take()
    leaves, stays = (asyncio.ensure_future(turns.wait()) for _ in range(2))
    await asyncio.sleep(0)
    turns.give_back()
    leaves.cancel()
    await asyncio.wait_for(stays, 10)
    assert leaves.cancelled()
    assert not turns.take()


async def test_none_is_lost_and_none_is_made_whatever_is_given_up() -> None:
    turns, chance = Turns(3, within_s=0.002), random.Random(5)
    under_way = most = 0

    async def one() -> None:
        nonlocal under_way, most
        if not turns.take():
            await turns.wait()
        try:
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(chance.random() / 1000)
        finally:
            under_way -= 1
            turns.give_back()

    for _ in range(20):
        tasks = [asyncio.ensure_future(one()) for _ in range(50)]
        for task in tasks:
            if chance.random() < 0.3:
                asyncio.get_running_loop().call_later(chance.random() / 300, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 3
    assert [turns.take() for _ in range(4)] == [True, True, True, False]
