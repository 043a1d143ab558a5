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

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage.item_queue import ItemQueue, Settlement
from sentinel_extproc.usage.judging import Judge
from sentinel_extproc.usage.reporting import (
    Batch,
    DrainResult,
    OnAmbiguous,
    ReporterCounters,
    UsageSink,
    increment,
)
from sentinel_extproc.usage.retry import Backoff
from sentinel_extproc.usage.sealing import batch_key
from sentinel_extproc.zion.answers import BatchRefusedError, Reason, ZionUnavailable
from sentinel_extproc.zion.batches import RowResult

logger = logging.getLogger(__name__)

SYSTEMIC_REFUSALS = 8
"""Items refused alone, one after the other, with nothing accepted in between: then it isn't the
items, and burying the whole queue would help nobody."""


SUSPECT_AFTER = 8
"""Lost answers in a row to one batch; with the default back-off that takes about a minute."""

STRIKES = 3
"""Failures alone, each after something else had passed, that make an item a dead letter."""

MAX_SUSPECTS = 5000
"""Items held aside as suspect. From there on one item is claimed at a time: enough to see whether
others pass, and memory stays bounded."""


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
        self._backoff = backoff or Backoff()
        self._chance = chance
        self._batches: deque[Batch] = deque()
        self._suspects: deque[Batch] = deque()
        self._suspects_turn = False
        self._unsettled: Settlement | None = None
        self._recovered = False
        self._caught_up = True
        self._failures = 0
        self._solo_refusals = 0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.counters = ReporterCounters()
        self._judge = Judge(
            self.counters,
            on_ambiguous=on_ambiguous,
            max_refusals=max_refusals,
            backoff=self._backoff,
            chance=chance,
        )

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
            await self._let_go()
            left = (await self._items.backlog()).undelivered
        return DrainResult(self.counters.acknowledged - before, left)

    async def _let_go(self) -> None:
        """Hand back what was claimed and surely not sent, so that nobody need wonder about it."""
        batches = (*self._batches, *self._suspects)
        sure = [batch for batch in batches if not batch.maybe_billed and not batch.on_wire]
        again = tuple(item_id for batch in sure for item_id in batch.ids())
        if again:
            await self._settle(Settlement(again=again))
        self._batches.clear()
        self._suspects.clear()

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
        try:
            rows = await self._send(batch)
        except BatchRefusedError as error:
            batch.on_wire = False
            return await self._refused_whole(batch, error)
        except ZionUnavailable as error:
            batch.on_wire = False
            return await self._not_delivered(batch, error)
        except BaseException:
            self._batches.appendleft(batch)
            raise
        if rows is not None:
            self._failures = 0
            settlement = self._judge.rows(batch, rows)
            if settlement.acknowledged:
                self._solo_refusals = 0
            await self._settle(settlement)
        return 0.0

    async def _send(self, batch: Batch) -> Sequence[RowResult] | None:
        """Zion's rows; None when nothing of the batch is ours to send any more."""
        batch.items = await self._items.sending(batch.items)
        if not batch.items:
            return None
        items = [queued.item for queued in batch.items]
        self.counters.batches += 1
        batch.on_wire = True
        rows = await self._sink.report([increment(i) for i in items], batch_key(items))
        batch.on_wire = False
        return rows

    async def _next(self) -> Batch | None:
        if self._batches:
            return self._batches.popleft()
        if self._suspects and self._suspects_turn:
            self._suspects_turn = False
            return self._suspects.popleft()
        self._suspects_turn = True
        held = sum(len(batch.items) for batch in self._suspects)
        limit = self._batch_size if held < MAX_SUSPECTS else 1
        claimed = await self._items.claim(limit)
        self._caught_up = len(claimed) < limit
        certain = [queued for queued in claimed if not queued.maybe_billed]
        if len(certain) < len(claimed):
            # Before anything is awaited: what was claimed must be somewhere.
            unsure = [queued for queued in claimed if queued.maybe_billed]
            if certain:
                self._batches.append(Batch(certain, passed_before=self.counters.acknowledged))
            logger.warning("%d usage items were being sent elsewhere, answer unknown", len(unsure))
            await self._doubt([Batch(unsure, maybe_billed=True)])
            return self._batches.popleft() if self._batches else None
        if claimed:
            return Batch(claimed, passed_before=self.counters.acknowledged)
        return self._suspects.popleft() if self._suspects else None

    async def _recover(self) -> None:
        batches = [Batch(items, maybe_billed=True) for items in await self._items.interrupted()]
        self._recovered = True
        if batches:
            count = sum(len(batch.items) for batch in batches)
            logger.warning("%d usage items were sent before a restart, answer unknown", count)
            await self._doubt(batches)

    async def _doubt(self, batches: Sequence[Batch]) -> None:
        """Nobody knows what became of these: send them as they were, or leave them to a person."""
        ids = tuple(item_id for batch in batches for item_id in batch.ids())
        self.counters.ambiguous += len(ids)
        if self._on_ambiguous is OnAmbiguous.PARK:
            self.counters.parked += len(ids)
            await self._settle(Settlement(parked=ids))
        else:
            self._batches.extend(batches)

    async def _refused_whole(self, batch: Batch, error: BatchRefusedError) -> float:
        self.counters.refused_batches += 1
        middle = len(batch.items) // 2
        if middle:
            self._batches.appendleft(Batch(batch.items[middle:], batch.maybe_billed))
            self._batches.appendleft(Batch(batch.items[:middle], batch.maybe_billed))
            self._caught_up = False
            return 0.0
        self._solo_refusals += 1
        systemic = self._solo_refusals > SYSTEMIC_REFUSALS
        queued = batch.items[0]
        last = not systemic or queued.refusals + 1 >= self._judge.max_refusals
        reason = f"refused with status {error.status}"
        await self._settle(Settlement(refused=(self._judge.refusal(queued, reason, last=last),)))
        if not systemic:
            return 0.0
        logger.error(
            "Zion refuses everything we report (%s): is its address and dialect right?",
            error.status,
        )
        return self._back_off(None)

    async def _not_delivered(self, batch: Batch, error: ZionUnavailable) -> float:
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

    async def _suspect(self, batch: Batch, error: ZionUnavailable) -> None:
        """Go on with a batch that Zion may be failing at: smaller, later, or not at all."""
        passed = self.counters.acknowledged
        if not error.ambiguous:  # says nothing about the batch
            self._suspects.append(batch)
            return
        middle = len(batch.items) // 2
        if middle:
            self._suspects += [
                Batch(half, maybe_billed=True, lost=SUSPECT_AFTER - 1, passed_before=passed)
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
        await self._settle(
            Settlement(refused=(self._judge.refusal(batch.items[0], reason, last=True),))
        )

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
