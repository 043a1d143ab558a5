from __future__ import annotations

import pytest

from sentinel_extproc.limits.cost import CelCost, Price, PriceTable
from sentinel_extproc.limits.limit import MOST
from sentinel_extproc.limits.model import Quantities

TOKENS = "(input_tokens * price.input + output_tokens * price.output) / 1000000.0"
PRICES = PriceTable((("gpt-4o-mini*", Price(0.15, 0.6)), ("gpt-4o*", Price(2.5, 10.0))))


@pytest.mark.parametrize(
    ("formula", "quantities", "micros"),
    [
        ("0.5 * characters", Quantities(characters=3), 1_500_000),
        ("0.5 * characters", Quantities(characters=0), 0),
        ("requests", Quantities(requests=1), 1_000_000),
        ("total_tokens * 0.001", Quantities(input_tokens=2, output_tokens=5), 7_000),
        ("model.startsWith('gpt-4') ? 2.0 : 1.0", Quantities(), 2_000_000),
        ("3", Quantities(), 3_000_000),
        ("0.00075", Quantities(), 750),
        ("0.0000001", Quantities(), 1),
        ("1.0e30", Quantities(), MOST),
    ],
)
def test_a_formula_gives_whole_millionths_rounded_up(
    formula: str, quantities: Quantities, micros: int
) -> None:
    assert CelCost(formula)(quantities, "gpt-4o") == micros


def test_a_formula_sees_the_price_of_the_model() -> None:
    cost = CelCost(TOKENS, PRICES)
    quantities = Quantities(1, 1_000_000, 2_000_000)
    assert cost(quantities, "gpt-4o-mini-2024-07-18") == 1_350_000
    assert cost(quantities, "gpt-4o-2024-08-06") == 22_500_000


def test_a_model_without_a_price_is_never_free() -> None:
    with pytest.raises(ValueError, match="no price"):
        CelCost(TOKENS, PRICES)(Quantities(), "o3")


@pytest.mark.parametrize(
    "formula",
    ["2 *", "", "nonsense", "2 * characters", "'a'", "true", "-1.0", "1.0 / 0.0", "x" * 5_000],
)
def test_a_formula_that_gives_no_cost_is_refused_when_it_is_read(formula: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        CelCost(formula)


def test_a_formula_that_fails_later_says_so() -> None:
    cost = CelCost("characters == 7.0 ? 0.0 - 1.0 : 1.0")
    with pytest.raises(ValueError, match="0 or more"):
        cost(Quantities(characters=7), "m")
