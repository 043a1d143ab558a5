"""The learned reservation, whatever it is taught."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel_extproc.exchange.expected_output import (
    EDGES,
    HALF_LIFE,
    Basis,
    LearnedOutput,
    Quantile,
)

TOKENS = st.integers(0, 2**40)
FRACTIONS = st.floats(0.001, 0.999)
UNHURRIED = settings(deadline=None)
"""Time on a machine that is shared says nothing about the code."""


def histogram(values: list[int]) -> Quantile:
    quantile = Quantile()
    for value in values:
        quantile.add(value)
    return quantile


@given(st.lists(TOKENS, min_size=1), st.lists(FRACTIONS, min_size=2))
@UNHURRIED
def test_it_rises_with_the_fraction(values: list[int], fractions: list[float]) -> None:
    quantile = histogram(values)
    found = [quantile.at(fraction) for fraction in sorted(fractions)]
    assert all(low <= high for low, high in pairwise(found))


@given(st.lists(st.integers(1, EDGES[-1]), min_size=1, max_size=400), FRACTIONS)
@UNHURRIED
def test_it_is_the_weighted_quantile_to_within_a_bin(values: list[int], fraction: float) -> None:
    newest_first = sorted(
        (value, 0.5 ** (age / HALF_LIFE)) for age, value in enumerate(reversed(values))
    )
    wanted = fraction * math.fsum(weight for _, weight in newest_first)
    below, exact = 0.0, []
    # The store keeps 24 bits of each weight: on the border both neighbours are right.
    for value, weight in newest_first:
        if below - 1e-3 <= wanted <= below + weight + 1e-3:
            exact.append(value)
        below += weight
    assert min(exact) <= histogram(values).at(fraction) <= max(1, math.ceil(max(exact) * 1.5))


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xyz"), TOKENS), max_size=300),
    st.integers(1, 500),
    st.integers(500, 5000),
    FRACTIONS,
)
@UNHURRIED
def test_it_stays_within_its_bounds_and_its_memory(
    lessons: list[tuple[str, str, int]], least: int, most: int, percentile: float
) -> None:
    learned = LearnedOutput(
        default=7, percentile=percentile, least=least, most=most, samples=4, users=5
    )
    for user, kind, tokens in lessons:
        learned.learn(user, kind, tokens)
        assert len(learned) <= 5
        for other in ("a", "nobody"):
            expected = learned.expect(other, kind)
            if expected.basis is Basis.DEFAULT:
                assert expected.tokens == 7
            else:
                assert least <= expected.tokens <= most


@given(st.lists(TOKENS, max_size=300), st.lists(st.integers(1, 4000), min_size=20, max_size=60))
@UNHURRIED
def test_nobody_moves_what_another_has_learned(hostile: list[int], own: list[int]) -> None:
    alone, together = (LearnedOutput(default=7, samples=20) for _ in range(2))
    for tokens in own:
        alone.learn("ada", "x", tokens)
        together.learn("ada", "x", tokens)
    for tokens in hostile:
        together.learn("eve", "x", tokens)
    assert together.expect("ada", "x") == alone.expect("ada", "x")


@given(st.lists(TOKENS, max_size=300))
@UNHURRIED
def test_one_alone_moves_nothing_for_newcomers(hostile: list[int]) -> None:
    learned = LearnedOutput(default=7, samples=20)
    for tokens in hostile:
        learned.learn("eve", "x", tokens)
    assert learned.expect("ada", "x").basis is Basis.DEFAULT
