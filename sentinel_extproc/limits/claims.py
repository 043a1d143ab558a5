"""From a request to a claim, and from a verdict to states and refusals. Pure."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from functools import lru_cache

from msgspec.structs import replace

from ..errors import InvalidRequest, LimitExceeded, PromptTooLarge, TooManyAtOnce
from .headers import limit_headers
from .limit import MOST, Kind, Limit, OnExhausted, OnOutage, Period, amount
from .model import LimitState, Quantities, Quota, QuotaPeriod, ReserveRequest, Unit
from .store import Claim, Line, LineVerdict, Seed, Verdict, owner_tag
from .words import number, span

LEAST_OUTPUT = 16
"""A hold is not right-sized below this: OpenAI's Responses API accepts no smaller cap."""

_DONT_RETRY_AFTER_S = 60.0
"""From here on the ``openai`` client is told not to retry by itself."""

_INF, _CONCURRENCY = math.inf, Kind.CONCURRENCY

_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]")
_PERIODS = {
    QuotaPeriod.DAILY: Period.DAY,
    QuotaPeriod.WEEKLY: Period.WEEK,
    QuotaPeriod.MONTHLY: Period.MONTH,
    QuotaPeriod.NEVER: Period.LIFETIME,
}


def quota_limit(
    quota: Quota, *, on_outage: OnOutage, on_exhausted: OnExhausted, right_size: bool
) -> Limit:
    """Another authority's quota as a calendar limit of ours."""
    name = _FOREIGN.sub("-", quota.name)[:64]
    return Limit(
        name=name if name[:1].isalnum() else f"quota{name}"[:64],
        unit=quota.unit,
        kind=Kind.CALENDAR,
        capacity=min(max(quota.limit, 0), MOST),
        period=_PERIODS[quota.period],
        on_outage=on_outage,
        on_exhausted=on_exhausted,
        right_size=right_size,
    )


def build_claim(
    request: ReserveRequest,
    limits: tuple[Limit, ...],
    quotas: tuple[tuple[Limit, Seed], ...],
    asked: Quantities,
) -> Claim:
    """Lines for ``asked``, each clamped to what its limit can ever hold.

    Raises:
        PromptTooLarge: the prompt alone exceeds some limit's capacity.
        InvalidRequest: a cost formula has no value for this request.
    """
    subject = request.subject
    model = subject.model
    lines = []
    for limit, own_key, room in _frames(limits):
        key = own_key
        if limit.per_model:
            # Hashed: a model's name is the client's text.
            key += ":" + hashlib.blake2b(model.encode(), digest_size=8).hexdigest()
        try:
            wanted = amount(limit, asked, model)
        except ValueError as error:
            raise _uncosted(limit, error) from error
        if wanted > room:
            wanted = _clamped(limit, wanted, asked, model)
        lines.append(Line(limit, key, wanted))
    for limit, seed in quotas:
        wanted = _clamped(limit, _amount(limit, asked, model), asked, model)
        lines.append(Line(limit, f"quota:{limit.name}", wanted, seed))
    return Claim(request.exchange_id, owner_tag(subject.external_id), tuple(lines), request.epochs)


_NEVER = Line(
    # Where the store can't be asked, nobody else may answer.
    Limit(name="peek", unit=Unit.REQUESTS, kind=Kind.RING, capacity=0, on_outage=OnOutage.DENY),
    "peek",
    1,
)


def peeking(claim: Claim) -> Claim:
    """A claim that is always denied and so changes nothing: for reading where its limits stand.

    Its first line is the one that never fits; the others are ``claim``'s.
    """
    lines = (_NEVER, *(replace(line, amount=0) for line in claim.lines))
    return replace(claim, lines=lines, epochs=())


def seeded(quota: Quota) -> Seed:
    """What the authority says is used."""
    return Seed(used=min(max(quota.used, 0), MOST), seen_ms=max(quota.seen_ms, 0))


def retaken(claim: Claim, quantities: Quantities, model: str) -> Claim:
    """The same claim about other quantities, unclamped: what is to be held, or was used."""
    lines = []
    for line in claim.lines:
        limit = line.limit
        try:
            lines.append(Line(limit, line.key, amount(limit, quantities, model), line.seed))
        except ValueError as error:
            raise _uncosted(limit, error) from error
    return Claim(claim.id, claim.owner, tuple(lines), claim.epochs, claim.at_ms)


def right_sized(claim: Claim, verdict: Verdict | None, asked: Quantities, model: str) -> Quantities:
    """The most output up to ``asked`` that fits every limit which wants to be right-sized.

    Without a verdict, what their capacities can hold; with one, what they have left. ``asked``
    itself when nothing is to be changed or when even ``LEAST_OUTPUT`` doesn't fit.
    """
    bounds = []
    for index, line in enumerate(claim.lines):
        limit = line.limit
        if limit.right_size and not limit.shadow:
            if verdict is None:
                bounds.append((limit, limit.room))
            elif not verdict.lines[index].fits:
                bounds.append((limit, verdict.lines[index].remaining))
    if not bounds:
        return asked

    def fits(output: int) -> bool:
        smaller = replace(asked, output_tokens=output)
        return all(_amount(limit, smaller, model) <= bound for limit, bound in bounds)

    if fits(asked.output_tokens) or not fits(LEAST_OUTPUT):
        return asked
    return replace(asked, output_tokens=_most(fits, asked.output_tokens, least=LEAST_OUTPUT))


def covered(claim: Claim, held: Quantities, model: str) -> Quantities:
    """The part of ``held`` that the claim's lines really hold: a line is clamped to its limit's
    capacity, and what is generated beyond that must be asked for before it can be called held.
    """
    lines = [line for line in claim.lines if not line.limit.shadow]

    def fits(output: int) -> bool:
        smaller = held if output == held.output_tokens else replace(held, output_tokens=output)
        return all(_amount(line.limit, smaller, model) <= line.amount for line in lines)

    if fits(held.output_tokens):
        return held
    return replace(held, output_tokens=_most(fits, held.output_tokens))


def limit_states(claim: Claim, verdict: Verdict) -> tuple[LimitState, ...]:
    """Where each limit stands; empty when the verdict says nothing of lines."""
    states = []
    for line, answer in zip(claim.lines, verdict.lines, strict=False):
        limit, reset_ms = line.limit, answer.reset_ms
        states.append(
            LimitState(
                limit.name,
                limit.unit,
                limit.capacity if limit.burst is None else limit.burst,
                answer.remaining,
                _INF if reset_ms < 0 else reset_ms / 1000,
                shadow=limit.shadow,
                exceeded=not answer.fits,
                at_once=limit.kind is _CONCURRENCY,
            )
        )
    return tuple(states)


def refusal(claim: Claim, verdict: Verdict) -> LimitExceeded:
    """The answer to a denied claim: about the limit that will take longest to have room."""
    states = limit_states(claim, verdict)
    denying = [
        index
        for index, line in enumerate(claim.lines)
        if not verdict.lines[index].fits and not line.limit.shadow
    ]
    worst = max(denying, key=lambda index: _wait_s(verdict.lines[index]))
    line, state, wait_s = claim.lines[worst], states[worst], _wait_s(verdict.lines[worst])
    limit = line.limit
    at_once = TooManyAtOnce.default_code if limit.kind is Kind.CONCURRENCY else None
    headers = limit_headers(states, degraded=verdict.degraded)
    if wait_s > _DONT_RETRY_AFTER_S:
        headers["x-should-retry"] = "false"
    return LimitExceeded(
        _why(line, state, wait_s),
        code="insufficient_quota" if limit.kind is Kind.CALENDAR else at_once,
        retry_after_s=wait_s if math.isfinite(wait_s) else None,
        details={
            "limit_name": limit.name,
            "unit": limit.unit.value,
            "predicted": _number(limit, line.amount),
            "remaining": _number(limit, state.remaining),
            "limit": _number(limit, state.limit),
            "reset_s": round(state.reset_s, 3) if math.isfinite(state.reset_s) else None,
        },
        headers=headers,
    )


def _why(line: Line, state: LimitState, wait_s: float) -> str:
    limit = line.limit
    allows = f"Limit '{limit.name}' allows {_shown(limit, state.limit)} {window(limit)}"
    again = f"Try again in {span(wait_s)}." if math.isfinite(wait_s) else "It does not reset."
    if limit.kind is Kind.CONCURRENCY:
        return f"{allows}; wait for one to end. {again}" if limit.room else f"{allows}."
    return (
        f"{allows}; this request needs {_said(limit, line.amount)}, and "
        f"{_said(limit, state.remaining)} "
        f"{'is' if state.remaining == limit.scale else 'are'} left. {again}"
    )


@lru_cache(maxsize=1024)
def _frames(limits: tuple[Limit, ...]) -> tuple[tuple[Limit, str, int], ...]:
    """Each with its key and room: the same at every request, and a policy has few sets of limits.
    Those per model need theirs in the key as well."""
    return tuple((limit, f"{limit.kind.value}:{limit.name}", limit.room) for limit in limits)


def _amount(limit: Limit, quantities: Quantities, model: str) -> int:
    try:
        return amount(limit, quantities, model)
    except ValueError as error:
        raise _uncosted(limit, error) from error


def _uncosted(limit: Limit, error: ValueError) -> InvalidRequest:
    return InvalidRequest(f"Limit '{limit.name}' can't compute a cost: {error}")


def _clamped(limit: Limit, wanted: int, asked: Quantities, model: str) -> int:
    """``wanted``, or what the limit can ever hold of it."""
    if wanted <= limit.room or limit.room == 0 or limit.unit is Unit.REQUESTS or limit.shadow:
        return wanted
    prompt = _amount(limit, replace(asked, output_tokens=0), model)
    if prompt > limit.room:
        raise PromptTooLarge(
            f"The prompt needs {_shown(limit, prompt)}, and limit '{limit.name}' never allows "
            f"more than {_shown(limit, limit.room)} at once. Shorten the prompt.",
            details={
                "limit_name": limit.name,
                "unit": limit.unit.value,
                "predicted": _number(limit, prompt),
                "limit": _number(limit, limit.room),
            },
        )
    # Output beyond the capacity may never be generated; refusing for it would deny a request that
    # could have been served. What is generated beyond the hold is charged at settlement.
    return limit.room


def _most(fits: Callable[[int], bool], wanted: int, *, least: int = 0) -> int:
    """The largest number from ``least`` to ``wanted`` that fits; ``least`` is not tried."""
    if wanted <= least or fits(wanted):
        return wanted
    low, high = least, wanted
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _wait_s(answer: LineVerdict) -> float:
    return math.inf if answer.wait_ms < 0 else answer.wait_ms / 1000


def _number(limit: Limit, value: int) -> int | float:
    return value if limit.scale == 1 else value / limit.scale


def _shown(limit: Limit, value: int) -> str:
    unit = limit.unit.value.replace("_", " ")
    return f"{_said(limit, value)} {unit.removesuffix('s') if value == limit.scale else unit}"


def _said(limit: Limit, value: int) -> str:
    return number(_number(limit, value))


def window(limit: Limit) -> str:
    """What a limit's capacity is for: ``per 60 s``, ``per month``, ``in total``, ``at once``."""
    if limit.kind is Kind.CONCURRENCY:
        return "at once"
    if limit.kind is not Kind.CALENDAR:
        return f"per {span(limit.period_ms / 1000)}"
    return "in total" if limit.period is Period.LIFETIME else f"per {limit.period.value}"


__all__ = [
    "LEAST_OUTPUT",
    "build_claim",
    "limit_states",
    "quota_limit",
    "refusal",
    "retaken",
    "right_sized",
    "seeded",
    "window",
]
