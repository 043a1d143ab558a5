"""The outbox's one writer thread.

It takes everything that is waiting, stores it in one commit and wakes all who wait for it with
one call into their event loop. While a commit runs the next group gathers, so groups grow with
the load and a lone record waits for nobody.

What can't be stored because of the file (disk full, I/O error) stays in memory and is tried again
until it is stored; what can't be stored because of its own values is logged whole.
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
from typing import TypeVar

import msgspec

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage.database import Database, Row

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_S = 0.5
"""Between attempts to store what could not be stored."""

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
    commits: int = 0
    failed_commits: int = 0
    unstorable: int = 0


@dataclass(slots=True)
class _Append:
    row: Row
    loop: asyncio.AbstractEventLoop
    stored: asyncio.Future[None]


@dataclass(slots=True)
class _Job:
    run: Callable[[Database], None]
    fail: Callable[[BaseException], None]


class _Stop:
    pass


class Writer:
    """Runs a database on a thread of its own, from ``start`` to ``stop``.

    Args:
        open_database: called on that thread.
    """

    def __init__(self, open_database: Callable[[], Database]) -> None:
        self._open_database = open_database
        self._inbox: queue.SimpleQueue[_Append | _Job | _Stop] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, name="outbox-writer", daemon=True)
        self._ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._running = False
        self._unsaved: list[_Append] = []
        self._fault: str | None = None
        self._used_bytes = 0
        self._measured_at = 0.0
        self.counters = WriterCounters()

    # --- called by the program ------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it takes work."""
        return self._running

    @property
    def waiting(self) -> int:
        """Appends and jobs not done yet."""
        return self._inbox.qsize() + len(self._unsaved)

    @property
    def used_bytes(self) -> int:
        """Bytes in use in the file, measured some times per second."""
        return self._used_bytes

    @property
    def fault(self) -> str | None:
        """Why the last commit failed; None when it didn't."""
        return self._fault

    def start(self) -> None:
        """Open the database; blocks until that is done, and raises what it raises."""
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
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()
        self._inbox.put(_Append(row, loop, stored))
        await stored

    async def run(self, work: Callable[[Database], T]) -> T:
        """Run ``work`` on the writer's thread, after what was appended before.

        Raises:
            Unavailable: the database failed.
        """
        self._check()
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run(database: Database) -> None:
            if done.set_running_or_notify_cancel():
                done.set_result(work(database))

        self._inbox.put(_Job(run, done.set_exception))
        return await asyncio.wrap_future(done)

    async def stop(self) -> None:
        """Store what was appended and close the database. May be called twice."""
        self._running = False
        if self._thread.is_alive():
            self._inbox.put(_Stop())
            await asyncio.to_thread(self._thread.join)

    def _check(self) -> None:
        if not self._running:
            raise unavailable("Usage can't be recorded: the service is stopping.")

    # --- called by the thread -------------------------------------------------------------------

    def _live(self) -> None:
        try:
            database = self._open_database()
            self._used_bytes = database.used_bytes()
        except BaseException as error:  # noqa: BLE001  whoever started us must hear of it
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        try:
            while self._turn(database):
                pass
        finally:
            self._running = False
            self._give_up()
            database.close()

    def _turn(self, database: Database) -> bool:
        """Do all that waits, records first; False once it is time to stop."""
        appends: list[_Append] = []
        jobs: list[_Job] = []
        stop = False
        with contextlib.suppress(queue.Empty):
            thing = self._inbox.get(timeout=RETRY_S if self._unsaved else None)
            while True:
                if isinstance(thing, _Append):
                    appends.append(thing)
                elif isinstance(thing, _Job):
                    jobs.append(thing)
                else:
                    stop = True
                thing = self._inbox.get_nowait()
        if appends or self._unsaved:
            appends = self._unsaved + appends
            self._unsaved = []
            self._commit(database, appends)
        for job in jobs:
            _do(database, job)
        self._measure(database, at_once=bool(jobs))
        return not stop

    def _commit(self, database: Database, appends: list[_Append]) -> None:
        try:
            database.append([append.row for append in appends])
        except ROW_ERRORS as error:
            if len(appends) > 1:  # one bad row must not take the others with it
                for append in appends:
                    self._commit(database, [append])
                return
            self.counters.unstorable += 1
            logger.critical("usage record can't be stored (%s): %r", error, appends[0].row)
            _wake(appends, "Usage can't be recorded: the record is not valid.")
        except sqlite3.Error as error:
            if self._fault is None:
                logger.exception("the outbox can't be written")
            self._fault = str(error)
            self._unsaved += appends
            self.counters.failed_commits += 1
            _wake(appends, "Usage can't be recorded right now.")
        else:
            if self._fault is not None and not self._unsaved:
                logger.warning("the outbox can be written again")
                self._fault = None
            self.counters.commits += 1
            self.counters.appended += len(appends)
            _wake(appends, None)

    def _measure(self, database: Database, *, at_once: bool) -> None:
        now = time.monotonic()
        if at_once or now - self._measured_at >= MEASURE_S:
            self._measured_at = now
            with contextlib.suppress(sqlite3.Error):
                self._used_bytes = database.used_bytes()

    def _give_up(self) -> None:
        """Nobody may wait for a thread that has ended, and nothing may vanish unsaid."""
        with contextlib.suppress(queue.Empty):
            while True:
                thing = self._inbox.get_nowait()
                if isinstance(thing, _Append):
                    self._unsaved.append(thing)
                elif isinstance(thing, _Job):
                    thing.fail(unavailable("The outbox is closed."))
        for append in self._unsaved:
            logger.critical("usage record not stored at shutdown: %r", append.row)
        _wake(self._unsaved, "Usage can't be recorded: the outbox is closed.")


def unavailable(message: str, *, wait_s: float = 1.0) -> Unavailable:
    """The answer to a client while usage can't be recorded."""
    return Unavailable(message, retry_after_s=wait_s, code="usage_unavailable")


def _do(database: Database, job: _Job) -> None:
    try:
        job.run(database)
    except sqlite3.Error:
        logger.exception("the outbox can't be used")
        job.fail(unavailable("The outbox can't be used right now."))
    except Exception as error:  # noqa: BLE001  the caller's fault, to be raised where he waits
        job.fail(error)


def _wake(appends: Sequence[_Append], failure: str | None) -> None:
    """Tell everybody who waits, with one call per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for append in appends:
        by_loop.setdefault(append.loop, []).append(append.stored)
    for loop, futures in by_loop.items():
        with contextlib.suppress(RuntimeError):  # that loop is closed, so nobody waits
            loop.call_soon_threadsafe(_resolve, futures, failure)


def _resolve(futures: Sequence[asyncio.Future[None]], failure: str | None) -> None:
    for future in futures:
        if future.done():  # cancelled, or told of an earlier failure
            continue
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(unavailable(failure))
