"""The contract between the limiter and the places that keep the counts.

A store owns the clock: no time of the caller ever decides. It knows no policies and no units, only
lines: a limit and an integer amount.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import Protocol, runtime_checkable

from msgspec import Struct

from ..limit import Kind, Limit
from ..model import Epoch


class StoreError(Exception):
    """The store did not answer in time, or answered with a fault that is not about the claim.

    Args:
        rung: what refused the claim meanwhile, ``deny`` or ``local``; None when nothing did.
    """

    def __init__(self, message: str, *, rung: str | None = None) -> None:
        super().__init__(message)
        self.rung = rung


class StoreUntriedError(StoreError):
    """The store was not asked, so that nothing can have changed: too many wait, or it is known to
    be away."""


class Decision(IntEnum):
    """What a store says to a claim; the numbers are the scripts'."""

    ADMITTED = 0
    DENIED = 1
    REVOKED = 2
    OVER = 3
    """The claim's id is settled already: nothing was taken."""


class Seed(Struct, frozen=True, gc=False):
    """Use of a calendar limit that another authority reports.

    Attributes:
        used: use so far in the window that contains ``seen_ms``.
        seen_ms: when that was reported, milliseconds since the epoch.
    """

    used: int
    seen_ms: int


class Line(Struct, frozen=True, gc=False):
    """One limit of a claim.

    Attributes:
        key: names the count within its owner.
        amount: what is asked (reserve), to be held in total (extend), or was used (settle).
    """

    limit: Limit
    key: str
    amount: int
    seed: Seed | None = None


class Claim(Struct, frozen=True, gc=False):
    """What one exchange asks of all its limits, which all belong to one owner.

    Attributes:
        id: unique per exchange; a repeated reserve of it takes nothing more.
        owner: whose counts they are; the hash tag that keeps a user's keys together.
        at_ms: when the hold was taken, for settling without a record; 0 before.
    """

    id: str
    owner: str
    lines: tuple[Line, ...]
    epochs: tuple[Epoch, ...] = ()
    at_ms: int = 0

    def of_kind(self, *kinds: Kind) -> bool:
        """Whether a line's limit is of one of these."""
        for line in self.lines:  # noqa: SIM110 - a third of what a generator costs, at every settle
            if line.limit.kind in kinds:
                return True
        return False


class LineVerdict(Struct, frozen=True, gc=False):
    """One limit after a decision.

    Attributes:
        fits: whether this line's amount could be taken.
        remaining: what is left; never below 0.
        reset_ms: until the limit is whole; -1 when it never will be, or nobody knows.
        wait_ms: until the amount fits, 0 when it does; -1 when it never will.
    """

    fits: bool
    remaining: int
    reset_ms: int
    wait_ms: int


class Verdict(Struct, frozen=True, gc=False):
    """A store's answer.

    Attributes:
        at_ms: the store's time.
        lines: one for each of the claim's, in order; none for REVOKED and for OVER when extending.
        degraded: the rung of the ladder that decided, None in normal service.
        unsure: the claim may also have been taken where no answer came from; settle it in any case.
    """

    decision: Decision
    at_ms: int
    lines: tuple[LineVerdict, ...] = ()
    degraded: str | None = None
    unsure: bool = False


class Store(Protocol):
    """Keeps counts. Every method may be repeated with the same claim without further effect."""

    async def start(self) -> None:
        """Begin what the store does in the background, if anything. Waits for nobody."""
        ...

    async def reserve(self, claim: Claim) -> Verdict:
        """Take every line's amount, or nothing.

        Raises:
            StoreError: unknown whether it was taken; settling the claim makes it known.
        """
        ...

    async def extend(self, claim: Claim) -> Verdict:
        """Grow the hold to every line's amount, or renew its leases only.

        Raises:
            StoreError: unknown whether it has grown.
        """
        ...

    async def settle(self, claim: Claim) -> None:
        """Replace the hold by every line's amount.

        Raises:
            StoreError: unknown whether it is settled; repeat it.
        """
        ...

    async def ping(self) -> None:
        """Return when the store answers.

        Raises:
            StoreError: it doesn't.
        """
        ...

    async def close(self) -> None:
        """Release what the store holds open."""
        ...


@runtime_checkable
class SettlesSoon(Protocol):
    """A store that can also settle without a task of the caller's waiting for it."""

    def settle_soon(self, claim: Claim, done: Callable[[Exception | None], None]) -> bool:
        """Begin to settle. Later ``done`` is told once: None, or what ``Store.settle`` would have
        raised. False: that can't be done now, so that nothing was; ``Store.settle`` can."""
        ...


@lru_cache(maxsize=4096)
def owner_tag(external_id: str) -> str:
    """The hash tag under which everything of one user is kept: 24 hexadecimal digits."""
    return hashlib.blake2b(external_id.encode(), digest_size=12).hexdigest()
