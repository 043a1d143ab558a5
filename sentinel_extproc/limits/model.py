"""What a limit is, what a request asks of it, and what the limiter answers. No I/O."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from enum import StrEnum
from typing import Any, Protocol

from msgspec import Struct


class Unit(StrEnum):
    """What a limit counts."""

    REQUESTS = "requests"
    INPUT = "input_tokens"
    OUTPUT = "output_tokens"
    TOTAL = "total_tokens"
    COST = "cost"


class Quantities(Struct, frozen=True, gc=False):
    """How much of everything a request takes: predicted at reserve, actual at settle.

    Attributes:
        requests: whole requests, normally 1.
        input_tokens, output_tokens: tokens.
        characters: characters of text in the request, for cost formulas.
    """

    requests: int = 1
    input_tokens: int = 0
    output_tokens: int = 0
    characters: int = 0


NOTHING = Quantities(requests=0)
"""Settling to this hands the whole reservation back."""


class Subject(Struct, frozen=True, gc=False):
    """Whom and what policies match on."""

    external_id: str
    path: str
    endpoint: str
    model: str
    plan: str | None = None


class QuotaPeriod(StrEnum):
    """When a quota starts again: UTC midnight, Monday, the first of the month, or never."""

    DAILY = "DAILY"
    WEEKLY = "WEEKLY"
    MONTHLY = "MONTHLY"
    NEVER = "NEVER"


class Quota(Struct, frozen=True, gc=False):
    """A quota that another authority keeps (Zion), as it last reported it.

    Attributes:
        name: shown to clients; characters that a limit's name can't have are replaced.
        limit, used: in ``unit``; used may exceed limit.
        seen_ms: when it was reported, milliseconds since the epoch.
    """

    name: str
    unit: Unit
    limit: int
    used: int
    period: QuotaPeriod
    seen_ms: int


class Epoch(Struct, frozen=True, gc=False):
    """How far revocation had come when the caller's credential was last checked.

    Attributes:
        name: what can be revoked: ``all``, ``user``, or ``token:<hash>``.
        seen: the epoch at that time, 0 when there was none.
    """

    name: str
    seen: int


class ReserveRequest(Struct, frozen=True, gc=False):
    """One exchange's claim on all limits that apply to it.

    Attributes:
        exchange_id: unique; replaying it returns the stored verdict instead of charging again.
        predicted: estimated prompt and the output the request may cause.
        quotas: further limits of this caller, on top of the policy's.
        epochs: revocation as known at authentication; the reservation fails if it has moved.
    """

    exchange_id: str
    subject: Subject
    predicted: Quantities
    quotas: tuple[Quota, ...] = ()
    epochs: tuple[Epoch, ...] = ()


class LimitState(Struct, frozen=True, gc=False):
    """One limit as it stands after a verdict.

    Attributes:
        limit: the capacity, in the limit's unit; cost in millionths.
        remaining: what could still be taken now; never below 0.
        reset_s: seconds until the limit is whole again if nothing more is taken; ``math.inf`` when
            it never will be, or nobody knows.
        shadow: it counts and reports but denies nothing.
        exceeded: it had no room; only ever true of a shadow limit when the request was admitted.
        at_once: it is about what is under way, and not about a stretch of time.
    """

    name: str
    unit: Unit
    limit: int
    remaining: int
    reset_s: float
    shadow: bool = False
    exceeded: bool = False
    at_once: bool = False


class Reservation(Struct, frozen=True):
    """What was taken for one exchange, to be settled exactly once.

    Attributes:
        held: what is reserved, after any clamping.
        states: every limit that applied, for the answer's headers.
        degraded: None in normal service, else the rung of the ladder that decided
            (``local`` or ``allow``).
        handle: the limiter's own notes for settlement; opaque to everyone else.
    """

    request: ReserveRequest
    held: Quantities
    states: tuple[LimitState, ...] = ()
    degraded: str | None = None
    handle: object = None


class Growth(StrEnum):
    """What became of a hold that should grow."""

    GROWN = "grown"
    DEBT = "debt"
    """It could not grow; what is used beyond it will be charged as debt."""
    CUT = "cut"
    """It could not grow, and a limit says that the answer must then end."""
    UNKNOWN = "unknown"
    """It could not be asked now: go on, and ask again. What is used is charged when it is settled.
    """


class Settled:
    """Nothing to wait for: whoever awaits it goes on, and it needs no task."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


SETTLED = Settled()


class Limiter(Protocol):
    """Reserves before the provider is called, settles after."""

    async def reserve(self, request: ReserveRequest) -> Reservation:
        """Take everything ``request`` predicts from every limit that applies, or nothing.

        Raises:
            LimitExceeded: some limit has no room now.
            PromptTooLarge: the prompt alone exceeds a limit's capacity.
            Unavailable: the limits can't be decided and may not be waived.
            Unauthenticated: the caller's credential was revoked since it was checked.
        """
        ...

    def settle(
        self, reservation: Reservation, actual: Quantities
    ) -> Coroutine[Any, Any, None] | Settled:
        """Charge or hand back the difference to ``actual``. Idempotent; never raises.

        Returns:
            What to await, for a short while, if it frees a place that the same client may come for.
        """
        ...


class GrowingLimiter(Limiter, Protocol):
    """A limiter whose holds can follow an answer as it is counted."""

    async def grow(self, reservation: Reservation, counted: Quantities) -> Growth:
        """Make the hold cover ``counted``, all used so far. Renews its leases; never raises."""
        ...
