"""Durations, shares and spreads as people write them: ``10s``, ``2%``, ``{p50: 300, p95: 4000}``.
Pure."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from .spread import Even, Fixed, Skewed, Spread

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_KINDS = ({"min", "max"}, {"p50", "p95"}, {"p50", "p95", "max"})


def seconds(value: Any) -> float:
    """A duration: ``500ms``, ``10s``, ``2m``, ``1h`` or a number of seconds.

    Raises:
        ValueError: something else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value >= 0 and math.isfinite(value):
            return float(value)
    elif isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        return float(found[1]) * _SECONDS[found[2]]
    raise ValueError("must be a duration such as 500ms, 10s or 2m")


def share(value: Any) -> float:
    """A share: ``2%`` or 0.02.

    Raises:
        ValueError: something else, or not from 0 to 1.
    """
    try:
        if isinstance(value, str) and value.rstrip().endswith("%"):
            found = float(value.rstrip()[:-1]) / 100
        else:
            found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found <= 1:
        raise ValueError("must be a share such as 2% or 0.02")
    return found


def sizes(value: Any) -> Spread:
    """Numbers that differ: ``300``, ``{min: 1, max: 9}`` or ``{p50: 300, p95: 4000, max: 20000}``.

    Raises:
        ValueError: something else.
    """
    return _spread(value, _number)


def times(value: Any) -> Spread:
    """As `sizes`, of durations.

    Raises:
        ValueError: something else.
    """
    return _spread(value, seconds)


def _spread(value: Any, read: Any) -> Spread:
    if isinstance(value, (Fixed, Even, Skewed)):
        return value
    if not isinstance(value, dict):
        return Fixed(read(value))
    if set(value) not in _KINDS:
        raise ValueError("must be a number, {min, max}, or {p50, p95} with or without max")
    found = {name: read(one) for name, one in value.items()}
    if "min" in found:
        if found["min"] > found["max"]:
            raise ValueError("min must not exceed max")
        return Even(found["min"], found["max"])
    top = found.get("max", 20 * found["p95"])
    if not 0 < found["p50"] <= found["p95"] <= top:
        raise ValueError("p50 must be more than 0, and p50, p95 and max must not descend")
    return Skewed(found["p50"], found["p95"], top)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        raise ValueError("must be a number of at least 0")
    return float(value)


Duration = Annotated[float, BeforeValidator(seconds)]
Share = Annotated[float, BeforeValidator(share)]
Sizes = Annotated[Spread, BeforeValidator(sizes)]
Times = Annotated[Spread, BeforeValidator(times)]
