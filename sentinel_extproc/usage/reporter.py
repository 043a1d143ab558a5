"""The reporter: takes items from a queue, bills them at Zion, and settles what became of them.

What an attempt can end in, and what follows:

    row recorded            acknowledged, deleted
    row refused             ready again after a back-off; a dead letter after ``max_refusals``
    row not matched         nobody knows: again after a back-off, parked after ``MAX_UNMATCHED``
    batch refused (4xx)     halved until the poisoned items are alone; those become dead letters
    not sent, 429, 503      ready again after a back-off or Retry-After
    answer lost, 5xx        nobody knows: ``on_ambiguous``

``RETRY`` sends the same batch under the same keys; ``PARK`` keeps the items for a person. A batch
that is lost ``SUSPECT_AFTER`` times is *suspect*: something in it may be what Zion fails at. It is
halved too, takes turns with other batches, and an item is a dead letter once it failed alone
``STRIKES`` times, others having passed in between. In an outage nothing passes, so nothing is
buried.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage.item_queue import ItemQueue, QueuedItem, Refusal, Settlement
from sentinel_extproc.usage.retry import Backoff
from sentinel_extproc.usage.sealing import SealedItem, batch_key
from sentinel_extproc.zion.answers import BatchRefusedError, Reason, ZionUnavailable
from sentinel_extproc.zion.batches import RowOutcome, RowResult, UsageIncrement

logger = logging.getLogger(__name__)

SYSTEMIC_REFUSALS = 8
"""Items refused alone, one after the other, with nothing accepted in between: then it isn't the
items, and burying the whole queue would help nobody."""


SUSPECT_AFTER = 8
"""Lost answers in a row to one batch; with the default back-off that takes about a minute."""

STRIKES = 3
"""Failures alone, each after something else had passed, that make an item a dead letter."""

MAX_UNMATCHED = 3
"""An item that Zion keeps answering without a row for it may be billed every time."""


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
class _Batch:
    """Claimed items, to be sent in this composition.

    Attributes:
        lost: how many answers to it were lost.
        passed_before: items acknowledged when it was made, or last failed alone.
        strikes: times that it failed alone after others had passed.
    """

    items: list[QueuedItem]
    maybe_billed: bool = False
    lost: int = 0
    passed_before: int = 0
    strikes: int = 0

    def ids(self) -> tuple[str, ...]:
        return tuple(queued.item.id for queued in self.items)


class Reporter:
    """One background task. Start it once; ``drain`` ends it.

    Args:
        interval_s: between looks at an empty queue.
        batch_size: items per call, at most 1000.
        max_refusals: refusals by Zion after which an item is a dead letter.
        backoff: between attempts after failures.
        chance: a number from 0 to 1, for spreading.
    """

    def __init__(
        self,
        items: ItemQueue,
        sink: UsageSink,
        *,
        interval_s: float = 1.0,
        batch_size: int = 1000,
        on_ambiguous: OnAmbiguous = OnAmbiguous.RETRY,
        max_refusals: int = 10,
        backoff: Backoff | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not 1 <= batch_size <= 1000:
            raise ValueError("a batch has 1 to 1000 items")
        self._items = items
        self._sink = sink
        self._interval_s = interval_s
        self._batch_size = batch_size
        self._on_ambiguous = on_ambiguous
        self._max_refusals = max_refusals
        self._backoff = backoff or Backoff()
        self._chance = chance
        self._batches: deque[_Batch] = deque()
        self._suspects: deque[_Batch] = deque()
        self._suspects_turn = False
        self._unsettled: Settlement | None = None
        self._recovered = False
        self._caught_up = True
        self._failures = 0
        self._solo_refusals = 0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.counters = ReporterCounters()

    def start(self) -> None:
        """Start reporting, first what a former process left unsettled."""
        if self._task is not None:
            raise RuntimeError("the reporter was started before")
        self._task = asyncio.get_running_loop().create_task(self._run(), name="usage-reporter")

    async def drain(self, deadline_s: float) -> DrainResult:
        """Stop the background task, then deliver all there is until done or ``deadline_s`` is
        over. What is left stays in the queue, to be sent under the same keys by the next process.
        """
        before = self.counters.acknowledged
        self._stopping.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                if self._task is not None:
                    await self._task
                wait_s = await self._step_safely()
                while wait_s is not None:
                    await asyncio.sleep(wait_s)
                    wait_s = await self._step_safely()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        left: int | None = None
        with contextlib.suppress(Unavailable):
            await self._settle_rest()
            left = (await self._items.backlog()).undelivered
        return DrainResult(self.counters.acknowledged - before, left)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            wait_s = await self._step_safely()
            if wait_s is None or (wait_s == 0 and self._caught_up and not self._suspects):
                # The longer records gather, the fewer items they are sealed into.
                wait_s = self._interval_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()

    async def _step_safely(self) -> float | None:
        try:
            return await self._step()
        except Unavailable as error:
            logger.warning("the usage queue can't be used: %s", error.message)
        except Exception:
            # Billing must survive a fault of our own. What was claimed is still in _batches.
            logger.exception("reporting usage failed")
        return self._back_off(None)

    async def _step(self) -> float | None:
        """One batch; seconds until the next, or None when there is nothing to do."""
        await self._settle_rest()
        if not self._recovered:
            await self._recover()
        batch = await self._next()
        if batch is None:
            return None
        items = [queued.item for queued in batch.items]
        self.counters.batches += 1
        try:
            rows = await self._sink.report([increment(i) for i in items], batch_key(items))
        except BatchRefusedError as error:
            return await self._refused_whole(batch, error)
        except ZionUnavailable as error:
            return await self._not_delivered(batch, error)
        except BaseException:
            self._batches.appendleft(batch)
            raise
        self._failures = 0
        await self._settle(self._judge(batch, rows))
        return 0.0

    async def _next(self) -> _Batch | None:
        if self._batches:
            return self._batches.popleft()
        if self._suspects and self._suspects_turn:
            self._suspects_turn = False
            return self._suspects.popleft()
        self._suspects_turn = True
        claimed = await self._items.claim(self._batch_size)
        self._caught_up = len(claimed) < self._batch_size
        if claimed:
            return _Batch(claimed, passed_before=self.counters.acknowledged)
        return self._suspects.popleft() if self._suspects else None

    async def _recover(self) -> None:
        batches = [_Batch(items, maybe_billed=True) for items in await self._items.interrupted()]
        ids = tuple(item_id for batch in batches for item_id in batch.ids())
        self._recovered = True
        if not ids:
            return
        logger.warning("%d usage items were sent before a restart, answer unknown", len(ids))
        self.counters.ambiguous += len(ids)
        if self._on_ambiguous is OnAmbiguous.PARK:
            self.counters.parked += len(ids)
            self._unsettled = Settlement(parked=ids)
            await self._settle_rest()
        else:
            self._batches.extend(batches)

    def _judge(self, batch: _Batch, rows: Sequence[RowResult]) -> Settlement:
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
                last = queued.refusals + 1 >= self._max_refusals
                refused.append(self._refusal(queued, row.error or "refused", last=last))
            else:
                self.counters.ambiguous += 1
                if self._on_ambiguous is OnAmbiguous.PARK or queued.refusals + 1 >= MAX_UNMATCHED:
                    parked.append(item_id)
                else:
                    refused.append(self._refusal(queued, "no row in the answer", last=False))
        self.counters.acknowledged += len(acknowledged)
        self.counters.parked += len(parked)
        if acknowledged:
            self._solo_refusals = 0
        return Settlement(
            acknowledged=tuple(acknowledged), refused=tuple(refused), parked=tuple(parked)
        )

    def _refusal(self, queued: QueuedItem, reason: str, *, last: bool) -> Refusal:
        self.counters.refused += 1
        if last:
            self.counters.dead_letters += 1
            logger.error("usage item %s becomes a dead letter: %s", queued.item.id, reason)
            return Refusal(queued.item.id, reason, None)
        wait_s = self._backoff.wait_s(queued.refusals + 1, self._chance())
        return Refusal(queued.item.id, reason, wait_s)

    async def _refused_whole(self, batch: _Batch, error: BatchRefusedError) -> float:
        self.counters.refused_batches += 1
        middle = len(batch.items) // 2
        if middle:
            self._batches.appendleft(_Batch(batch.items[middle:], batch.maybe_billed))
            self._batches.appendleft(_Batch(batch.items[:middle], batch.maybe_billed))
            self._caught_up = False
            return 0.0
        self._solo_refusals += 1
        systemic = self._solo_refusals > SYSTEMIC_REFUSALS
        queued = batch.items[0]
        last = not systemic or queued.refusals + 1 >= self._max_refusals
        reason = f"refused with status {error.status}"
        await self._settle(Settlement(refused=(self._refusal(queued, reason, last=last),)))
        if not systemic:
            return 0.0
        logger.error(
            "Zion refuses everything we report (%s): is its address and dialect right?",
            error.status,
        )
        return self._back_off(None)

    async def _not_delivered(self, batch: _Batch, error: ZionUnavailable) -> float:
        if error.reason is Reason.RATE_LIMITED:
            self.counters.rate_limited_batches += 1
        else:
            self.counters.failed_batches += 1
            logger.warning("usage not delivered (%s, %s)", error.reason, error.detail)
        if error.ambiguous:
            self.counters.ambiguous += len(batch.items)
            batch.maybe_billed = True
            batch.lost += 1
        if error.ambiguous and self._on_ambiguous is OnAmbiguous.PARK:
            self.counters.parked += len(batch.items)
            await self._settle(Settlement(parked=batch.ids()))
        elif not batch.maybe_billed:
            # Free to be sent together with what came since; an uncertain one stays as it was, in
            # case Zion knows batches again by their key.
            await self._settle(Settlement(again=batch.ids()))
        elif batch.lost < SUSPECT_AFTER:
            self._batches.appendleft(batch)
        else:
            await self._suspect(batch, error)
        return self._back_off(error.retry_after_s)

    async def _suspect(self, batch: _Batch, error: ZionUnavailable) -> None:
        """Go on with a batch that Zion may be failing at: smaller, later, or not at all."""
        passed = self.counters.acknowledged
        if not error.ambiguous:  # says nothing about the batch
            self._suspects.append(batch)
            return
        middle = len(batch.items) // 2
        if middle:
            self._suspects += [
                _Batch(half, maybe_billed=True, lost=SUSPECT_AFTER - 1, passed_before=passed)
                for half in (batch.items[:middle], batch.items[middle:])
            ]
            return
        if passed > batch.passed_before:
            batch.strikes += 1
            batch.passed_before = passed
        if batch.strikes < STRIKES:
            self._suspects.append(batch)
            return
        reason = f"Zion fails at it ({error.reason}, {error.detail})"
        await self._settle(Settlement(refused=(self._refusal(batch.items[0], reason, last=True),)))

    async def _settle(self, settlement: Settlement) -> None:
        """Settle a batch, once and for all, even if the store needs another attempt."""
        self._unsettled = settlement
        await self._settle_rest()

    async def _settle_rest(self) -> None:
        if self._unsettled is not None:
            await self._items.settle(self._unsettled)
            self._unsettled = None

    def _back_off(self, retry_after_s: float | None) -> float:
        self._failures += 1
        return self._backoff.wait_s(self._failures, self._chance(), retry_after_s=retry_after_s)


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
