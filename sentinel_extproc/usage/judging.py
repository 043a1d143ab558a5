"""What follows from Zion's rows for the items of a batch. No I/O but the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from sentinel_extproc.usage.item_queue import QueuedItem, Refusal, Settlement
from sentinel_extproc.usage.reporting import Batch, OnAmbiguous, ReporterCounters
from sentinel_extproc.usage.retry import Backoff
from sentinel_extproc.zion.batches import RowOutcome, RowResult

logger = logging.getLogger(__name__)

MAX_UNMATCHED = 3
"""An item that Zion keeps answering without a row for it may be billed every time."""


class Judge:
    """Turns rows into settlements and counts them.

    Args:
        counters: of the reporter.
        max_refusals: refusals by Zion after which an item is a dead letter.
        backoff: between attempts at an item.
        chance: a number from 0 to 1, for spreading.
    """

    def __init__(
        self,
        counters: ReporterCounters,
        *,
        on_ambiguous: OnAmbiguous,
        max_refusals: int,
        backoff: Backoff,
        chance: Callable[[], float],
    ) -> None:
        self._counters = counters
        self._on_ambiguous = on_ambiguous
        self.max_refusals = max_refusals
        self._backoff = backoff
        self._chance = chance

    def rows(self, batch: Batch, rows: Sequence[RowResult]) -> Settlement:
        """What becomes of each item; rows that don't fit the batch say nothing of any."""
        if len(rows) != len(batch.items):
            rows = [RowResult(RowOutcome.UNKNOWN)] * len(batch.items)
        acknowledged: list[str] = []
        refused: list[Refusal] = []
        parked: list[str] = []
        for queued, row in zip(batch.items, rows, strict=True):
            item_id = queued.item.id
            if row.outcome is RowOutcome.RECORDED:
                acknowledged.append(item_id)
            elif row.outcome is RowOutcome.REFUSED:
                last = queued.refusals + 1 >= self.max_refusals
                refused.append(self.refusal(queued, row.error or "refused", last=last))
            else:
                self._counters.ambiguous += 1
                if self._on_ambiguous is OnAmbiguous.PARK or queued.refusals + 1 >= MAX_UNMATCHED:
                    parked.append(item_id)
                else:
                    refused.append(self.refusal(queued, "no row in the answer", last=False))
        self._counters.acknowledged += len(acknowledged)
        self._counters.parked += len(parked)
        return Settlement(
            acknowledged=tuple(acknowledged), refused=tuple(refused), parked=tuple(parked)
        )

    def refusal(self, queued: QueuedItem, reason: str, *, last: bool) -> Refusal:
        """Try an item later, or when this was the ``last`` time never again."""
        self._counters.refused += 1
        if last:
            self._counters.dead_letters += 1
            logger.error("usage item %s becomes a dead letter: %s", queued.item.id, reason)
            return Refusal(queued.item.id, reason, None)
        wait_s = self._backoff.wait_s(queued.refusals + 1, self._chance())
        return Refusal(queued.item.id, reason, wait_s)
