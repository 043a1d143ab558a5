"""What the reporter takes items from, whatever lies behind it: the outbox, or the stream.

The seam of the pipeline: a hop is done with an item only when the next one acknowledged it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import msgspec

from sentinel_extproc.usage.sealing import SealedItem


class ItemState(StrEnum):
    """Where an item is. Acknowledged items are gone."""

    READY = "ready"
    SENT = "sent"
    """In a batch that is about to be sent: it may be on the wire, or may have been when a process
    died."""
    HANDED = "handed"
    """In the stream that replicas share; kept here until it is known what became of it."""
    PARKED = "parked"
    DEAD = "dead"


class QueuedItem(msgspec.Struct, frozen=True, gc=False):
    """An item on its way.

    Attributes:
        refusals: how often Zion has refused it.
        maybe_billed: somebody who is gone may have sent it.
        shared: it is in the stream, which others read too.
    """

    item: SealedItem
    refusals: int = 0
    maybe_billed: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Zion's refusal of one item; ``due_in_s`` until it is worth another try, None for never:
    then it becomes a dead letter."""

    item_id: str
    reason: str
    due_in_s: float | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of claimed items; item ids. All of it is applied, or nothing.

    Attributes:
        acknowledged: billed; deleted with their records.
        again: not billed as far as is known; ready at once.
        parked: nobody knows, and a person is to decide.
    """

    acknowledged: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    parked: tuple[str, ...] = ()

    def ids(self) -> tuple[str, ...]:
        """Every item that it is about."""
        refused = tuple(refusal.item_id for refusal in self.refused)
        return (*self.acknowledged, *self.again, *refused, *self.parked)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is still on its way.

    Attributes:
        records: not sealed yet.
        items: by state.
        oldest_ms: when the oldest usage that is still to be delivered occurred, milliseconds
            since the epoch; None when there is none.
    """

    records: int
    items: dict[ItemState, int]
    oldest_ms: int | None = None

    @property
    def undelivered(self) -> int:
        """Records and items that the reporter still has to deliver."""
        waiting = (ItemState.READY, ItemState.SENT, ItemState.HANDED)
        return self.records + sum(self.items[state] for state in waiting)


class HandedItem(msgspec.Struct, frozen=True, gc=False):
    """An item in the stream. ``position`` orders them; ``number`` is of the call that handed it."""

    position: int
    item_id: str
    number: int


@dataclass(frozen=True, slots=True)
class HeldItem:
    """An item that waits for a person: parked, or a dead letter. ``position`` orders them."""

    position: int
    item: SealedItem
    state: ItemState
    reason: str


class ItemQueue(Protocol):
    """A durable queue of sealed items. Every method raises Unavailable when its store fails."""

    async def claim(self, limit: int) -> list[QueuedItem]:
        """Take up to ``limit`` items that are ready and due. They are this process's until they
        are settled; if it dies before ``sending``, it is as if they had not been claimed."""
        ...

    async def sending(self, items: Sequence[QueuedItem]) -> list[QueuedItem]:
        """Store that claimed items are about to be sent as one batch; those of them, in their
        order, that are still this process's to send."""
        ...

    async def interrupted(self) -> list[list[QueuedItem]]:
        """Batches that were about to be sent before this process started and never settled, as
        they were composed; they are this process's now."""
        ...

    async def settle(self, settlement: Settlement) -> None:
        """Store what became of claimed items. Applying it again changes nothing."""
        ...

    async def backlog(self) -> Backlog:
        """Count what is left."""
        ...
