"""Answer headers that tell a client where it stands. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .model import LimitState, Unit

DEGRADED = "x-sentinel-degraded"
"""Names the rung of the ladder that decided."""

_TOKENS = frozenset({Unit.INPUT, Unit.OUTPUT, Unit.TOTAL})


def limit_headers(states: Sequence[LimitState], *, degraded: str | None = None) -> dict[str, str]:
    """Lower-case names and values, for every answer and for refusals.

    ``x-ratelimit-limit``, ``-remaining`` and ``-reset`` (whole seconds) are of the limit that is
    closest to its end; the forms with ``-requests`` and ``-tokens``, whose reset reads ``6m0s``,
    are OpenAI's own. A limit that never resets has no reset header. What may be under way at once
    is no pace that a client could keep: it has forms with ``-concurrent`` to itself, without a
    reset. ``x-sentinel-degraded`` names the rung of the ladder that decided. Shadow limits and cost
    don't show.
    """
    # Money is no number of things that a client could count down, and is kept in millionths.
    visible = [state for state in states if not state.shadow and state.unit is not Unit.COST]
    headers: dict[str, str] = {}
    concurrent = [state for state in visible if state.at_once]
    if concurrent:
        visible = [state for state in visible if not state.at_once]
        fewest = min(concurrent, key=lambda state: (state.remaining, state.limit))
        headers["x-ratelimit-limit-concurrent"] = str(fewest.limit)
        headers["x-ratelimit-remaining-concurrent"] = str(fewest.remaining)
    tightest = _tightest(visible)
    if tightest is not None:
        headers["x-ratelimit-limit"] = str(tightest.limit)
        headers["x-ratelimit-remaining"] = str(tightest.remaining)
        if math.isfinite(tightest.reset_s):
            headers["x-ratelimit-reset"] = str(math.ceil(tightest.reset_s))
    for suffix, units in (("requests", {Unit.REQUESTS}), ("tokens", _TOKENS)):
        state = _tightest(state for state in visible if state.unit in units)
        if state is not None:
            headers[f"x-ratelimit-limit-{suffix}"] = str(state.limit)
            headers[f"x-ratelimit-remaining-{suffix}"] = str(state.remaining)
            if math.isfinite(state.reset_s):
                headers[f"x-ratelimit-reset-{suffix}"] = duration(state.reset_s)
    if degraded is not None:
        headers[DEGRADED] = degraded
    return headers


def duration(seconds: float) -> str:
    """A time span as OpenAI writes it: ``0s``, ``120ms``, ``7.5s``, ``6m0s``, ``2h3m0s``."""
    ms = math.ceil(seconds * 1000)
    if 0 < ms < 1000:
        return f"{ms}ms"
    whole, rest = divmod(ms, 60_000)
    hours, minutes = divmod(whole, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _tightest(states: Iterable[LimitState]) -> LimitState | None:
    # Compared by what is left of each limit; a limit of 0 has nothing left.
    return min(
        states,
        key=lambda state: (state.remaining / state.limit if state.limit else 0.0, state.remaining),
        default=None,
    )
