"""The outbox's one writer thread.

It takes everything that is waiting, stores it in one commit and wakes all who wait for it with
one call into their event loop. While a commit runs the next group gathers, so groups grow with
the load and a lone record waits for nobody. Rows that nobody waits for are gathered before.

What can't be stored because of the file (disk full, I/O error) stays in memory and is tried again
until it is stored; what can't be stored because of its own values is logged whole. A file that
turns out to be damaged is replaced, and what is in memory goes into the new one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from sentinel_extproc.usage.chain import Head
from sentinel_extproc.usage.database import Database, Stored, is_damage
from sentinel_extproc.usage.rows import Row
from sentinel_extproc.usage.waiting import Waiter, unavailable, wake

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_S = 0.5
"""Between attempts to store what could not be stored."""

GATHER_S = 0.02
"""Longest that a row waits for others to share its commit with, if nobody waits for it."""

MEASURE_S = 0.25
"""Between measurements of the file while only records come in."""

ROW_ERRORS = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    TypeError,
    msgspec.MsgspecError,
)
"""Errors of a row's values; every other one is the file's."""


@dataclass(slots=True)
class WriterCounters:
    """What happened so far; only ever grows."""

    appended: int = 0
    duplicates: int = 0
    unknown: int = 0
    commits: int = 0
    failed_commits: int = 0
    unstorable: int = 0
    replaced: int = 0


class _Append(msgspec.Struct, gc=False):
    row: Row
    waiter: Waiter | None


@dataclass(slots=True)
class _Job:
    run: Callable[[Database], None]
    fail: Callable[[BaseException], None]


class _Stop:
    pass


class OpenDatabase(Protocol):
    """Opens the database, on the writer's thread."""

    def __call__(self, damage: BaseException | None = None, /) -> Database:
        """With ``damage``: a new one, and the damaged one is kept."""
        ...


MakeRoom = Callable[[Database, int], bool]
"""Called after commits with the bytes in use; whether it deleted anything."""

OnStored = Callable[[Sequence[str]], None]
"""Called after every commit with the ids of its records; quick."""


class Writer:
    """Runs a database on a thread of its own, from ``start`` to ``stop``.

    Args:
        open_database, make_room, on_stored: called on that thread.

    Attributes:
        unsaved: records that could not be stored so far, while there is a fault.
    """

    def __init__(
        self, open_database: OpenDatabase, *, make_room: MakeRoom, on_stored: OnStored
    ) -> None:
        self._open_database = open_database
        self._make_room = make_room
        self._on_stored = on_stored
        self._database: Database | None = None
        self._damage: BaseException | None = None
        self._inbox: queue.SimpleQueue[_Append | list[_Append] | _Job | _Stop] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, name="outbox-writer", daemon=True)
        self._ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._running = False
        self._unsaved: list[_Append] = []
        self._gathered: list[_Append] = []
        self._fault: str | None = None
        self._used_bytes = 0
        self._measured_at = 0.0
        self._began_at: float | None = None
        self._crowded = False
        self.unsaved = 0
        self.sidecar = ""
        self.head = Head(0, b"")
        self.counters = WriterCounters()

    # --- called by the program ------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it takes work."""
        return self._running

    @property
    def waiting(self) -> int:
        """Appends and jobs not done yet; what was gathered counts as one once it is handed over."""
        return len(self._gathered) + self._inbox.qsize() + len(self._unsaved)

    @property
    def used_bytes(self) -> int:
        """Bytes in use in the file, measured some times per second."""
        return self._used_bytes

    @property
    def fault(self) -> str | None:
        """Why the last commit failed; None when it didn't."""
        return self._fault

    @property
    def busy_s(self) -> float:
        """For how long it has been storing what it took last; 0 when it waits for work."""
        began = self._began_at
        return 0.0 if began is None else time.monotonic() - began

    def start(self, rows: Sequence[Row] = ()) -> None:
        """Open the database and store ``rows``; blocks until that is done, and raises what opening
        raises. What can't be stored is kept and tried again."""
        self._unsaved = [_Append(row, None) for row in rows]
        self._thread.start()
        try:
            self._ready.result()
        except BaseException:
            self._thread.join()
            raise
        self._running = True

    async def append(self, row: Row) -> None:
        """Return once the row is stored. Cancelling the caller doesn't cancel the row.

        Raises:
            Unavailable: it could not be stored so far.
        """
        self._check()
        self._hand_over()
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()
        self._inbox.put(_Append(row, Waiter(loop, stored)))
        await stored

    def gather(self, row: Row) -> None:
        """Store a row that is safe elsewhere within ``GATHER_S``, together with those that come
        meanwhile. Always from the same event loop. A writer that has ended leaves it where it is:
        whoever starts next stores it.
        """
        if not self._running:
            return
        self._gathered.append(_Append(row, None))
        if len(self._gathered) == 1:
            asyncio.get_running_loop().call_later(GATHER_S, self._hand_over)

    def _hand_over(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            self._inbox.put(gathered)

    async def run(self, work: Callable[[Database], T]) -> T:
        """Run ``work`` on the writer's thread, after what was appended before.

        Raises:
            Unavailable: the database failed.
        """
        self._check()
        self._hand_over()
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run(database: Database) -> None:
            if done.set_running_or_notify_cancel():
                done.set_result(work(database))

        def fail(error: BaseException) -> None:
            # Whoever waited may have been cancelled, which must not cost the thread its life.
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                done.set_exception(error)

        self._inbox.put(_Job(run, fail))
        return await asyncio.wrap_future(done)

    def post(self, work: Callable[[], None]) -> None:
        """Run ``work`` on the writer's thread some time; its failure is only told."""
        self._inbox.put(_Job(lambda _: work(), lambda error: logger.error("%s", error)))

    async def stop(self) -> None:
        """Store what was appended and close the database. May be called twice."""
        self._running = False
        self._hand_over()
        if self._thread.is_alive():
            self._inbox.put(_Stop())
            await asyncio.to_thread(self._thread.join)

    def _check(self) -> None:
        if not self._running:
            raise unavailable("Usage can't be recorded: the service is stopping.")

    # --- called by the thread -------------------------------------------------------------------

    def _live(self) -> None:
        try:
            self._open()
        except BaseException as error:  # noqa: BLE001  whoever started us must hear of it
            self._ready.set_exception(error)
            return
        if self._unsaved:
            unsaved, self._unsaved = self._unsaved, []
            self._commit(unsaved)
        self._ready.set_result(None)
        try:
            while self._turn():
                pass
        finally:
            self._running = False
            self._give_up()
            if self._database is not None:
                self._database.close()

    def _open(self) -> None:
        database = self._open_database(self._damage)
        if self._damage is not None:
            self.counters.replaced += 1
            self._damage = None
        self._database = database
        self.sidecar, self.head = database.sidecar, database.head
        self._used_bytes = database.used_bytes()

    def _turn(self) -> bool:
        """Do all that waits, records first; False once it is time to stop."""
        appends: list[_Append] = []
        jobs: list[_Job] = []
        stop = False
        with contextlib.suppress(queue.Empty):
            thing = self._inbox.get(timeout=self._patience())
            self._began_at = time.monotonic()
            while True:
                if isinstance(thing, _Append):
                    appends.append(thing)
                elif isinstance(thing, list):
                    appends += thing
                elif isinstance(thing, _Job):
                    jobs.append(thing)
                else:
                    stop = True
                thing = self._inbox.get_nowait()
        if self._database is None:
            self._reopen()
        if appends or self._unsaved:
            appends = self._unsaved + appends
            self._unsaved = []
            self._commit(appends)
        for job in jobs:
            self._do(job)
        self._measure(at_once=bool(jobs))
        self._began_at = None
        return not stop

    def _patience(self) -> float | None:
        if self._crowded:
            return 0.0  # there may be more to delete, a little between appends
        return RETRY_S if self._unsaved or self._database is None else None

    def _reopen(self) -> None:
        try:
            self._open()
        except Exception as error:
            # Tried again until somebody mends the disk.
            if self._fault is None:
                logger.exception("the outbox can't be opened")
            self._fault = str(error)
        else:
            if self._fault is not None and not self._unsaved:
                # Nothing waits whose commit would tell, and while there is a fault nothing comes.
                logger.warning("the outbox can be opened again")
                self._fault = None

    def _commit(self, appends: list[_Append], *, may_replace: bool = True) -> None:
        if self._database is None:
            self._keep(appends)
            return
        try:
            stored = self._database.append([append.row for append in appends])
        except ROW_ERRORS as error:
            if len(appends) > 1:  # one bad row must not take the others with it
                for append in appends:
                    self._commit([append])
                return
            self.counters.unstorable += 1
            logger.critical("usage record can't be stored (%s): %r", error, appends[0].row)
            wake(_waiters(appends), "Usage can't be recorded: the record is not valid.")
        except sqlite3.Error as error:
            self.counters.failed_commits += 1
            if is_damage(error) and may_replace:
                self._replace(error)
                self._commit(appends, may_replace=False)
                return
            if self._fault is None:
                logger.exception("the outbox can't be written")
            self._fault = str(error)
            self._keep(appends)
        else:
            if self._fault is not None and not self._unsaved:
                logger.warning("the outbox can be written again")
                self._fault = None
            self.unsaved = len(self._unsaved)
            self.head = self._database.head
            self._count(appends, stored)
            wake(_waiters(appends), None)

    def _count(self, appends: list[_Append], stored: Stored) -> None:
        counters = self.counters
        counters.commits += 1
        counters.appended += len(appends) - stored.duplicates
        counters.duplicates += stored.duplicates
        counters.unknown += len(stored.unknown)
        if stored.unknown:
            for append in appends:
                if append.row[0] in stored.unknown:
                    logger.error("nobody saw how an exchange ended, not billed: %r", append.row)
        self._on_stored([str(append.row[0]) for append in appends])

    def _keep(self, appends: list[_Append]) -> None:
        self._unsaved += appends
        self.unsaved = len(self._unsaved)
        wake(_waiters(appends), "Usage can't be recorded right now.")

    def _do(self, job: _Job) -> None:
        if self._database is None:
            job.fail(unavailable("The outbox can't be used right now."))
            return
        try:
            job.run(self._database)
        except sqlite3.Error as error:
            logger.exception("the outbox can't be used")
            job.fail(unavailable("The outbox can't be used right now."))
            if is_damage(error):
                self._replace(error)
        except Exception as error:  # noqa: BLE001  the caller's fault, to be raised where he waits
            job.fail(error)

    def _replace(self, damage: BaseException) -> None:
        """Go on with a new file. The damaged one must be closed first: SQLite deletes logs by
        their name when it closes."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
        self._database = None
        self._damage = damage
        self._reopen()

    def _measure(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if self._database is None or not (
            at_once or self._crowded or now - self._measured_at >= MEASURE_S
        ):
            return
        self._measured_at = now
        self._crowded = False
        with contextlib.suppress(sqlite3.Error):
            self._used_bytes = self._database.used_bytes()
            self._crowded = self._make_room(self._database, self._used_bytes)

    def _give_up(self) -> None:
        """Nobody may wait for a thread that has ended, and nothing may vanish unsaid."""
        with contextlib.suppress(queue.Empty):
            while True:
                thing = self._inbox.get_nowait()
                if isinstance(thing, _Append):
                    self._unsaved.append(thing)
                elif isinstance(thing, list):
                    self._unsaved += thing
                elif isinstance(thing, _Job):
                    thing.fail(unavailable("The outbox is closed."))
        for append in self._unsaved:
            if append.waiter is None:  # safe elsewhere: billed by hand, it would be billed twice
                logger.error("usage record left to the next start: %r", append.row)
            else:
                logger.critical("usage record not stored at shutdown: %r", append.row)
        wake(_waiters(self._unsaved), "Usage can't be recorded: the outbox is closed.")


def _waiters(appends: Sequence[_Append]) -> list[Waiter | None]:
    return [append.waiter for append in appends]
