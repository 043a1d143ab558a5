"""Cutting text where `late_boundary` says never changes its count."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel_extproc.tokens import encodings

PIECES = st.one_of(
    st.text(max_size=6),
    st.text(
        alphabet=" \t\n\r\u3000\u00a0/.,'’\"sSlL1a中。、é\u0301ʰªА\u200b\ud83d\ude00", max_size=12
    ),
    st.sampled_from(["don't", "I'LL", "'ſ", " \n", "\r\n", "://", "<|endoftext|>", "123456", "𝐀𝟏"]),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def boundaries(text: str) -> set[int]:
    found = {match.start() for match in encodings._BOUNDARY.finditer(text)}
    return found - {0, len(text)}


@pytest.mark.parametrize("name", sorted(encodings.SHIPPED))
@settings(deadline=None)
@given(text=TEXTS)
def test_every_boundary_is_a_pre_token_boundary(name: str, text: str) -> None:
    whole = encodings.count(name, text)
    for cut in boundaries(text):
        parts = encodings.count(name, text[:cut]) + encodings.count(name, text[cut:])
        assert parts == whole, (text[:cut], text[cut:])


@pytest.mark.parametrize("name", sorted(encodings.SHIPPED))
@settings(deadline=None)
@given(text=TEXTS, size=st.integers(min_value=1, max_value=40))
def test_counting_in_pieces_is_counting_whole_when_each_run_fits(
    name: str, text: str, size: int
) -> None:
    runs = []
    end = len(text)
    while end:
        start = encodings.late_boundary(text, end)
        runs.append(end - start)
        end = start
    pieces = encodings.count(name, text, max_piece_chars=max([size, *runs]))
    assert pieces == encodings.count(name, text)


@settings(deadline=None)
@given(text=TEXTS)
def test_a_boundary_is_found_whenever_there_is_one(text: str) -> None:
    assert encodings.late_boundary(text) in (boundaries(text) or {0})


def test_a_boundary_far_from_the_end_is_found() -> None:
    text = "word." + "\u0301" * 50_000
    assert encodings.late_boundary(text) == 4
