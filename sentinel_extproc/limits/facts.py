"""What limits tell about themselves: plain facts for whoever makes logs and metrics of them."""

from __future__ import annotations

from collections.abc import Callable

from sentinel_extproc.frozen import value


@value(frozen=True, slots=True)
class LimitsDecided:
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


@value(frozen=True, slots=True)
class HoldExhausted:
    """A running answer outgrew its hold; ``cut`` says whether it must end."""

    limit: str
    cut: bool


@value(frozen=True, slots=True)
class StoreLost:
    """The store is away; from now on limits decide by themselves."""

    reason: str


@value(frozen=True, slots=True)
class StoreRegained:
    """The store is back.

    Attributes:
        after_s: how long it was away.
        replayed: exchanges still running that were admitted meanwhile.
    """

    after_s: float
    replayed: int


@value(frozen=True, slots=True)
class SettlementDropped:
    """A settlement could not be applied in time; its hold lapses by itself."""

    reason: str


@value(frozen=True, slots=True)
class SettlementApplied:
    """The store has taken a settlement.

    Attributes:
        after_s: how long it took, from the end of its exchange on.
    """

    exchange_id: str
    after_s: float


@value(frozen=True, slots=True)
class SettledBeyond:
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
