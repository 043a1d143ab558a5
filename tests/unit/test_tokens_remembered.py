"""Counts that are remembered: the same as counted, of long texts only, bounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.tokens import encodings
from sentinel_extproc.tokens.estimator import TokenEstimator
from sentinel_extproc.tokens.remembered import RememberedCounts

O200K, CL100K = "o200k_base", "cl100k_base"


class Counting:
    """Counts characters, and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, encoding: str, text: str) -> int:
        self.asked.append((encoding, text))
        return len(text)


@given(
    st.lists(st.text(max_size=30), max_size=12),
    st.sampled_from((O200K, CL100K)),
)
def test_remembered_is_the_same_as_counted(texts: list[str], encoding: str) -> None:
    counts = RememberedCounts(least_chars=1, most=3)
    for text in [*texts, *texts]:
        assert counts(encoding, text) == encodings.count(encoding, text)


@pytest.mark.parametrize("text", ["\ud800" * 10, "\udfff\ud800", "<|endoftext|>" * 3, "\x00" * 20])
def test_any_text_has_a_hash(text: str) -> None:
    counts = RememberedCounts(least_chars=1)
    assert counts(O200K, text) == counts(O200K, text) == encodings.count(O200K, text)


def test_a_long_text_is_counted_once_for_each_encoding() -> None:
    count = Counting()
    counts = RememberedCounts(count, least_chars=10)
    for _ in range(3):
        assert counts(O200K, "x" * 10) == 10
        assert counts(CL100K, "x" * 10) == 10
        assert counts(O200K, "y" * 10) == 10
    assert count.asked == [(O200K, "x" * 10), (CL100K, "x" * 10), (O200K, "y" * 10)]
    assert (counts.counters.counted, counts.counters.remembered) == (3, 6)


def test_short_ones_are_not_remembered() -> None:
    counts = RememberedCounts(Counting(), least_chars=10)
    counts(O200K, "x" * 9)
    assert len(counts) == 0
    assert (counts.counters.counted, counts.counters.remembered) == (0, 0)


def test_what_is_used_stays_and_memory_is_bounded() -> None:
    count = Counting()
    counts = RememberedCounts(count, least_chars=1, most=10)
    counts(O200K, "kept")
    for number in range(200):
        counts(O200K, f"new {number}")
        counts(O200K, "kept")
        assert len(counts) <= 20
    assert count.asked.count((O200K, "kept")) == 1
    counts(O200K, "new 0")  # long gone
    assert count.asked.count((O200K, "new 0")) == 2


def test_threads_share_it() -> None:
    counts = RememberedCounts(lambda _, text: len(text), least_chars=1, most=5)

    def work(seed: int) -> bool:
        return all(
            counts(O200K, "x" * (1 + (seed * 7 + n) % 40)) == 1 + (seed * 7 + n) % 40
            for n in range(2_000)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert len(counts) <= 10 + 4


def test_a_conversation_is_counted_anew_only_where_it_is_new() -> None:
    estimator = TokenEstimator()
    turns = [{"role": "user", "content": f"turn {n}: " + "word " * 300} for n in range(5)]
    fresh = [
        TokenEstimator().estimate("chat", {"model": "gpt-4o", "messages": turns[: n + 1]})
        for n in range(5)
    ]
    for n in range(5):
        body = {"model": "gpt-4o", "messages": turns[: n + 1]}
        assert estimator.estimate("chat", body) == fresh[n]
    counters = estimator.text_counters
    assert (counters.counted, counters.remembered) == (5, 4 + 3 + 2 + 1)
