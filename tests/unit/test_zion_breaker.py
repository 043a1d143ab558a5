"""The breaker's table, arrow by arrow; and the retry budget."""

from __future__ import annotations

from sentinel_extproc.zion.breaker import Breaker, BreakerPolicy, Permit, Refusal, State
from sentinel_extproc.zion.budget import RetryBudget


def permit(breaker: Breaker, now: float) -> Permit:
    granted = breaker.admit(now)
    assert isinstance(granted, Permit), granted
    return granted


def state(breaker: Breaker) -> State:
    return breaker.state


def calls(breaker: Breaker, pattern: str, now: float = 0.0) -> None:
    """``.`` succeeds, ``x`` fails."""
    for letter in pattern:
        granted = permit(breaker, now)
        (breaker.failure if letter == "x" else breaker.success)(granted, now)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    calls(breaker, "x" * 20, now)
    return breaker


def test_stays_closed_below_the_least_number_of_calls() -> None:
    breaker = Breaker()
    calls(breaker, "x" * 19)
    assert state(breaker) is State.CLOSED


def test_opens_at_half_of_twenty_and_not_below() -> None:
    breaker = Breaker()
    calls(breaker, "." * 11 + "x" * 9)
    assert state(breaker) is State.CLOSED
    breaker = Breaker()
    calls(breaker, "." * 10 + "x" * 10)
    assert state(breaker) is State.OPEN
    assert breaker.opened == 1


def test_old_calls_are_forgotten() -> None:
    breaker = Breaker()
    calls(breaker, "x" * 19, now=0.0)
    calls(breaker, "x", now=31.0)
    assert state(breaker) is State.CLOSED
    calls(breaker, "x" * 19, now=40.0)
    assert state(breaker) is State.OPEN


def test_open_refuses_until_its_time_is_over() -> None:
    breaker = opened(now=100.0)
    assert breaker.admit(100.0) == Refusal(5.0)
    assert breaker.admit(104.0) == Refusal(1.0)
    assert permit(breaker, 105.0).probe


def test_one_probe_at_a_time() -> None:
    breaker = opened()
    permit(breaker, 5.0)
    assert isinstance(breaker.admit(5.0), Refusal)
    assert isinstance(breaker.admit(14.9), Refusal)


def test_a_lost_probe_is_replaced() -> None:
    breaker = opened()
    lost = permit(breaker, 5.0)
    second = permit(breaker, 15.0)
    assert second.probe
    breaker.failure(lost, 15.0)
    assert state(breaker) is State.HALF_OPEN
    breaker.success(second, 15.0)
    assert state(breaker) is State.CLOSED


def test_probe_closes_and_history_is_gone() -> None:
    breaker = opened()
    breaker.success(permit(breaker, 5.0), 5.1)
    assert state(breaker) is State.CLOSED
    calls(breaker, "x" * 19, now=5.2)
    assert state(breaker) is State.CLOSED


def test_open_time_doubles_up_to_a_minute_and_starts_anew_after_closing() -> None:
    breaker = opened()
    now, waits = 0.0, []
    for _ in range(6):
        refusal = breaker.admit(now)
        assert isinstance(refusal, Refusal)
        waits.append(refusal.retry_after_s)
        now += refusal.retry_after_s
        breaker.failure(permit(breaker, now), now)
    assert waits == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    now += 60.0
    breaker.success(permit(breaker, now), now)
    calls(breaker, "x" * 20, now)
    assert breaker.admit(now) == Refusal(5.0)


def test_results_of_calls_from_before_it_opened_change_nothing() -> None:
    breaker = Breaker()
    early = [permit(breaker, 0.0) for _ in range(3)]
    calls(breaker, "x" * 20)
    breaker.success(early[0], 1.0)
    breaker.failure(early[1], 1.0)
    assert state(breaker) is State.OPEN
    probe = permit(breaker, 5.0)
    breaker.success(early[2], 5.0)
    assert state(breaker) is State.HALF_OPEN
    breaker.success(probe, 5.0)
    assert state(breaker) is State.CLOSED


def test_an_abandoned_probe_lets_the_next_call_probe() -> None:
    breaker = opened()
    breaker.abandon(permit(breaker, 5.0), 5.0)
    assert permit(breaker, 5.0).probe


def test_abandoned_calls_do_not_count() -> None:
    breaker = Breaker(BreakerPolicy(min_calls=2))
    for _ in range(10):
        breaker.abandon(permit(breaker, 0.0), 0.0)
    calls(breaker, "x")
    assert state(breaker) is State.CLOSED


def test_retries_are_a_tenth_of_the_calls() -> None:
    budget = RetryBudget(ratio=0.1, reserve=3)
    assert [budget.withdraw() for _ in range(4)] == [True, True, True, False]
    granted = 0
    for _ in range(1000):
        budget.deposit()
        granted += budget.withdraw()
    assert 99 <= granted <= 100


def test_another_breakers_opening_is_adopted_with_its_time() -> None:
    breaker = Breaker()
    early = permit(breaker, 0.0)
    breaker.adopt_open(20.0, 8.0, now=100.0)
    assert breaker.admit(100.0) == Refusal(8.0)
    assert (breaker.left_s(103.0), breaker.probe_due(107.9)) == (5.0, False)
    breaker.success(early, 101.0)
    assert state(breaker) is State.OPEN
    probe = permit(breaker, 108.0)
    assert probe.probe
    breaker.failure(probe, 108.0)
    assert breaker.admit(108.0) == Refusal(40.0)


def test_what_is_adopted_is_held_to_the_bound() -> None:
    breaker = Breaker()
    for open_s, left_s in ((1e9, 1e9), (61.0, 61.0), (float("inf"), float("inf"))):
        breaker.adopt_open(open_s, left_s, now=0.0)
        assert breaker.admit(0.0) == Refusal(60.0)
        probe = permit(breaker, 60.0)
        breaker.failure(probe, 60.0)
        assert breaker.admit(60.0) == Refusal(60.0)
    breaker.adopt_open(-1.0, -1.0, now=0.0)
    assert permit(breaker, 0.0).probe
    assert breaker.open_s == 5.0


def test_failed_probes_double_the_time_up_to_a_minute() -> None:
    breaker, now, waits = opened(), 0.0, []
    for _ in range(6):
        refused = breaker.admit(now)
        assert isinstance(refused, Refusal)
        waits.append(refused.retry_after_s)
        now += refused.retry_after_s
        breaker.failure(permit(breaker, now), now)
    assert waits == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_being_closed_elsewhere_begins_anew() -> None:
    breaker = opened()
    breaker.adopt_open(40.0, 40.0, now=0.0)
    breaker.adopt_closed()
    assert state(breaker) is State.CLOSED
    assert (breaker.left_s(0.0), breaker.probe_due(0.0), breaker.open_s) == (0.0, False, 5.0)
    calls(breaker, "x" * 20)
    assert breaker.admit(0.0) == Refusal(5.0)
