"""The outbox: usage records become durable here, and wait until Zion has acknowledged them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import uuid_utils

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage import files, reading
from sentinel_extproc.usage.chain import Head
from sentinel_extproc.usage.database import Database, WrongFileError, is_damage
from sentinel_extproc.usage.ended import Ended
from sentinel_extproc.usage.files import OutboxError
from sentinel_extproc.usage.intents import Intents
from sentinel_extproc.usage.item_queue import (
    Backlog,
    HandedItem,
    HeldItem,
    QueuedItem,
    Settlement,
)
from sentinel_extproc.usage.reading import LedgerState
from sentinel_extproc.usage.record import Intent, UsageRecord
from sentinel_extproc.usage.rows import record_row
from sentinel_extproc.usage.sealing import seal_lines
from sentinel_extproc.usage.waiting import unavailable
from sentinel_extproc.usage.writer import Writer, WriterCounters

__all__ = ["Outbox", "OutboxError"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Args = TypeVarTuple("Args")

CHUNK = 200
"""Records sealed or deleted in one go: a millisecond or two, which an append may have to wait."""

SEAL_CHUNKS = 100
"""Most chunks before a claim: what is left is sealed before the next one."""

PRUNE_CHUNKS = 100
"""Most chunks deleted for their age before a claim."""

RETAIN_SHARE = 0.5
"""Of the bound: from there on acknowledged records make room, however young they are."""

CATCH_UP_S = 0.25
"""Longest that a look at the outbox waits for records that are about to be stored."""

DEGRADED_SHARE = 0.8
"""Of the bound: nothing acknowledged is left by then, so this is usage that can't be delivered."""

HEADROOM_BYTES = 64 * 1024 * 1024
"""Room above the bound, so that what was admitted below it can still be stored and sealed."""


class Outbox:
    """A ``Ledger`` and an ``ItemQueue`` in one SQLite file.

    Args:
        path: of the file; its directory is made if need be. One process per file.
        max_bytes: bound of the data in it; at the bound new metered traffic is refused.
        fsync: flush every commit to disk, to survive the loss of power too.
        gathers: an append returns when the record is in the file of what has ended, which survives
            the death of the process too, and commits take some milliseconds' records together. Not
            with ``fsync``.
        split_metrics: seal an item per metric, for Zion's per-metric dialect.
        max_waiting: appends waiting at once; from there on nothing new is admitted.
        max_under_way: exchanges forwarded and not on record at once; 1 KiB of disk each.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = 1 << 30,
        fsync: bool = False,
        gathers: bool = False,
        split_metrics: bool = False,
        retain_s: float = 7 * 86_400,
        name: str | None = None,
        max_waiting: int = 10_000,
        max_under_way: int = 1024,
        headroom_bytes: int = HEADROOM_BYTES,
        new_id: Callable[[], str] = lambda: str(uuid_utils.uuid7()),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_file_bytes = max_bytes + headroom_bytes
        self._fsync = fsync
        self._gathers = gathers and not fsync
        self._split_metrics = split_metrics
        self._retain_s = retain_s
        self._name = name
        self._max_waiting = max_waiting
        self._new_id = new_id
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock: int | None = None
        self._handled: BaseException | None = None
        self._told_degraded = False
        self._unreadable = False
        self._claiming = asyncio.Lock()
        self._claimed: set[str] = set()
        self._writer = Writer(
            self._open_database, make_room=self._make_room, on_stored=self._stored
        )
        self._intents = Intents(files.intents_path(path), slots=max_under_way)
        self._ended = Ended(files.ended_path(path))

    def open(self) -> None:
        """Open or make the file and start the writer. Once; blocks for some milliseconds.

        A damaged file is renamed, never deleted, and a new one begun.

        Raises:
            OutboxError: another process has it open, it can't be written, or it is not ours.
        """
        if self._lock is not None:
            raise OutboxError(f"the outbox {self._path} is open already")
        files.make_directory(self._path.parent)
        self._lock = files.lock(self._path)
        try:
            ended = self._ended.open()
            if ended:
                logger.warning("%d records were not stored when the last process died", len(ended))
            known = {row[0] for row in ended}
            left = [intent for intent in self._intents.open() if intent.id not in known]
            if left:
                logger.error("%d exchanges were under way when the last process died", len(left))
            self._writer.start([*ended, *(record_row(intent.unknown()) for intent in left)])
        except (sqlite3.Error, OSError, WrongFileError) as error:
            self._intents.close()
            self._ended.close()
            self._unlock()
            raise OutboxError(f"can't use the outbox {self._path}: {error}") from None

    @property
    def counters(self) -> WriterCounters:
        """Counts for telemetry."""
        return self._writer.counters

    @property
    def used_bytes(self) -> int:
        """Bytes in use, measured some times per second."""
        return self._writer.used_bytes

    @property
    def fill(self) -> float:
        """Share of the bound in use; over 1 while the headroom is used."""
        return self._writer.used_bytes / self._max_bytes

    @property
    def degraded(self) -> bool:
        """Whether so much usage can't be delivered that soon no more can be taken."""
        return self.fill >= DEGRADED_SHARE

    @property
    def sidecar(self) -> str:
        """The id that this outbox's chain belongs to; a new one after damage."""
        return self._writer.sidecar

    @property
    def head(self) -> Head:
        """The end of its chain, as last committed."""
        return self._writer.head

    @property
    def intents_in_use(self) -> int:
        """Exchanges that were begun and are not on record; at most ``max_under_way``."""
        return self._intents.in_use

    @property
    def intents_torn(self) -> int:
        """Intents, and records on their way to the database, that the loss of power destroyed
        before this start."""
        return self._intents.torn + self._ended.torn

    @property
    def set_aside(self) -> list[Path]:
        """Damaged files that were kept, and that nobody has taken away yet; oldest first."""
        return files.kept_aside(self._path)

    @property
    def fault(self) -> str | None:
        """Why the last commit failed, for the operator; None when it didn't."""
        return self._writer.fault

    @property
    def busy_s(self) -> float:
        """For how long it has been storing what it took last; 0 when nothing waits."""
        return self._writer.busy_s

    def check_room(self) -> None:
        """See ``Ledger``."""
        if not self._writer.running:
            raise unavailable("Usage can't be recorded: the service is stopping.")
        if self._writer.fault is not None or self._writer.waiting >= self._max_waiting:
            raise unavailable("Usage can't be recorded right now; the request was not forwarded.")
        if self._writer.used_bytes >= self._max_bytes:
            raise unavailable(
                "Too much usage waits to be billed; the request was not forwarded.", wait_s=10
            )

    def begin(self, intent: Intent) -> None:
        """See ``Ledger``. An intent without a record when the process dies becomes an unknown
        record at the next start."""
        self._intents.begin(intent)
        if self._fsync:
            self._writer.post(self._intents.sync)

    async def abandon(self, exchange_id: str) -> None:
        """See ``Ledger``."""
        intent = self._intents.find(exchange_id)
        if intent is not None:
            await self.add_unknown(intent)

    def under_way(self) -> list[Intent]:
        """Exchanges that were begun and are not on record."""
        return self._intents.under_way()

    async def append(self, record: UsageRecord) -> None:
        """See ``Ledger``. Appending an id again changes nothing while the record is here.

        After Unavailable because of the disk the record is kept in memory and stored as soon as
        that can be done; it is not kept when the outbox is closed. Cancelling the caller doesn't
        cancel the record. There is no bound here: what was admitted must be kept, so
        ``check_room`` has it.
        """
        row = record_row(record)
        if self._gathers and self._writer.fault is None and self._ended.keep(row):
            self._intents.end((record.id,))
            self._writer.gather(row)
        else:
            await self._writer.append(row)

    async def add_unknown(self, intent: Intent, *, origin: str | None = None) -> None:
        """Return once it is on record that nobody saw how an exchange ended.

        It is chained and told like any other, and never billed. Nothing changes if the exchange
        has a record here.

        Args:
            origin: id of the sidecar that admitted it; None: this one.

        Raises:
            Unavailable: as ``append``.
        """
        await self.append(intent.unknown(origin=origin))

    async def claim(self, limit: int) -> list[QueuedItem]:
        """See ``ItemQueue``; seals what has been appended before it claims, and chooses by
        ``priority``. Claims are in memory: whoever dies before sending has claimed nothing."""
        async with self._claiming:
            await self._forget_old()
            for _ in range(SEAL_CHUNKS):
                # Chunk by chunk, so that appends get their turn in between.
                if await self._seal() < CHUNK:
                    break
            now_ms, wall_ms, taken = self._now_ms(), self._wall_ms(), frozenset(self._claimed)
            chosen = await self._writer.run(
                lambda database: database.choose(limit, now_ms, wall_ms, taken)
            )
            self._claimed.update(queued.item.id for queued in chosen)
        return chosen

    async def sending(self, items: Sequence[QueuedItem]) -> list[QueuedItem]:
        """See ``ItemQueue``."""
        batch = [queued.item for queued in items]
        await self._writer.run(lambda database: database.sending(batch))
        return list(items)

    async def handing(self, items: Sequence[QueuedItem], number: int) -> None:
        """Store that claimed items are about to be put into the stream, by call ``number``."""
        ids = [queued.item.id for queued in items]
        await self._writer.run(lambda database: database.handing(ids, number))

    def let_go(self, items: Sequence[QueuedItem]) -> None:
        """End a claim: what is still ready can be claimed again."""
        self._claimed.difference_update(queued.item.id for queued in items)

    async def handed(self, limit: int, after: int = 0) -> list[HandedItem]:
        """Items in the stream whose position is beyond ``after``, oldest first."""
        return await self._read(reading.handed, limit, after)

    async def last_handing(self) -> int:
        """The largest number of a call that put in what is in the stream; 0 without any."""
        return await self._read(reading.last_handing)

    async def unhand(self) -> None:
        """Without a stream: take what was handed to one for sent, answer unknown."""
        await self._writer.run(lambda database: database.unhand())

    async def interrupted(self) -> list[list[QueuedItem]]:
        """See ``ItemQueue``."""
        return await self._writer.run(lambda database: database.interrupted())

    async def settle(self, settlement: Settlement) -> None:
        """See ``ItemQueue``."""
        await self._writer.run(
            lambda database: database.settle(settlement, self._now_ms(), self._wall_ms())
        )
        self._claimed.difference_update(settlement.ids())

    async def backlog(self) -> Backlog:
        """See ``ItemQueue``. What can't be stored at the moment counts as records, so that nobody
        takes an outbox for empty that isn't."""
        missing = 0
        if not await self._catch_up():
            # Asked for before it is read: what is stored in between counts twice, and never not.
            missing = max(self._ended.in_use, self._writer.unsaved)
        found = await self._read(reading.backlog)
        return dataclasses.replace(found, records=found.records + missing)

    async def ledger(self) -> LedgerState:
        """Whose outbox it is, and how it stands."""
        await self._catch_up()
        return await self._read(reading.ledger)

    async def held(self, limit: int = 1000, after: int = 0) -> list[HeldItem]:
        """Parked items and dead letters whose position is beyond ``after``, oldest first."""
        return await self._read(reading.held, limit, after)

    async def replay(self, item_ids: Sequence[str]) -> int:
        """Send held items again, under their old keys; how many of the ids were held."""
        return await self._writer.run(lambda database: database.replay(item_ids))

    async def aclose(self) -> None:
        """Store what was appended, close the file and release it. May be called twice."""
        await self._writer.stop()
        self._intents.close()
        self._ended.close()
        self._unlock()

    def _stored(self, exchange_ids: Sequence[str]) -> None:
        """Called on the writer's thread."""
        self._intents.end(exchange_ids)
        self._ended.end(exchange_ids)

    async def _seal(self) -> int:
        taken = await self._read(reading.unsealed, CHUNK)
        if taken is None:
            return 0
        items = seal_lines(taken.lines, self._new_id, split_metrics=self._split_metrics)
        first, last, wall_ms = taken.first, taken.last, self._wall_ms()
        await self._writer.run(lambda database: database.seal(first, last, items, wall_ms))
        return taken.count

    async def _forget_old(self) -> None:
        before = self._wall_ms() - int(self._retain_s * 1000)
        for _ in range(PRUNE_CHUNKS):
            if not await self._writer.run(lambda db: self._prune(db, CHUNK, before)):
                break

    def _prune(self, database: Database, limit: int, done_before_ms: int | None) -> int:
        """Called on the writer's thread; how many records were deleted.

        One that is gone is no longer known by its id. So the slot that it had must be free on the
        disk as well by then, or the loss of power would bring it back, to be billed again.
        """
        before = self._ended.sync
        try:
            return database.prune(limit, done_before_ms=done_before_ms, before=before)
        except OSError as error:
            logger.error("billed records are kept, since the disk fails: %s", error)  # noqa: TRY400
            return 0

    def _make_room(self, database: Database, used_bytes: int) -> bool:
        """Called on the writer's thread; whether anything was deleted."""
        degraded = used_bytes >= self._max_bytes * DEGRADED_SHARE
        if degraded is not self._told_degraded:
            self._told_degraded = degraded
            if degraded:
                logger.error("80 %% of the outbox is usage that can't be delivered; at 100 %% "
                             "new requests are refused")  # fmt: skip
            else:
                logger.warning("the outbox has room again")
        if used_bytes <= self._max_bytes * RETAIN_SHARE:
            return False
        return self._prune(database, 2 * CHUNK, None) > 0

    async def _catch_up(self) -> bool:
        """Have what was appended so far in the database; whether it is, or the disk fails or takes
        too long."""
        if self._ended.in_use and self._writer.fault is None:
            with contextlib.suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(CATCH_UP_S):
                    await self._writer.run(lambda _: None)
                    return self._writer.fault is None
            return False
        return self._writer.fault is None

    async def _read(self, read: Callable[[Path, *Args], T], *args: *Args) -> T:
        if not self._writer.running:
            raise unavailable("The outbox is closed.")
        before = self._writer.counters.replaced
        try:
            found = await asyncio.to_thread(read, self._path, *args)
        except sqlite3.Error as error:
            if not self._unreadable:  # told once, however often it is tried
                logger.exception("the outbox can't be read")
            self._unreadable = True
            if is_damage(error):
                await self._writer.run(partial(self._damaged, error, before))
            raise unavailable("The outbox can't be read right now.") from None
        self._unreadable = False
        return found

    def _damaged(self, error: sqlite3.Error, before: int, _: Database) -> None:
        """Tell the writer of damage that a reader found, unless it has replaced the file since."""
        if self._writer.counters.replaced == before:
            raise error

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _wall_ms(self) -> int:
        return int(self._wall_clock() * 1000)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open_database(self, damage: BaseException | None = None) -> Database:
        """Open the file; after ``damage``, or when it is found damaged, a new one."""
        if damage is None:
            try:
                return self._connect()
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                damage = error
        if damage is not self._handled:  # opening the new one may take more than one attempt
            kept = files.set_aside(self._path)
            self._handled = damage
            logger.critical("the outbox %s is damaged (%s): kept as %s", self._path, damage, kept)
        return self._connect()

    def _connect(self) -> Database:
        files.make_file(self._path)
        return Database(
            self._path,
            max_file_bytes=self._max_file_bytes,
            fsync=self._fsync,
            new_id=self._new_id,
            name=self._name,
        )
