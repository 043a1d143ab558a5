"""Words that the reporter and those around it share: what a batch is, what was done with it, and
what Zion is to be able to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sentinel_extproc.usage.item_queue import QueuedItem
from sentinel_extproc.usage.sealing import SealedItem
from sentinel_extproc.zion.batches import RowResult, UsageIncrement


class OnAmbiguous(StrEnum):
    """What to do when an answer is lost after sending."""

    RETRY = "retry"
    PARK = "park"


class UsageSink(Protocol):
    """Bills increments; ``ZionClient`` is one."""

    async def report(
        self, increments: Sequence[UsageIncrement], batch_key: str
    ) -> Sequence[RowResult]:
        """One result per increment.

        Raises:
            BatchRefusedError: nothing was billed, and never will be for this batch.
            ZionUnavailable: not billed, or nobody knows.
        """
        ...


@dataclass(slots=True)
class ReporterCounters:
    """What happened so far, in items unless it says otherwise; only ever grows."""

    batches: int = 0
    acknowledged: int = 0
    refused: int = 0
    dead_letters: int = 0
    ambiguous: int = 0
    parked: int = 0
    rate_limited_batches: int = 0
    failed_batches: int = 0
    refused_batches: int = 0


@dataclass(frozen=True, slots=True)
class DrainResult:
    """How a drain ended.

    Attributes:
        delivered: items acknowledged while draining.
        left: records and items still to be delivered, safe on disk; None if that is unknown.
    """

    delivered: int
    left: int | None


@dataclass(slots=True)
class Batch:
    """Claimed items, to be sent in this composition.

    Attributes:
        maybe_billed: an answer to it, or to its items before, was lost.
        on_wire: handed to the sink, which has not answered.
        lost: how many answers to it were lost.
        passed_before: items acknowledged when it was made, or last failed alone.
        strikes: times that it failed alone after others had passed.
    """

    items: list[QueuedItem]
    maybe_billed: bool = False
    on_wire: bool = False
    lost: int = 0
    passed_before: int = 0
    strikes: int = 0

    def ids(self) -> tuple[str, ...]:
        return tuple(queued.item.id for queued in self.items)


def increment(item: SealedItem) -> UsageIncrement:
    """What is sent for an item: the same at every attempt."""
    return UsageIncrement(
        idempotency_key=item.id,
        external_id=item.external_id,
        email=item.email,
        model=item.model or None,
        input_tokens=item.input_tokens,
        output_tokens=item.output_tokens,
        requests=item.requests,
        occurred_at_ms=item.first_ms,
    )
