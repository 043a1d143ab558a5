"""Answer headers that tell a client where it stands. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf

from .model import LimitState, Unit

DEGRADED = "x-sentinel-degraded"
"""Names the rung of the ladder that decided."""

_REQUESTS, _COST = Unit.REQUESTS, Unit.COST
_MOST_LEFT = (inf, 0)
"""More than any limit has left: a share of it, and an amount."""


def limit_headers(states: Sequence[LimitState], *, degraded: str | None = None) -> dict[str, str]:
    """Lower-case names and values, for every answer and for refusals.

    ``x-ratelimit-limit``, ``-remaining`` and ``-reset`` (whole seconds) are of the limit that is
    closest to its end; the forms with ``-requests`` and ``-tokens``, whose reset reads ``6m0s``,
    are OpenAI's own. A limit that never resets has no reset header. What may be under way at once
    is no pace that a client could keep: it has forms with ``-concurrent`` to itself, without a
    reset. ``x-sentinel-degraded`` names the rung of the ladder that decided. Shadow limits and cost
    don't show.
    """
    fewest, tightest, requests, tokens = _speakers(states)
    headers: dict[str, str] = {}
    if fewest is not None:
        headers["x-ratelimit-limit-concurrent"] = str(fewest.limit)
        headers["x-ratelimit-remaining-concurrent"] = str(fewest.remaining)
    if tightest is not None:
        headers["x-ratelimit-limit"] = str(tightest.limit)
        headers["x-ratelimit-remaining"] = str(tightest.remaining)
        if tightest.reset_s != inf:
            headers["x-ratelimit-reset"] = str(ceil(tightest.reset_s))
    if requests is not None:
        headers["x-ratelimit-limit-requests"] = str(requests.limit)
        headers["x-ratelimit-remaining-requests"] = str(requests.remaining)
        if requests.reset_s != inf:
            headers["x-ratelimit-reset-requests"] = duration(requests.reset_s)
    if tokens is not None:
        headers["x-ratelimit-limit-tokens"] = str(tokens.limit)
        headers["x-ratelimit-remaining-tokens"] = str(tokens.remaining)
        if tokens.reset_s != inf:
            headers["x-ratelimit-reset-tokens"] = duration(tokens.reset_s)
    if degraded is not None:
        headers[DEGRADED] = degraded
    return headers


def duration(seconds: float) -> str:
    """A time span as OpenAI writes it: ``0s``, ``120ms``, ``7.5s``, ``6m0s``, ``2h3m0s``."""
    ms = ceil(seconds * 1000)
    if 0 < ms < 1000:
        return f"{ms}ms"
    whole, rest = divmod(ms, 60_000)
    text = f"{rest / 1000:g}s"  # three decimals at most
    if not whole:
        return text
    hours, minutes = divmod(whole, 60)
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"


def _speakers(
    states: Sequence[LimitState],
) -> tuple[LimitState | None, LimitState | None, LimitState | None, LimitState | None]:
    """The fewest places at once, then the tightest of all paces, of requests and of tokens."""
    tightest = requests = tokens = fewest = None
    least = least_requests = least_tokens = _MOST_LEFT
    for state in states:
        unit, limit, remaining = state.unit, state.limit, state.remaining
        # Money is no number of things that a client could count down, and is kept in millionths.
        if state.shadow or unit is _COST:
            continue
        if state.at_once:
            if fewest is None or (remaining, limit) < (fewest.remaining, fewest.limit):
                fewest = state
            continue
        # Compared by what is left of each limit; a limit of 0 has nothing left.
        left = (remaining / limit if limit else 0.0, remaining)
        if left < least:
            tightest, least = state, left
        if unit is _REQUESTS:
            if left < least_requests:
                requests, least_requests = state, left
        elif left < least_tokens:
            tokens, least_tokens = state, left
    return fewest, tightest, requests, tokens
