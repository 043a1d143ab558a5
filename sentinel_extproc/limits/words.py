"""Numbers and times as people read them: one way in every refusal and table. Pure."""

from __future__ import annotations

import math
from itertools import pairwise

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def number(value: float) -> str:
    """``1,234``, ``0.25``, ``0.000015``: separated thousands, six decimals at most, no exponent."""
    if isinstance(value, int) or value.is_integer():
        return f"{int(value):,}"
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def span(seconds: float) -> str:
    """A time in its two largest units, never less than it is: ``0.3 s``, ``60 s``, ``2 min 5 s``,
    ``24 h``, ``3 d 4 h``.

    Below two of a unit the smaller one tells it: ``90 s``, ``60 min``, ``36 h``.
    """
    tenths = math.ceil(round(seconds * 10, 6))
    if tenths <= 600:
        return f"{tenths / 10:g} s"
    whole = math.ceil(round(seconds, 6))
    for (size, unit), (smaller, its_unit) in pairwise(_UNITS):
        # Rounded up to the smaller unit first: 2 h less 1 s is 2 h, and not 1 h 60 min.
        count, rest = divmod(math.ceil(whole / smaller) * smaller, size)
        if count >= 2:
            return f"{count} {unit} {rest // smaller} {its_unit}" if rest else f"{count} {unit}"
    return f"{whole} s"
