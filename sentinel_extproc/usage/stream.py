"""The hop that replicas share: sealed items in Redis Streams, one per shard.

Each shard has its keys in one hash slot, so that one script sees all of them::

    <prefix>:1:{usage:<shard>}:items           stream; consumer group ``zion``
    <prefix>:1:{usage:<shard>}:at              hash: item to its entry, refusals, due time, phase
    <prefix>:1:{usage:<shard>}:origins         sorted set: when each sidecar was last heard of
    <prefix>:1:{usage:<shard>}:done:<origin>   hash: its items that were billed
    <prefix>:1:{usage:<shard>}:held:<origin>   hash: its items that wait for a person
    <prefix>:1:{usage:<shard>}:fence:<origin>  number of its last call that handed items over

The scripts are in ``scripts``, each with a sentence. Nothing here trusts Redis to keep what it was
given: an origin's outbox has every item until it has heard what became of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, cast

import msgspec

from sentinel_extproc.limits.store.attempts import REDIS_FAULTS
from sentinel_extproc.limits.store.lua import LuaScript
from sentinel_extproc.limits.store.redis import Client
from sentinel_extproc.usage.item_queue import ItemState, QueuedItem
from sentinel_extproc.usage.sealing import SealedItem

logger = logging.getLogger(__name__)

GROUP = "zion"

BUDGET_S = 2.0
"""For one call: nobody waits for it, and it may carry a thousand items."""

PAUSE_S = 1.0
"""How long Redis is left alone after a failure."""

KEEP_S = 7 * 86_400
"""How long a sidecar that is away finds out what became of its items."""

PAGE = 1000
"""Items in one call."""


class StreamUnavailable(Exception):
    """Redis could not be asked; what was asked may have been done all the same."""


class StaleNumberError(Exception):
    """Items were handed over under a number that is behind the fence.

    Attributes:
        fence: the number to go beyond.
    """

    def __init__(self, fence: int) -> None:
        super().__init__(f"the fence is at {fence}")
        self.fence = fence


class StreamFullError(Exception):
    """The shard has as many entries as it may; nothing was added."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An item in the stream, as it was claimed."""

    shard: int
    name: str
    origin: str
    queued: QueuedItem


class Verb(StrEnum):
    """What is said of an entry; see ``settle.lua``."""

    BILLED = "a"
    LET_GO = "r"
    HOLD = "h"


class Held(msgspec.Struct, array_like=True):
    """Why an item waits for a person, with the item, in case its origin never comes back."""

    state: str
    reason: str
    item: SealedItem


class Word(msgspec.Struct, frozen=True, gc=False):
    """What became of an entry.

    Attributes:
        due_in_s, refusals: with ``LET_GO``.
        held: with ``HOLD``.
    """

    verb: Verb
    entry: Entry
    due_in_s: float = 0.0
    refusals: int = 0
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class News:
    """What an origin hears of one shard.

    Attributes:
        billed: ids of its items.
        held: verdicts by id; None where one can't be read.
        entries, pending: in the whole shard.
        oldest_s: since its oldest entry came in; 0 without any.
    """

    billed: tuple[str, ...] = ()
    held: Mapping[str, Held | None] | None = None
    entries: int = 0
    pending: int = 0
    oldest_s: float = 0.0


class Stream:
    """All shards. Every method raises ``StreamUnavailable`` when Redis can't be asked.

    Args:
        origin: id of the outbox that items are handed over from; it has another one after damage.
        consumer: our name when we take entries.
        shards: the same number in every replica.
        lease_s: how long a claimed entry is its consumer's without a renewal.
        max_entries: bound of one shard.
    """

    def __init__(
        self,
        client: Client,
        *,
        origin: Callable[[], str],
        consumer: str,
        prefix: str = "sentinel",
        shards: int = 1,
        lease_s: float = 30.0,
        max_entries: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self.origin = origin
        self._consumer = consumer
        self.shards = shards
        self.lease_s = lease_s
        self._stems = [f"{prefix}:1:{{usage:{shard}}}" for shard in range(shards)]
        self._max_entries = str(max_entries)
        self._clock = clock
        self._paused_until = float("-inf")
        self._cursors = ["0-0"] * shards
        self._scripts: dict[str, LuaScript] = {}
        self.failures = 0

    def shard_of(self, item_id: str) -> int:
        """Where an item goes, the same in every replica and release."""
        return zlib.crc32(item_id.encode()) % self.shards

    async def hand(self, shard: int, number: int, items: Sequence[QueuedItem]) -> int:
        """Put items in, but for those that are in or were billed; how many were put in.

        Args:
            number: larger than that of any call before.

        Raises:
            StaleNumberError, StreamFullError: nothing was put in.
        """
        arguments: list[str | bytes] = [str(number), self._max_entries, _KEEP_MS, self.origin()]
        for queued in items:
            item = queued.item
            arguments += [item.id, str(queued.refusals), msgspec.json.encode(item)]
        keys = self._keys(shard, "items", "at", *self._own("done", "held", "fence"))
        verdict, value = cast("list[int]", await self._run("hand", keys, arguments))
        if verdict == 0:
            raise StaleNumberError(value)
        if verdict == 2:
            raise StreamFullError
        return value

    async def claim(self, shard: int, limit: int, *, others: bool) -> list[Entry]:
        """Up to ``limit`` entries, which are ours for the time of a lease.

        Args:
            others: also those that were let go, or whose consumer's lease ran out.
        """
        arguments = [
            GROUP,
            self._consumer,
            _ms(self.lease_s),
            str(limit),
            self._cursors[shard],
            "1" if others else "0",
        ]
        keys = self._keys(shard, "items", "at")
        cursor, *rows = cast("list[Any]", await self._run("claim", keys, arguments))
        self._cursors[shard] = cursor.decode()
        return [entry for row in rows if (entry := _entry(shard, row)) is not None]

    async def hold(self, shard: int, entries: Sequence[Entry], *, sending: bool) -> list[bool]:
        """Renew leases; for each whether it is still ours.

        Args:
            sending: note that they are about to be sent.
        """
        arguments = [GROUP, self._consumer, "1" if sending else "0"]
        for entry in entries:
            arguments += [entry.name, entry.queued.item.id]
        answer = await self._run("hold", self._keys(shard, "items", "at"), arguments)
        return [own == 1 for own in cast("list[int]", answer)]

    async def settle(self, shard: int, words: Sequence[Word]) -> None:
        """Say what became of claimed entries. Saying it again changes nothing."""
        origins = list(dict.fromkeys(word.entry.origin for word in words))
        places = {origin: str(place) for place, origin in enumerate(origins)}
        names = [f"{kind}:{origin}" for origin in origins for kind in ("done", "held")]
        arguments: list[str | bytes] = [GROUP, self._consumer, _ms(self.lease_s), _KEEP_MS]
        for word in words:
            entry = word.entry
            text: str | bytes = str(word.refusals)
            if word.held is not None:
                text = msgspec.json.encode(word.held)
            place = places[entry.origin]
            item_id = entry.queued.item.id
            arguments += [word.verb, entry.name, item_id, place, _ms(word.due_in_s), text]
        await self._run("settle", self._keys(shard, "items", "at", *names), arguments)

    async def poll(self, shard: int) -> News:
        """Say that we are alive, and hear what became of ours."""
        keys = self._keys(shard, "items", "origins", *self._own("done", "held", "fence"))
        arguments = [self.origin(), _KEEP_MS, GROUP, str(PAGE)]
        reply = cast("list[Any]", await self._run("poll", keys, arguments))
        billed, held, entries, pending, age_ms = reply
        pairs = zip(held[::2], held[1::2], strict=True)
        return News(
            tuple(item_id.decode() for item_id in billed),
            {item_id.decode(): _held(verdict) for item_id, verdict in pairs},
            entries,
            pending,
            age_ms / 1000,
        )

    async def heard(self, shard: int, news: News) -> None:
        """We have stored that, and needn't be told again."""
        for kind, ids in (("done", news.billed), ("held", tuple(news.held or ()))):
            if ids:
                (key,) = self._keys(shard, *self._own(kind))
                await self._bounded(partial(self._client.hdel, key, *ids))

    async def audit(
        self, shard: int, last_number: int, ids: Sequence[str]
    ) -> tuple[int, list[bool]]:
        """The number of our last call that was carried out, -1 when Redis has forgotten it; and
        for each id whether it is in, or became something that we shall hear of."""
        keys = self._keys(shard, "at", *self._own("done", "held", "fence"))
        reply = await self._run("audit", keys, [str(last_number), _KEEP_MS, *ids])
        fence, *known = cast("list[int]", reply)
        return fence, [flag == 1 for flag in known]

    def _keys(self, shard: int, *names: str) -> list[str]:
        return [f"{self._stems[shard]}:{name}" for name in names]

    def _own(self, *kinds: str) -> list[str]:
        return [f"{kind}:{self.origin()}" for kind in kinds]

    async def _run(
        self, name: str, keys: Sequence[str], arguments: Sequence[str | bytes]
    ) -> object:
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = LuaScript("sentinel_extproc.usage", name)
        return await self._bounded(lambda: script.run(self._client, keys, arguments))

    async def _bounded(self, call: Callable[[], Any]) -> Any:
        if self._clock() < self._paused_until:
            raise StreamUnavailable("Redis failed a moment ago")
        try:
            async with asyncio.timeout(BUDGET_S):
                return await call()
        except REDIS_FAULTS as error:
            self.failures += 1
            self._paused_until = self._clock() + PAUSE_S
            raise StreamUnavailable(f"{type(error).__name__}: {error}"[:200]) from None


def _ms(seconds: float) -> str:
    return str(max(0, round(seconds * 1000)))


_KEEP_MS = _ms(KEEP_S)


def _entry(shard: int, row: list[Any]) -> Entry | None:
    name, item_id, origin, body, refusals, sent = row
    try:
        item = msgspec.json.decode(body, type=SealedItem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # Of another release: its lease runs out, and a replica that can read it takes it.
        logger.exception("the usage item %s in the stream can't be read", item_id.decode())
        return None
    queued = QueuedItem(item, refusals, maybe_billed=sent == 1, shared=True)
    return Entry(shard, name.decode(), origin.decode(), queued)


def _held(verdict: bytes) -> Held | None:
    try:
        held = msgspec.json.decode(verdict, type=Held)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return held if held.state in (ItemState.DEAD, ItemState.PARKED) else None
