"""One limit's definition, and how much of it a request takes. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

from .model import Quantities, Unit

MOST = 2**50
"""No single amount is larger: sums of them stay exact in Redis' numbers (2^53)."""

MICRO = 1_000_000
"""Cost limits count millionths of the formula's unit of money."""

_TOTAL, _REQUESTS = Unit.TOTAL, Unit.REQUESTS
"""What most limits count, by names that are quick: every line of every claim is asked for it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LEAST_PERIOD_MS = 100
_LONGEST_PERIOD_MS = 400 * 86_400_000


class Kind(StrEnum):
    """How a limit forgets."""

    BUCKET = "bucket"
    RING = "ring"
    CALENDAR = "calendar"
    CONCURRENCY = "concurrency"
    """By the end of each exchange: a capacity at once, per no time."""


class Period(StrEnum):
    """What a calendar quota is for: UTC days, weeks from Monday, months; or for ever."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    LIFETIME = "lifetime"


class OnOutage(StrEnum):
    """What a limit does when the store does not answer."""

    LOCAL = "local"
    DENY = "deny"
    ALLOW = "allow"


class OnExhausted(StrEnum):
    """What becomes of a running answer whose hold can't grow."""

    SETTLE_AS_DEBT = "settle_as_debt"
    CUT = "cut"


CostFormula = Callable[[Quantities, str], int]
"""(quantities, model) → whole millionths of money, never negative."""


class Limit(Struct, frozen=True, kw_only=True, cache_hash=True):
    """A capacity per period, or at once.

    Attributes:
        name: unique among the limits of one request; letters, digits, ``_.-``; shown to clients.
        capacity: what may be taken per period, in the unit's whole numbers (cost: millionths).
        period_ms: window of a ring, time in which a bucket refills ``capacity``.
        period: of a calendar limit.
        burst: what a full bucket holds; ``capacity`` when None.
        shadow: count and report, never deny.
        per_model: counted apart for every model name.
        right_size: hold what is left of output instead of refusing, when the prompt fits.
        cost: how to compute money, for ``Unit.COST`` only.

    Raises:
        ValueError: values that don't make a limit.
    """

    name: str
    unit: Unit
    kind: Kind
    capacity: int
    period_ms: int = 60_000
    period: Period = Period.LIFETIME
    burst: int | None = None
    shadow: bool = False
    per_model: bool = False
    right_size: bool = False
    on_outage: OnOutage = OnOutage.LOCAL
    on_exhausted: OnExhausted = OnExhausted.SETTLE_AS_DEBT
    cost: CostFormula | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"limit name {self.name!r} must be 1 to 64 letters, digits, '_', '.' or '-'"
            )
        if not 0 <= self.capacity <= MOST:
            raise ValueError(f"limit {self.name}: capacity must be from 0 to 2^50")
        if self.burst is not None and self.kind is not Kind.BUCKET:
            raise ValueError(f"limit {self.name}: only a bucket has a burst")
        if (self.cost is None) is (self.unit is Unit.COST):
            raise ValueError(f"limit {self.name}: a cost formula goes with unit cost, and only it")
        if self.kind is Kind.CONCURRENCY:
            if self.unit is not Unit.REQUESTS:
                raise ValueError(
                    f"limit {self.name}: concurrency counts requests under way: unit must be "
                    f"requests, not {self.unit.value}"
                )
        elif self.kind is not Kind.CALENDAR:
            self._check_period()

    def _check_period(self) -> None:
        if not _LEAST_PERIOD_MS <= self.period_ms <= _LONGEST_PERIOD_MS:
            raise ValueError(f"limit {self.name}: period must be from 0.1 s to 400 days")
        if self.kind is Kind.RING:
            return
        if self.capacity < 1 or self.room < 1:
            raise ValueError(f"limit {self.name}: a bucket needs a capacity and burst of 1 or more")
        # The level counts in 1/period; 2^52 leaves half of the exact range for debt.
        if self.room * self.period_ms > 2**52 or self.capacity > MOST:
            raise ValueError(
                f"limit {self.name}: burst × period in ms exceeds 2^52; use a calendar or ring"
            )

    @property
    def room(self) -> int:
        """The most that can ever be held at once."""
        return self.capacity if self.burst is None else self.burst

    @property
    def scale(self) -> int:
        """Counted units per unit shown to people."""
        return MICRO if self.unit is Unit.COST else 1


def amount(limit: Limit, quantities: Quantities, model: str) -> int:
    """What ``quantities`` take from ``limit``, in its unit; from 0 to ``MOST``.

    Raises:
        ValueError: a cost formula that yields no number for these quantities.
    """
    unit = limit.unit
    if unit is _TOTAL:
        value = quantities.input_tokens + quantities.output_tokens
    elif unit is _REQUESTS:
        value = quantities.requests
        if value > 1 and limit.kind is Kind.CONCURRENCY:
            value = 1  # an exchange is under way once, whatever it is billed
    elif unit is Unit.INPUT:
        value = quantities.input_tokens
    elif unit is Unit.OUTPUT:
        value = quantities.output_tokens
    else:
        value = limit.cost(quantities, model) if limit.cost is not None else 0
    return value if 0 <= value <= MOST else min(max(value, 0), MOST)
