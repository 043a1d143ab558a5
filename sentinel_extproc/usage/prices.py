"""What an exchange costs, by a table of prices. Pure, in integers.

A model has a price if an entry's name fits: the name itself or a dated snapshot of it
(``gpt-4o`` fits ``gpt-4o-2024-08-06``, not ``gpt-4o-mini``), or a glob. Names are compared as the
model table compares them: aliases applied, provider prefixes and fine-tunings dropped. The first
entry that fits counts.

What has no price has no cost: None, never 0. That goes for a kind of token too: audio and images
cost differently from text, so an answer that has some costs nothing we know of unless the model has
a price for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import translate

from sentinel_extproc.usage.record import Cost, TokenUsage

NANO = 1_000_000_000
MILLION = 1_000_000

_SNAPSHOT = r"(?:-\d{4}-\d{2}-\d{2}|-\d{4}|-\d{6}|-\d{8}|-latest)?"


@dataclass(frozen=True, slots=True)
class Price:
    """Billionths of the currency per million tokens; ``request``: per million requests.

    Attributes:
        cached_input: None: as ``input``.
        audio_input, audio_output, image_input, image_output: None: what they cost isn't known.
    """

    input: int
    output: int
    cached_input: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int | None = None
    request: int = 0

    def nanos(self, usage: TokenUsage, requests: int) -> int | None:
        """Billionths, rounded half up; None if a kind that was used has no price."""
        special = (
            (usage.audio_input_tokens, self.audio_input),
            (usage.image_input_tokens, self.image_input),
            (usage.audio_output_tokens, self.audio_output),
            (usage.image_output_tokens, self.image_output),
        )
        total = requests * self.request
        for tokens, price in special:
            if tokens and price is None:
                return None
            total += tokens * (price or 0)
        # Parts are parts of a sum; what a provider reports beyond it is not charged twice.
        plain_input = usage.input_tokens - usage.audio_input_tokens - usage.image_input_tokens
        cached = min(usage.cached_input_tokens, max(plain_input, 0))
        total += cached * (self.input if self.cached_input is None else self.cached_input)
        total += max(plain_input - cached, 0) * self.input
        plain_output = usage.output_tokens - usage.audio_output_tokens - usage.image_output_tokens
        total += max(plain_output, 0) * self.output
        return (total + MILLION // 2) // MILLION


def nanos_of(amount: Decimal) -> int:
    """A price as written to billionths.

    Raises:
        ValueError: negative, not finite, or finer than that.
    """
    if not amount.is_finite() or amount < 0:
        raise ValueError("must be a number of 0 or more")
    scaled = amount * NANO
    if scaled != scaled.to_integral_value() or scaled > 10**15:
        raise ValueError("must have at most 9 decimals, and be less than a million")
    return int(scaled)


class PriceList:
    """Prices by model; a ``Pricer`` when called.

    Args:
        currency: of all prices.
        prices: names or globs, and prices; the first that fits counts.
        canonical: a model's name as it is to be compared; ``ModelTable.canonical``.
    """

    def __init__(
        self,
        currency: str,
        prices: Sequence[tuple[str, Price]],
        canonical: Callable[[str], str],
    ) -> None:
        self._currency = currency
        self._prices = tuple((_pattern(name), price) for name, price in prices)
        self._canonical = canonical
        self._found: dict[str, Price | None] = {}

    def price_of(self, model: str) -> Price | None:
        """None if no entry fits."""
        if model in self._found:
            return self._found[model]
        name = self._canonical(model)
        price = next((price for pattern, price in self._prices if pattern.fullmatch(name)), None)
        if len(self._found) >= _REMEMBERED:  # clients choose the names
            self._found.clear()
        self._found[model] = price
        return price

    def __call__(
        self, requested: str, served: str | None, usage: TokenUsage, requests: int
    ) -> Cost | None:
        """By the price of the model that served, or else of the one that was asked for."""
        price = (self.price_of(served) if served else None) or self.price_of(requested)
        nanos = None if price is None else price.nanos(usage, requests)
        return None if nanos is None else Cost(nanos, self._currency)


_REMEMBERED = 1000


def _pattern(name: str) -> re.Pattern[str]:
    name = name.strip().lower()
    if any(sign in name for sign in "*?["):
        return re.compile(translate(name))
    return re.compile(re.escape(name) + _SNAPSHOT)
