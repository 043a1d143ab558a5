"""Shedding, whatever it is told: within its bounds, even, and over once the cause is."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sentinel_extproc.errors import TooManyAtOnce
from sentinel_extproc.overload.admission import Admission
from sentinel_extproc.overload.shedder import (
    LAG_SAMPLES,
    LEAST_LIVE,
    LEAST_SHARE,
    Bounds,
    Sample,
    Shedder,
)

MEMORY = 1 << 30
BOUNDS = Bounds(memory_bytes=MEMORY)
SAMPLES = st.builds(
    Sample,
    lag_s=st.floats(0, 60, allow_nan=False),
    memory_bytes=st.none() | st.integers(0, 2 * MEMORY),
    commit_s=st.floats(0, 60, allow_nan=False),
    live=st.integers(0, 10_000),
)


@given(st.lists(SAMPLES, max_size=60), st.integers(1, 500))
def test_what_is_let_in_is_the_share_spread_evenly(samples: list[Sample], asked: int) -> None:
    shedder = Shedder(BOUNDS)
    for sample in samples:
        shedder.observe(sample)
        assert LEAST_SHARE <= shedder.share <= 1.0
    admitted = sum(shedder.admits() for _ in range(asked))
    assert abs(admitted - asked * shedder.share) <= 1
    assert 1 <= shedder.retry_after_s <= 10


@given(st.lists(SAMPLES, max_size=60), st.integers(0, 2 * MEMORY))
def test_it_recovers_by_itself_once_the_load_is_gone(samples: list[Sample], kept: int) -> None:
    """Even if the process keeps all the memory it ever used."""
    shedder = Shedder(BOUNDS)
    for sample in samples:
        shedder.observe(sample)
    for _ in range(10 + LAG_SAMPLES):
        shedder.observe(Sample(0.0, kept, 0.0, live=LEAST_LIVE))
    assert shedder.share == 1.0
    assert not shedder.reasons


@given(st.lists(SAMPLES, max_size=60))
def test_while_a_signal_is_over_its_bound_less_is_let_in(samples: list[Sample]) -> None:
    shedder = Shedder(BOUNDS)
    for sample in samples:
        before = shedder.share
        shedder.observe(sample)
        if sample.commit_s >= BOUNDS.commit_s:
            assert shedder.share == max(LEAST_SHARE, before / 2)
            assert shedder.reasons


class Users(RuleBasedStateMachine):
    """Counts of users against a plain model of them."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(most_per_user=3)
        self.model: dict[str, str] = {}

    @rule(exchange=st.integers(0, 20).map(str), user=st.sampled_from("abc"))
    def take(self, exchange: str, user: str) -> None:
        full = list(self.model.values()).count(user) >= 3 and exchange not in self.model
        try:
            self.admission.take(exchange, user)
        except TooManyAtOnce:
            assert full
        else:
            assert not full
            self.model.setdefault(exchange, user)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        exchange = data.draw(st.sampled_from(sorted(self.model)))
        self.admission.leave(exchange)
        self.model.pop(exchange)

    @rule(exchange=st.integers(21, 30).map(str))
    def leave_unknown(self, exchange: str) -> None:
        self.admission.leave(exchange)

    @invariant()
    def agrees(self) -> None:
        counts = Counter(self.model.values())
        assert {user: self.admission.of(user) for user in "abc"} == {u: counts[u] for u in "abc"}
        assert self.admission.busiest == max(counts.values(), default=0) <= 3


TestUsers = Users.TestCase
