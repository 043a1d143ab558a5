"""Zion's bodies: types, encoding and decoding for both dialects. Pure.

Only what we use is declared; unknown fields are skipped, so Zion may add to its answers. A body
that doesn't fit raises ``MalformedError`` whatever the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


class MalformedError(ValueError):
    """An answer body that isn't what the contract says."""


class Dialect(StrEnum):
    """Which of Zion's two shapes is spoken."""

    UNIFIED = "unified"
    PER_METRIC = "per_metric"


class Metric(StrEnum):
    """What Zion counts; values are its ``limitName`` in the per-metric dialect."""

    INPUT_TOKENS = "ai_input_tokens"
    OUTPUT_TOKENS = "ai_output_tokens"
    REQUESTS = "ai_requests"


class ResetPeriod(StrEnum):
    """When a quota starts anew, at 00:00 UTC; weekly is Monday, monthly the 1st."""

    DAILY = "DAILY"
    WEEKLY = "WEEKLY"
    MONTHLY = "MONTHLY"
    NEVER = "NEVER"


class Profile(msgspec.Struct, frozen=True, rename="camel"):
    """Who a token belongs to. ``external_id`` may be missing here: judging that is not ours."""

    id: str
    email: str | None = None
    name: str | None = None
    external_id: str | None = None
    email_verified: bool = False


@dataclass(frozen=True, slots=True)
class Quota:
    """One metric of one of a user's limits, the same for both dialects.

    Attributes:
        name: the limit's name (a plan, in the unified dialect).
        remaining: may be negative, Zion records past the limit.
        resets: None when Zion doesn't say.
    """

    name: str
    metric: Metric
    limit: int
    used: int
    remaining: int
    resets: ResetPeriod | None
    period_start: datetime | None
    period_end: datetime | None


@dataclass(frozen=True, slots=True)
class UserLimits:
    """All quotas of a user; ids are empty where an older Zion leaves them out."""

    user_id: str
    external_id: str
    quotas: tuple[Quota, ...]


# --- what travels -----------------------------------------------------------------------------


class Envelope(msgspec.Struct, Generic[T]):
    """What every answer is wrapped in."""

    success: bool
    data: T | None = None


class _Amount(msgspec.Struct):
    limit: int
    used: int
    remaining: int


class _Limit(msgspec.Struct, rename="camel"):
    name: str
    ai_input_tokens: _Amount | None = None
    ai_output_tokens: _Amount | None = None
    ai_requests: _Amount | None = None
    reset_period: ResetPeriod | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None


class _Limits(msgspec.Struct, rename="camel"):
    limits: list[_Limit]
    user_id: str = ""
    external_id: str = ""


class _FlatLimit(msgspec.Struct, rename="camel"):
    name: str
    limit: int
    used: int
    remaining: int
    reset_period: ResetPeriod | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None


class _FlatLimits(msgspec.Struct, rename="camel"):
    limits: list[_FlatLimit]
    user_id: str = ""
    external_id: str = ""


def decode_data(body: bytes, type_: Any) -> Any:
    """The ``data`` of an answer whose envelope, data included, is of ``type_``.

    Raises:
        MalformedError: not JSON, not of that type, without data, or ``success: false``.
    """
    try:
        envelope = msgspec.json.decode(body, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"unexpected body: {type(error).__name__}") from None
    if not envelope.success:
        raise MalformedError("the body says success: false")
    if envelope.data is None:
        raise MalformedError("the body has no data")
    return envelope.data


def decode_profile(body: bytes) -> Profile:
    """Read ``GET /users/me``.

    Raises:
        MalformedError: not the contract's shape.
    """
    profile: Profile = decode_data(body, Envelope[Profile])
    return profile


def decode_limits(dialect: Dialect, body: bytes) -> UserLimits:
    """Read ``GET /limits/external/{externalId}``.

    Raises:
        MalformedError: not the dialect's shape, or an unknown metric or period.
    """
    if dialect is Dialect.UNIFIED:
        whole: _Limits = decode_data(body, Envelope[_Limits])
        return UserLimits(
            user_id=whole.user_id,
            external_id=whole.external_id,
            quotas=tuple(quota for limit in whole.limits for quota in _quotas(limit)),
        )
    data = decode_data(body, Envelope[_FlatLimits | list[_FlatLimit]])
    flat = _FlatLimits(limits=data) if isinstance(data, list) else data
    return UserLimits(
        user_id=flat.user_id,
        external_id=flat.external_id,
        quotas=tuple(_flat_quota(limit) for limit in flat.limits),
    )


def _quotas(limit: _Limit) -> list[Quota]:
    amounts = {
        Metric.INPUT_TOKENS: limit.ai_input_tokens,
        Metric.OUTPUT_TOKENS: limit.ai_output_tokens,
        Metric.REQUESTS: limit.ai_requests,
    }
    return [
        Quota(
            name=limit.name,
            metric=metric,
            limit=amount.limit,
            used=amount.used,
            remaining=amount.remaining,
            resets=limit.reset_period,
            period_start=limit.period_start,
            period_end=limit.period_end,
        )
        for metric, amount in amounts.items()
        if amount is not None
    ]


def _flat_quota(limit: _FlatLimit) -> Quota:
    try:
        metric = Metric(limit.name)
    except ValueError:
        # Skipping it would silently lift a limit that somebody set.
        raise MalformedError("a limit of an unknown metric") from None
    return Quota(
        name=limit.name,
        metric=metric,
        limit=limit.limit,
        used=limit.used,
        remaining=limit.remaining,
        resets=limit.reset_period,
        period_start=limit.period_start,
        period_end=limit.period_end,
    )
