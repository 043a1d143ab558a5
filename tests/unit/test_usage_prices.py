"""What an exchange costs: exact, by the right model, and unknown rather than wrong."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.tokens.models import ModelTable
from sentinel_extproc.usage.prices import NANO, Price, PriceList, nanos_of
from sentinel_extproc.usage.prices_file import PricesFileError, load_prices, parse_prices
from sentinel_extproc.usage.record import Cost, TokenUsage

TEXT = """
currency: USD
models:
  gpt-4o-mini: {input: "0.15", cached_input: "0.075", output: "0.60"}
  gpt-4o: {input: "2.50", cached_input: "1.25", output: "10.00"}
  gpt-4o-audio-preview: {input: "2.5", output: "10", audio_input: "40", audio_output: "80"}
  tts-1*: {input: 15, output: "0", request: "0.001"}
  "o3": {input: "2", output: "8"}
"""


@pytest.fixture
def prices() -> PriceList:
    return parse_prices(TEXT, ModelTable(aliases={"our-deployment": "gpt-4o"}).canonical)


def cost(prices: PriceList, model: str, *usage: int, served: str | None = None) -> int | None:
    found = prices(model, served, TokenUsage(*usage), 1)
    return None if found is None else found.nanos


@pytest.mark.parametrize(
    ("model", "nanos"),
    [
        ("gpt-4o", 2_500_000_000),
        ("gpt-4o-2024-08-06", 2_500_000_000),
        ("GPT-4o", 2_500_000_000),
        ("openai/gpt-4o", 2_500_000_000),
        ("ft:gpt-4o-2024-08-06:acme::abc", 2_500_000_000),
        ("our-deployment", 2_500_000_000),
        ("gpt-4o-mini", 150_000_000),
        ("gpt-4o-mini-2024-07-18", 150_000_000),
        ("tts-1", 15_001_000_000),
        ("tts-1-hd", 15_001_000_000),
        ("gpt-4o-search-preview", None),
        ("o3-mini", None),
        ("gpt-4", None),
        ("", None),
    ],
)
def test_the_price_is_of_that_model_or_there_is_none(
    prices: PriceList, model: str, nanos: int | None
) -> None:
    assert cost(prices, model, 1_000_000) == nanos


def test_every_kind_has_its_price(prices: PriceList) -> None:
    assert cost(prices, "gpt-4o", 1_000_000, 1_000_000, 400_000) == 1_500_000_000 + 500_000_000 + (
        10 * NANO
    )
    usage = TokenUsage(1000, 500, audio_input_tokens=600, audio_output_tokens=500)
    assert prices("gpt-4o-audio-preview", None, usage, 1) == Cost(
        400 * 2500 + 600 * 40_000 + 500 * 80_000, "USD"
    )


def test_a_kind_without_a_price_makes_the_cost_unknown_not_wrong(prices: PriceList) -> None:
    for usage in (
        TokenUsage(10, audio_input_tokens=1),
        TokenUsage(10, 5, audio_output_tokens=1),
        TokenUsage(10, image_input_tokens=1),
        TokenUsage(10, 5, image_output_tokens=1),
    ):
        assert prices("gpt-4o", None, usage, 1) is None


def test_cached_input_without_a_price_costs_like_input(prices: PriceList) -> None:
    assert cost(prices, "o3", 1_000_000, 0, 999_999) == 2 * NANO


def test_the_model_that_served_counts_and_else_the_one_asked_for(prices: PriceList) -> None:
    assert cost(prices, "gpt-4o", 1_000_000, served="gpt-4o-mini") == 150_000_000
    assert cost(prices, "gpt-4o", 1_000_000, served="unheard-of") == 2_500_000_000


def test_nothing_used_costs_nothing_where_there_is_a_price(prices: PriceList) -> None:
    assert cost(prices, "gpt-4o") == 0


amounts = st.integers(0, 10**9)


@given(amounts, amounts, amounts, amounts, amounts)
def test_exact_to_half_a_billionth(
    tokens: int, made: int, cached: int, price: int, cached_price: int
) -> None:
    nanos = Price(price, 7, cached_price).nanos(TokenUsage(tokens, made, cached), 3)
    assert nanos is not None
    cached = min(cached, tokens)
    exact = Fraction(cached * cached_price + (tokens - cached) * price + made * 7, 1_000_000)
    assert abs(nanos - exact) <= Fraction(1, 2)
    assert nanos >= 0


@pytest.mark.parametrize(
    ("text", "nanos"),
    [("2.50", 2_500_000_000), ("0", 0), ("0.000000001", 1), ("999999", 999_999 * NANO)],
)
def test_prices_as_written(text: str, nanos: int) -> None:
    assert nanos_of(Decimal(text)) == nanos


@pytest.mark.parametrize("text", ["-1", "NaN", "Infinity", "0.0000000001", "10000000"])
def test_prices_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        nanos_of(Decimal(text))


def test_every_fault_of_a_file_is_told() -> None:
    text = """
currency: dollars
models:
  a: {input: 2.50, output: "1"}
  b: {input: "x", output: "1"}
  c: {input: "1"}
  d: {input: "1", output: "1", discount: "1"}
  e: {input: true, output: "1"}
"""
    with pytest.raises(PricesFileError) as caught:
        parse_prices(text, str.lower)
    places = [fault.partition(":")[0] for fault in caught.value.faults]
    assert places == [
        "currency",
        "models.a.input",
        "models.b.input",
        "models.c.output",
        "models.d.discount",
        "models.e.input",
    ]
    assert '"2.50"' in caught.value.faults[1]


@pytest.mark.parametrize("text", ["", "[1]", "a: [", "currency: USD"])
def test_files_that_say_nothing_useful(text: str) -> None:
    with pytest.raises(PricesFileError):
        parse_prices(text, str.lower)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PricesFileError, match="can't be read"):
        load_prices(tmp_path / "no.yaml", str.lower)


def test_what_is_remembered_is_bounded(prices: PriceList) -> None:
    for number in range(5000):
        prices.price_of(f"model-{number}")
    assert len(prices._found) <= 1000
    assert cost(prices, "gpt-4o", 1_000_000) == 2_500_000_000
