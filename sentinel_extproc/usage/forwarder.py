"""From the outbox to the stream, and back what became of it.

An item that was handed over stays in the outbox, ``handed``, until it is known what became of it:
Redis may forget. It is marked before the call, with the call's number, and the stream's fence tells
afterwards whether the call was carried out. So of an item that is not there it is known whether

- the call never was (number beyond the fence): it is ready again, as if nothing had been;
- Redis lost it: it may have been billed meanwhile. It counts as ambiguous, and is handed over again
  under the same key or parked, as configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage.item_queue import (
    HandedItem,
    ItemState,
    QueuedItem,
    Refusal,
    Settlement,
)
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.reporting import OnAmbiguous, ReporterCounters
from sentinel_extproc.usage.stream import (
    PAGE,
    News,
    StaleNumberError,
    Stream,
    StreamFullError,
    StreamUnavailable,
)

logger = logging.getLogger(__name__)

AUDIT_EVERY_S = 60.0
"""Between looks whether Redis still has everything, while nothing gives reason to doubt it."""


@dataclass(slots=True)
class ForwarderCounters:
    """What happened so far, in items; only ever grows."""

    handed: int = 0
    confirmed: int = 0
    held: int = 0
    lost: int = 0
    never_arrived: int = 0


@dataclass(slots=True)
class StreamState:
    """What the stream looked like when we last asked: all shards, all replicas' items."""

    entries: int = 0
    pending: int = 0
    oldest_s: float = 0.0


class Forwarder:
    """One background task. Start it once; ``flush`` ends it.

    Args:
        counters: of the reporter; ambiguous items are counted there, whoever finds them.
        window: most items of ours in the stream at once, so that more urgent ones get past a
            backlog, and that a Redis that forgets leaves few in doubt.
        interval_s: between looks while there is little to do.
    """

    def __init__(
        self,
        outbox: Outbox,
        stream: Stream,
        counters: ReporterCounters,
        *,
        on_ambiguous: OnAmbiguous = OnAmbiguous.RETRY,
        window: int = 10_000,
        interval_s: float = 1.0,
        audit_every_s: float = AUDIT_EVERY_S,
    ) -> None:
        self._outbox = outbox
        self._stream = stream
        self._reporter = counters
        self._on_ambiguous = on_ambiguous
        self._window = window
        self._interval_s = interval_s
        self._audit_every_s = audit_every_s
        self._audit_at = float("-inf")
        self._audit_after = 0
        self._origin: str | None = None
        self._number = 0
        self._away = False
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.counters = ForwarderCounters()
        self.state = StreamState()

    def start(self) -> None:
        """Start forwarding, first looking for what a former process handed over."""
        if self._task is not None:
            raise RuntimeError("the forwarder was started before")
        self._task = asyncio.create_task(self._run(), name="usage-forwarder")

    async def flush(self, deadline_s: float) -> int:
        """Stop the background task and hand over all there is, beyond the window too, until done,
        Redis is away, or ``deadline_s`` is over; how many items were."""
        before = self.counters.handed
        self._stopping.set()
        with contextlib.suppress(TimeoutError, StreamUnavailable, Unavailable):
            async with asyncio.timeout(deadline_s):
                if self._task is not None:
                    await self._task
                while await self.turn(unbounded=True):
                    pass
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        return self.counters.handed - before

    async def hear(self) -> None:
        """Store what became of our items.

        Raises:
            StreamUnavailable, Unavailable: not all of it.
        """
        state = StreamState()
        for shard in range(self._stream.shards):
            news = await self._stream.poll(shard)
            while news.billed or news.held:
                await self._store(news)
                await self._stream.heard(shard, news)
                news = await self._stream.poll(shard)
            state.entries += news.entries
            state.pending += news.pending
            state.oldest_s = max(state.oldest_s, news.oldest_s)
        self.state = state

    async def turn(self, *, unbounded: bool = False) -> bool:
        """Hear, look after what was handed over, and hand over more; whether there may be more to
        do at once.

        Raises:
            StreamUnavailable, Unavailable: some of it could not be done.
        """
        try:
            await self._begin()
            await self.hear()
            if asyncio.get_running_loop().time() >= self._audit_at:
                await self._audit()
            more = await self._hand(unbounded=unbounded)
        except StreamUnavailable:
            self._audit_at = float("-inf")
            raise
        return more

    async def _run(self) -> None:
        while not self._stopping.is_set():
            more = await self._turn_safely()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if more else self._interval_s):
                    await self._stopping.wait()

    async def _turn_safely(self) -> bool:
        try:
            more = await self.turn()
        except StreamUnavailable as fault:
            if not self._away:
                self._away = True
                logger.warning("usage stays in the outbox: %s", fault)
        except Unavailable as error:
            logger.warning("the outbox can't be used: %s", error.message)
        except Exception:
            # Billing must survive a fault of our own. Nothing is forgotten: the outbox has it all.
            logger.exception("handing usage to the stream failed")
            self._audit_at = float("-inf")
        else:
            self._away = False
            return more
        return False

    async def _begin(self) -> None:
        """Number our calls from beyond any before; anew when the outbox had to be replaced."""
        origin = self._stream.origin()
        if origin != self._origin:
            self._number = max(self._number, await self._outbox.last_handing())
            self._audit_at, self._audit_after = float("-inf"), 0
            for shard in range(self._stream.shards):
                fence, _ = await self._stream.audit(shard, self._number, ())
                self._number = max(self._number, fence)
            self._origin = origin

    async def _hand(self, *, unbounded: bool) -> bool:
        room = PAGE
        if not unbounded:
            waiting = (await self._outbox.backlog()).items[ItemState.HANDED]
            room = min(PAGE, self._window - waiting)
        if room <= 0:
            return False
        claimed = await self._outbox.claim(room)
        if not claimed:
            return False
        full = False
        try:
            for shard, items in self._by_shard(claimed).items():
                full |= not await self._hand_to(shard, items)
        finally:
            self._outbox.let_go(claimed)
        return len(claimed) == room and not full

    async def _hand_to(self, shard: int, items: Sequence[QueuedItem]) -> bool:
        """Whether there was room for them."""
        while True:
            self._number += 1
            await self._outbox.handing(items, self._number)
            try:
                await self._stream.hand(shard, self._number, items)
            except StaleNumberError as error:
                self._number = max(self._number, error.fence)
            except StreamFullError:
                ids = tuple(queued.item.id for queued in items)
                await self._outbox.settle(Settlement(again=ids))
                return False
            else:
                self.counters.handed += len(items)
                return True

    def _by_shard(self, items: Sequence[QueuedItem]) -> dict[int, list[QueuedItem]]:
        shards: dict[int, list[QueuedItem]] = {}
        for queued in items:
            shards.setdefault(self._stream.shard_of(queued.item.id), []).append(queued)
        return shards

    async def _store(self, news: News) -> None:
        parked = []
        refused = []
        for item_id, verdict in (news.held or {}).items():
            if verdict is not None and verdict.state == ItemState.DEAD:
                refused.append(Refusal(item_id, verdict.reason, None))
            else:
                parked.append(item_id)
        await self._outbox.settle(
            Settlement(acknowledged=news.billed, refused=tuple(refused), parked=tuple(parked))
        )
        self.counters.confirmed += len(news.billed)
        self.counters.held += len(news.held or ())

    async def _audit(self) -> None:
        """Look whether Redis has what we handed over; all of it, page by page."""
        while page := await self._outbox.handed(PAGE, self._audit_after):
            shards: dict[int, list[HandedItem]] = {}
            for item in page:
                shards.setdefault(self._stream.shard_of(item.item_id), []).append(item)
            for shard, items in shards.items():
                await self._audit_shard(shard, items)
            self._audit_after = page[-1].position
        self._audit_after = 0
        self._audit_at = asyncio.get_running_loop().time() + self._audit_every_s

    async def _audit_shard(self, shard: int, items: Sequence[HandedItem]) -> None:
        ids = [item.item_id for item in items]
        fence, known = await self._stream.audit(shard, self._number, ids)
        absent = [item for item, here in zip(items, known, strict=True) if not here]
        never = tuple(item.item_id for item in absent if 0 <= fence < item.number)
        lost = tuple(item.item_id for item in absent if not 0 <= fence < item.number)
        self.counters.never_arrived += len(never)
        if lost:
            logger.error("Redis lost %d usage items that it had been given", len(lost))
            self.counters.lost += len(lost)
            self._reporter.ambiguous += len(lost)
        if lost and self._on_ambiguous is OnAmbiguous.PARK:
            self._reporter.parked += len(lost)
            await self._outbox.settle(Settlement(again=never, parked=lost))
        elif absent:
            await self._outbox.settle(Settlement(again=never + lost))
