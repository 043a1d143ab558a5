"""What `bench.key_compare` would see, and that what it times are comparisons of ours."""

from __future__ import annotations

import pytest

from bench import key_compare
from sentinel_extproc.identity.static_keys import new_key


def test_guesses_differ_from_the_key_and_by_where() -> None:
    key = new_key()
    first = [
        next(at for at, pair in enumerate(zip(key, guess, strict=True)) if pair[0] != pair[1])
        for guess in key_compare.guesses(key)
    ]
    assert first == [0, len(key) - 1]


def test_a_difference_in_every_process_tells_and_one_that_comes_and_goes_does_not() -> None:
    rounds = [2000.0 + number for number in range(8)]
    wobble = (-0.8, 0.9, 0.1, -0.3, 0.6, -0.5, 0.2, -0.2)
    steady = [(took, 5 + off) for took, off in zip(rounds, wobble, strict=True)]
    found = key_compare.judged("steady", steady)
    assert found.tells
    assert abs(found.more_ns - 5) <= found.within_ns
    assert not key_compare.judged("chance", [*zip(rounds, wobble, strict=True)]).tells


@pytest.mark.parametrize("make", [key_compare.admin_token, key_compare.static_key])
def test_what_is_timed_refuses_guesses_and_takes_the_key(make: key_compare.MakeCheck) -> None:
    key = new_key()
    check = make(key)
    for guess in key_compare.guesses(key):
        check(guess)
    with pytest.raises((AssertionError, StopIteration)):
        check(key)


def test_every_comparison_runs() -> None:
    found = key_compare.one_round(keys=3, samples=2)
    assert len(found) == key_compare.OURS + 2
    assert all(took > 0 for took, _ in found.values())
