"""Back-off: full jitter under an exponential bound, and Retry-After as a floor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.usage.retry import Backoff

BACKOFF = Backoff(base_s=0.5, cap_s=60)


@pytest.mark.parametrize(
    ("attempt", "bound"), [(1, 0.5), (2, 1), (3, 2), (7, 32), (8, 60), (100, 60), (10**9, 60)]
)
def test_bounds(attempt: int, bound: float) -> None:
    assert BACKOFF.wait_s(attempt, 1.0) == bound
    assert BACKOFF.wait_s(attempt, 0.5) == bound / 2
    assert BACKOFF.wait_s(attempt, 0.0) == 0


@given(
    attempt=st.integers(1, 10**6),
    chance=st.floats(0, 1),
    retry_after_s=st.none() | st.floats(0, 60),
)
def test_never_sooner_than_asked_nor_later_than_the_cap(
    attempt: int, chance: float, retry_after_s: float | None
) -> None:
    wait = BACKOFF.wait_s(attempt, chance, retry_after_s=retry_after_s)
    assert (retry_after_s or 0) <= wait <= 60.5


def test_those_who_were_told_the_same_do_not_come_back_together() -> None:
    waits = {BACKOFF.wait_s(1, chance / 10, retry_after_s=10) for chance in range(11)}
    assert len(waits) == 11
