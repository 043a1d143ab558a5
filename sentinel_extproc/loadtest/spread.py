"""Sizes and times that differ from request to request. Pure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

_Z95 = 1.6448536269514722


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    value: float

    def draw(self, _dice: random.Random) -> float:
        """The value."""
        return self.value


@dataclass(frozen=True, slots=True)
class Even:
    """Anything from ``low`` to ``high``, equally likely."""

    low: float
    high: float

    def draw(self, dice: random.Random) -> float:
        """One value."""
        return dice.uniform(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Skewed:
    """Log-normal, as sizes of real prompts and answers roughly are: many small, few very large.

    Attributes:
        p50: half are smaller.
        p95: one in twenty is larger.
        top: none is.
    """

    p50: float
    p95: float
    top: float

    def draw(self, dice: random.Random) -> float:
        """One value."""
        sigma = math.log(self.p95 / self.p50) / _Z95
        return min(self.top, dice.lognormvariate(math.log(self.p50), sigma))


Spread = Fixed | Even | Skewed
