"""The budget for denials, and waiting for it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.identity.gate import DenialBudget, Gate


def test_burst_then_rate() -> None:
    budget = DenialBudget(rate_per_s=2, burst=3)
    assert [budget.take(0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert budget.take(0.25) == 0.25
    assert budget.take(0.5) == 0
    assert budget.take(0.5) == 0.5
    assert [budget.take(100.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_units_given_back_never_exceed_the_burst() -> None:
    budget = DenialBudget(rate_per_s=1, burst=2)
    for _ in range(10):
        budget.give_back()
    assert [budget.take(0.0) > 0 for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_budget_of_nothing_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="budget"):
        DenialBudget(rate, burst)


@given(st.lists(st.floats(0, 0.2), max_size=300))
def test_no_window_sees_more_than_burst_and_rate(steps: list[float]) -> None:
    budget = DenialBudget(rate_per_s=10, burst=5)
    now, taken = 0.0, []
    for step in steps:
        now += step
        if budget.take(now) == 0:
            taken.append(now)
    for index, start in enumerate(taken):
        within = sum(1 for moment in taken[index:] if moment <= start + 1)
        assert within <= 5 + 10 + 1


async def test_waiters_are_woken_by_what_is_given_back() -> None:
    gate = Gate(rate_per_s=0.001, burst=1, max_wait_s=60)
    assert await gate.enter()
    waiting = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    gate.give_back()
    assert await asyncio.wait_for(waiting, 10)


async def test_waiting_ends() -> None:
    gate = Gate(rate_per_s=0.001, burst=1, max_wait_s=0.01)
    assert await gate.enter()
    assert not await gate.enter()


async def test_waiters_are_served_by_the_rate_too() -> None:
    gate = Gate(rate_per_s=1000, burst=1, max_wait_s=10)
    assert await asyncio.gather(*(gate.enter() for _ in range(20))) == [True] * 20
