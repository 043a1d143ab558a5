"""What a request costs, by a formula in CEL, the Common Expression Language.

A formula sees ``requests``, ``input_tokens``, ``output_tokens``, ``total_tokens`` and
``characters`` as doubles, ``model`` as a string, and ``price`` with ``price.input`` and
``price.output`` per million tokens of that model. CEL never converts numbers by itself: write
``2.0``, not ``2``. It has no loops, so that every formula ends. Examples::

    0.5 * characters
    (input_tokens * price.input + output_tokens * price.output) / 1000000.0
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fnmatch import translate

from .limit import MICRO, MOST
from .model import Quantities

LONGEST_FORMULA = 4_096
"""Characters; no formula for money needs more, and the parser recurses."""

_USES_PRICE = re.compile(r"\bprice\b")


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens."""

    input: float
    output: float


class PriceTable:
    """Prices by model name; globs, the first that matches counts."""

    def __init__(self, prices: tuple[tuple[str, Price], ...] = ()) -> None:
        self._prices = tuple((re.compile(translate(glob)), price) for glob, price in prices)

    def price_of(self, model: str) -> Price | None:
        """None when no entry matches."""
        for pattern, price in self._prices:
            if pattern.fullmatch(model):
                return price
        return None


def uses_price(formula: str) -> bool:
    """Whether it can't do without the price of a model."""
    return _USES_PRICE.search(formula) is not None


class CelCost:
    """A formula, compiled once; a ``CostFormula`` when called.

    Attributes:
        formula: as written.

    Raises:
        ValueError: when built: not CEL, or not a number of 0 or more for plain quantities.
    """

    def __init__(self, formula: str, prices: PriceTable | None = None) -> None:
        if len(formula) > LONGEST_FORMULA:
            raise ValueError(f"a cost formula must not exceed {LONGEST_FORMULA} characters")
        # Its package draws in a command line of its own: a quarter of a second that only those who
        # limit cost should pay.
        import cel

        try:
            self._program = cel.compile(formula)
        except ValueError as error:
            raise ValueError(f"not a CEL expression: {' '.join(str(error).split())}") from error
        self.formula = formula
        self._uses_price = uses_price(formula)
        self._prices = prices if prices is not None else PriceTable()
        for sample in (Quantities(0), Quantities(1, 1_000, 500, 4_000)):
            self._evaluate(sample, "sample", Price(1.0, 1.0))

    def __call__(self, quantities: Quantities, model: str) -> int:
        """Whole millionths, rounded up.

        Raises:
            ValueError: the model has no price, or the formula no number for these quantities.
        """
        price = None
        if self._uses_price:
            price = self._prices.price_of(model)
            if price is None:
                raise ValueError("this model has no price")
        return self._evaluate(quantities, model, price)

    def __repr__(self) -> str:
        return f"CelCost({self.formula!r})"

    def _evaluate(self, quantities: Quantities, model: str, price: Price | None) -> int:
        variables: dict[str, object] = {
            "requests": float(quantities.requests),
            "input_tokens": float(quantities.input_tokens),
            "output_tokens": float(quantities.output_tokens),
            "total_tokens": float(quantities.input_tokens + quantities.output_tokens),
            "characters": float(quantities.characters),
            "model": model,
        }
        if price is not None:
            variables["price"] = {"input": price.input, "output": price.output}
        try:
            value = self._program.execute(variables)
        except (TypeError, ValueError, RuntimeError, ArithmeticError, KeyError) as error:
            raise ValueError(f"{self.formula}: {error}") from error
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self.formula}: gives {type(value).__name__}, not a number")  # noqa: TRY004
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{self.formula}: gives {value}; a cost is a number of 0 or more")
        # Rounded first: 0.00075 × 10^6 is a little more than 750 in binary.
        return min(math.ceil(round(value * MICRO, 6)), MOST)
