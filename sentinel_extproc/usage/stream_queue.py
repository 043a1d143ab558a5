"""The reporter's queue when replicas share one: entries of the stream, or while Redis is away the
items of this sidecar's own outbox.

What was claimed is held by renewing its lease, so that only the entries of a consumer that is gone
become others'. What can't be said to Redis is owed, and said when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from sentinel_extproc.usage.item_queue import (
    Backlog,
    ItemQueue,
    ItemState,
    QueuedItem,
    Refusal,
    Settlement,
)
from sentinel_extproc.usage.stream import (
    PAGE,
    Entry,
    Held,
    Stream,
    StreamUnavailable,
    Verb,
    Word,
)

logger = logging.getLogger(__name__)

LOST = "the answer was lost"


class StreamQueue:
    """An ``ItemQueue``.

    Args:
        outbox: this sidecar's own, for while Redis is away.
        return_s: after Redis was away nobody takes others' entries for so long: leases ran out
            unrenewed, and their consumers first say what they owe.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        stream: Stream,
        outbox: ItemQueue,
        *,
        return_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._outbox = outbox
        self._return_s = return_s
        self._clock = clock
        self._in_hand: dict[str, Entry] = {}
        self._sent: set[str] = set()
        self._owed: dict[str, Word] = {}
        self._first_shard = 0
        self._away = False
        self._others_from = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self.taken_over = 0
        """Entries ever taken from a consumer that may have sent them."""

    @property
    def away(self) -> bool:
        """Whether Redis could not be asked when it was last tried."""
        return self._away

    @property
    def in_hand(self) -> int:
        """Entries that are ours now, or of which something is owed."""
        return len(self._in_hand) + len(self._owed)

    def start(self) -> None:
        """Begin to renew leases."""
        self._task = asyncio.create_task(self._keep(), name="stream-leases")

    async def aclose(self) -> None:
        """End that, and say what is owed. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        for item_id, entry in list(self._in_hand.items()):
            if self._drop(item_id):
                self._owed[item_id] = Word(Verb.LET_GO, entry, refusals=entry.queued.refusals)
        with contextlib.suppress(StreamUnavailable):
            await self._pay()
        if self._owed:
            logger.error(
                "what became of %d usage items could not be told to Redis: they are sent again "
                "under their keys",
                len(self._owed),
            )

    async def claim(self, limit: int) -> list[QueuedItem]:
        """See ``ItemQueue``. While Redis is away: from the outbox."""
        try:
            entries = await self._claim(limit)
        except StreamUnavailable as fault:
            self._gone(fault)
            return await self._outbox.claim(limit)
        return [entry.queued for entry in entries]

    async def sending(self, items: Sequence[QueuedItem]) -> list[QueuedItem]:
        """See ``ItemQueue``. Entries that can't be asked about now are left for later: others,
        from the outbox, needn't wait for them."""
        direct = [queued for queued in items if not queued.shared]
        ours = (
            {queued.item.id for queued in await self._outbox.sending(direct)} if direct else set()
        )
        entries = [e for q in items if (e := self._in_hand.get(q.item.id)) is not None]
        if entries:
            try:
                ours |= await self._hold(entries, sending=True)
            except StreamUnavailable as fault:
                self._gone(fault)
            for entry in entries:
                item_id = entry.queued.item.id
                if item_id in ours:
                    self._sent.add(item_id)
                elif self._drop(item_id) and self._away:
                    # Not sent by us, ever: when Redis is back anybody may have it at once.
                    word = Word(Verb.LET_GO, entry, refusals=entry.queued.refusals)
                    self._owed[item_id] = word
        return [queued for queued in items if queued.item.id in ours]

    async def interrupted(self) -> list[list[QueuedItem]]:
        """See ``ItemQueue``: what this sidecar had sent straight from its outbox."""
        return await self._outbox.interrupted()

    async def settle(self, settlement: Settlement) -> None:
        """See ``ItemQueue``. What Redis can't be told now is owed to it."""
        words = list(self._words(settlement))
        here = frozenset(word.entry.queued.item.id for word in words)
        direct = _without(settlement, here)
        if direct.ids():
            await self._outbox.settle(direct)
        for word in words:
            item_id = word.entry.queued.item.id
            self._owed[item_id] = word
            self._drop(item_id)
        try:
            await self._pay()
        except StreamUnavailable as fault:
            self._gone(fault)

    async def backlog(self) -> Backlog:
        """See ``ItemQueue``: of this sidecar's own usage, wherever it is."""
        return await self._outbox.backlog()

    def _drop(self, item_id: str) -> bool:
        """Take it out of our hands; whether it surely was not sent from there."""
        sent = item_id in self._sent
        self._in_hand.pop(item_id, None)
        self._sent.discard(item_id)
        return not sent

    async def _claim(self, limit: int) -> list[Entry]:
        await self._pay()
        others = not self._away and self._clock() >= self._others_from
        found: list[Entry] = []
        shards = self._stream.shards
        for turn in range(shards):
            shard = (self._first_shard + turn) % shards
            try:
                entries = await self._stream.claim(shard, limit - len(found), others=others)
            except StreamUnavailable:
                if not found:
                    raise
                break  # what was taken is ours, and must be somewhere
            found += self._take(entries)
            if len(found) >= limit:
                break
        self._first_shard = (self._first_shard + 1) % shards
        if self._away:
            self._away = False
            self._others_from = self._clock() + self._return_s
            logger.warning("usage goes to the stream again")
        return found

    def _take(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that we didn't have in hand already, from before a lease ran out."""
        new = []
        for entry in entries:
            item_id = entry.queued.item.id
            if item_id in self._owed:
                self._owed[item_id] = replace(self._owed[item_id], entry=entry)
            else:
                if item_id not in self._in_hand:
                    new.append(entry)
                self._in_hand[item_id] = entry
        self.taken_over += sum(entry.queued.maybe_billed for entry in new)
        return new

    async def _hold(self, entries: Iterable[Entry], *, sending: bool) -> set[str]:
        """Ids of those that are still ours."""
        ours: set[str] = set()
        for shard, group in _by_shard(entries).items():
            for start in range(0, len(group), PAGE):
                page = group[start : start + PAGE]
                flags = await self._stream.hold(shard, page, sending=sending)
                ours |= {
                    entry.queued.item.id for entry, own in zip(page, flags, strict=True) if own
                }
        return ours

    async def _pay(self) -> None:
        for shard, entries in _by_shard(word.entry for word in self._owed.values()).items():
            for start in range(0, len(entries), PAGE):
                ids = [entry.queued.item.id for entry in entries[start : start + PAGE]]
                await self._stream.settle(shard, [self._owed[item_id] for item_id in ids])
                for item_id in ids:
                    self._owed.pop(item_id, None)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._stream.lease_s / 3)
            entries = [*self._in_hand.values(), *(word.entry for word in self._owed.values())]
            try:
                await self._hold(entries, sending=False)
            except StreamUnavailable as fault:
                self._gone(fault)
            except Exception:
                logger.exception("leases of usage items can't be renewed")

    def _words(self, settlement: Settlement) -> Iterable[Word]:
        def of(item_ids: Iterable[str]) -> Iterable[Entry]:
            return (entry for i in item_ids if (entry := self._in_hand.get(i)) is not None)

        for entry in of(settlement.acknowledged):
            yield Word(Verb.BILLED, entry)
        for entry in of(settlement.again):
            yield Word(Verb.LET_GO, entry, refusals=entry.queued.refusals)
        for entry in of(settlement.parked):
            yield Word(Verb.HOLD, entry, held=_why(entry, ItemState.PARKED, LOST))
        for refusal in settlement.refused:
            for entry in of([refusal.item_id]):
                yield _refused(entry, refusal)

    def _gone(self, fault: StreamUnavailable) -> None:
        if not self._away:
            logger.warning("usage goes straight to Zion: Redis failed (%s)", fault)
        self._away = True


def _refused(entry: Entry, refusal: Refusal) -> Word:
    if refusal.due_in_s is None:
        return Word(Verb.HOLD, entry, held=_why(entry, ItemState.DEAD, refusal.reason))
    refusals = entry.queued.refusals + 1
    return Word(Verb.LET_GO, entry, due_in_s=refusal.due_in_s, refusals=refusals)


def _why(entry: Entry, state: ItemState, reason: str) -> Held:
    return Held(state.value, reason, entry.queued.item)


def _without(settlement: Settlement, ids: frozenset[str]) -> Settlement:
    return Settlement(
        acknowledged=tuple(i for i in settlement.acknowledged if i not in ids),
        again=tuple(i for i in settlement.again if i not in ids),
        refused=tuple(r for r in settlement.refused if r.item_id not in ids),
        parked=tuple(i for i in settlement.parked if i not in ids),
    )


def _by_shard(entries: Iterable[Entry]) -> dict[int, list[Entry]]:
    shards: dict[int, list[Entry]] = {}
    for entry in entries:
        shards.setdefault(entry.shard, []).append(entry)
    return shards
