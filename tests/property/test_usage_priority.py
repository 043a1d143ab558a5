"""Places are used, urgency goes first, and the backlog gets its tenth whatever comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.usage.priority import Shares, Urgency

counts = st.integers(0, 3000)
places = st.integers(0, 1000)


@given(places, st.fixed_dictionaries(dict.fromkeys(Urgency, counts)))
def test_no_place_is_left_empty_and_nothing_is_invented(
    limit: int, waiting: dict[Urgency, int]
) -> None:
    taken = Shares().divide(limit, waiting)
    assert sum(taken.values()) == min(limit, sum(waiting.values()))
    assert all(0 <= taken[urgency] <= waiting[urgency] for urgency in Urgency)


@given(places, st.fixed_dictionaries(dict.fromkeys(Urgency, counts)))
def test_the_more_urgent_goes_first_but_for_the_floor(
    limit: int, waiting: dict[Urgency, int]
) -> None:
    taken = Shares().divide(limit, waiting)
    if taken[Urgency.SETTLEMENT] < waiting[Urgency.SETTLEMENT]:
        assert taken[Urgency.FRESH] == 0
    if taken[Urgency.FRESH] < waiting[Urgency.FRESH]:
        assert taken[Urgency.BACKLOG] <= 0.1 * limit


@given(st.lists(st.tuples(places, counts, counts), min_size=1, max_size=60))
def test_the_backlog_gets_a_tenth_over_any_time_even_one_place_at_a_time(
    claims: list[tuple[int, int, int]],
) -> None:
    shares = Shares()
    given_out = backlog = 0
    for limit, settlements, fresh in claims:
        taken = shares.divide(
            limit,
            {Urgency.SETTLEMENT: settlements, Urgency.FRESH: fresh, Urgency.BACKLOG: 10**6},
        )
        given_out += limit
        backlog += taken[Urgency.BACKLOG]
        assert backlog > 0.1 * given_out - 1 - 1e-6


def test_a_tenth_of_one_place_is_every_tenth_place() -> None:
    shares = Shares()
    waiting = {Urgency.FRESH: 10, Urgency.BACKLOG: 10}
    taken = [shares.divide(1, waiting)[Urgency.BACKLOG] for _ in range(100)]
    assert sum(taken) in (9, 10)


def test_a_queue_without_backlog_saves_nothing_up() -> None:
    shares = Shares()
    for _ in range(100):
        shares.divide(10, {Urgency.FRESH: 100})
    assert shares.divide(10, {Urgency.FRESH: 100, Urgency.BACKLOG: 100})[Urgency.BACKLOG] == 1
