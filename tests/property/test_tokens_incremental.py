"""However a text is split, counting its pieces is counting it whole."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel_extproc.tokens import encodings
from sentinel_extproc.tokens.incremental import IncrementalCounter

# Hypothesis looks for nasty ones and shrinks them; the 50,000 are plain random, a few seconds.
NASTY_SPLITS = 300
RANDOM_SPLITS = 50_000

WORDS = st.one_of(
    st.text(max_size=8),
    st.text(alphabet=" \t\n\r\u3000/.,'’\"sSlL1aZ中。é\u0301ʰА\u200b\ud83d\ude00", max_size=16),
    st.sampled_from(
        [
            "The quick",
            " brown fox",
            "don't",
            "I'LL",
            "\r\n\r\n",
            "    ",
            "<|endoftext|>",
            "😀",
            "2024",
        ]
    ),
    st.sampled_from(["a", " ", "\n", "1", "=", "的", "é", "\u0301"]).map(lambda c: c * 30),
)


@st.composite
def splits(draw: st.DrawFn) -> tuple[str, list[str]]:
    text = "".join(draw(st.lists(WORDS, max_size=10)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    edges = [0, *cuts, len(text)]
    return text, [text[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=NASTY_SPLITS, deadline=None)
@given(
    split=splits(),
    name=st.sampled_from(sorted(encodings.SHIPPED)),
    batch=st.sampled_from([1, 7, 40, 8192]),
    max_piece=st.sampled_from([5, 16, 64, encodings.MAX_PIECE_CHARS]),
    asked=st.integers(0, 12),
)
def test_total_is_the_whole_count_over_any_split(
    split: tuple[str, list[str]], name: str, batch: int, max_piece: int, asked: int
) -> None:
    text, pieces = split
    counter = IncrementalCounter(name, batch_chars=batch, max_piece_chars=max_piece)
    for number, piece in enumerate(pieces):
        counter.feed(piece)
        if number == asked:
            counter.total()
    assert counter.total() == encodings.count(name, text, max_piece_chars=max_piece)


MATERIAL = (
    *"aZ é的а\u0301ʰ\u200b\ufeff\u3000\u00a0\ud83d\ude00\x00",
    *[
        "The quick",
        " brown",
        " fox's",
        "DON'T",
        "'ll ",
        "1,234.5",
        "2024-05-13T12:00:00Z",
        "\r\n",
        "\n\n",
    ],
    *[
        "    ",
        "\t",
        " \n",
        "://",
        "/**/",
        '{"a": [1, ',
        "}]",
        "<|endoftext|>",
        "<|im_start|>",
        "aaaaaaaa",
    ],
    *[
        "привет ",
        "日本語",
        "中文，。",
        "한국어 ",
        "👩\u200d👩\u200d👧",
        "é",
        "ﬁ",
        "Ǆ",
        "\u0e01\u0e33",
        "=" * 9,
    ],
)


def test_fifty_thousand_random_splits_count_as_the_whole() -> None:
    chance = random.Random(5)
    for number in range(RANDOM_SPLITS):
        text = "".join(chance.choices(MATERIAL, k=chance.randrange(1, 16)))
        name = ("o200k_base", "cl100k_base")[number % 2]
        counter = IncrementalCounter(
            name,
            batch_chars=chance.choice((1, 8, 8192)),
            max_piece_chars=chance.choice((6, 16_384)),
        )
        start = 0
        while start < len(text):
            end = start + chance.choice((1, 1, 2, 3, 5, 8, 13, 40))
            counter.feed(text[start:end])
            start = end
            if chance.random() < 0.1:
                counter.total()
        whole = encodings.count(name, text, max_piece_chars=counter._max_piece)
        assert counter.total() == whole, (number, text)


@settings(max_examples=30, deadline=None)
@given(split=splits())
def test_the_live_total_is_right_at_every_piece(split: tuple[str, list[str]]) -> None:
    _, pieces = split
    counter = IncrementalCounter("o200k_base")
    seen = ""
    for piece in pieces:
        counter.feed(piece)
        seen += piece
        assert counter.total() == encodings.count("o200k_base", seen)


@pytest.mark.parametrize("letter", ["a", " ", "\n", "\u0301", "\ud800"])
def test_memory_is_bounded_without_any_boundary(letter: str) -> None:
    counter = IncrementalCounter("o200k_base", batch_chars=256, max_piece_chars=1024)
    for _ in range(2000):
        counter.feed(letter * 100)
        held = len(counter._tail) + sum(map(len, counter._pieces))
        assert held <= 1024 + 256 + 100
    assert counter.total() == encodings.count("o200k_base", letter * 200_000, max_piece_chars=1024)


def test_a_surrogate_pair_split_between_pieces_counts_as_one_character() -> None:
    counter = IncrementalCounter("o200k_base")
    for piece in ("smile \ud83d", "\ude00", " again"):
        counter.feed(piece)
    assert counter.total() == encodings.count("o200k_base", "smile 😀 again")


def test_a_foreign_factor_scales_the_total() -> None:
    counter = IncrementalCounter("o200k_base", factor=1.5)
    assert counter.total() == 0
    counter.feed("one two three four")
    assert counter.total() == 6
