"""What limits tell about themselves: plain facts for whoever makes logs and metrics of them."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class LimitsDecided(Struct, frozen=True, gc=False):
    """A claim was decided.

    Attributes:
        outcome: ``admitted``, ``denied``, ``revoked``, ``too_large``, ``invalid``, ``unavailable``.
        limit: the limit that denied, None otherwise.
        rung: None in normal service, else ``local``, ``deny`` or ``allow``.
        shadowed: names of shadow limits that had no room.
    """

    outcome: str
    limit: str | None = None
    rung: str | None = None
    shadowed: tuple[str, ...] = ()


class HoldExhausted(Struct, frozen=True, gc=False):
    """A running answer outgrew its hold; ``cut`` says whether it must end."""

    limit: str
    cut: bool


class StoreLost(Struct, frozen=True, gc=False):
    """The store is away; from now on limits decide by themselves."""

    reason: str


class StoreRegained(Struct, frozen=True, gc=False):
    """The store is back.

    Attributes:
        after_s: how long it was away.
        replayed: exchanges still running that were admitted meanwhile.
    """

    after_s: float
    replayed: int


class SettlementDropped(Struct, frozen=True, gc=False):
    """A settlement could not be applied in time; its hold lapses by itself."""

    reason: str


class SettlementApplied(Struct, frozen=True, gc=False):
    """The store has taken a settlement.

    Attributes:
        after_s: how long it took, from the end of its exchange on.
    """

    exchange_id: str
    after_s: float


class SettledBeyond(Struct, frozen=True, gc=False):
    """An exchange used more than was held for it, which the limit is charged all the same.

    Attributes:
        amount: the excess, in the limit's unit; of cost in millionths.
    """

    limit: str
    amount: int


LimitFact = (
    LimitsDecided
    | SettlementApplied
    | SettledBeyond
    | HoldExhausted
    | StoreLost
    | StoreRegained
    | SettlementDropped
)

EmitLimitFact = Callable[[LimitFact], None]
"""Takes a fact; must be quick and must not raise."""


def emit_nothing(fact: LimitFact) -> None:
    """For those who don't want to know."""
