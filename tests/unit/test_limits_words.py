from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.limits.words import number, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.01, "0.1 s"),
        (12.3, "12.3 s"),
        (60, "60 s"),
        (60.01, "61 s"),
        (90, "90 s"),
        (125, "2 min 5 s"),
        (3_600, "60 min"),
        (7_139, "118 min 59 s"),
        (7_199, "2 h"),
        (7_200, "2 h"),
        (7_201, "2 h 1 min"),
        (86_400, "24 h"),
        (172_799, "2 d"),
        (172_801, "2 d 1 h"),
        (604_800, "7 d"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


@given(st.floats(0, 400 * 86_400))
def test_a_span_is_never_less_than_it_was_nor_much_more(seconds: float) -> None:
    sizes = {"s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
    parts = re.findall(r"([\d.]+) (\w+)", span(seconds))
    told = sum(float(count) * sizes[unit] for count, unit in parts)
    assert seconds - 1e-6 <= told <= max(seconds + 1.0, seconds * 1.03)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (40_000, "40,000"),
        (2.0, "2"),
        (2.5, "2.5"),
        (1_234.25, "1,234.25"),
        (0.000015, "0.000015"),
        (1e-9, "0"),
    ],
)
def test_numbers_have_no_exponent(value: float, text: str) -> None:
    assert number(value) == text
