"""The outbox's SQLite file: runs the statements of ``sql``, on one thread.

WAL with ``synchronous=NORMAL``: a commit is one write to the log, safe against the death of the
process; with ``FULL`` it is also flushed to disk, safe against the loss of power. Everything
raises ``sqlite3.Error`` as it comes; ``outbox`` translates.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec.structs import astuple

from sentinel_extproc.usage import chain, migration, retention, sql
from sentinel_extproc.usage.claiming import choose
from sentinel_extproc.usage.insertion import insert, is_one_statement
from sentinel_extproc.usage.item_queue import ItemState, QueuedItem, Settlement
from sentinel_extproc.usage.priority import FRESH_S, Shares
from sentinel_extproc.usage.record import Outcome
from sentinel_extproc.usage.rows import OUTCOME, Row, storable
from sentinel_extproc.usage.sealing import SealedItem, batch_key

DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class ConflictError(Exception):
    """Two callers sealed at once."""


class WrongFileError(Exception):
    """The file is a database, but not one that this version can use."""


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says that the file is not what it wrote.

    The low byte: SQLite has finer codes for some of them.
    """
    return isinstance(error, sqlite3.Error) and (
        getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED
    )


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of records: how many were here already, and the ids of unknown ones that are
    new."""

    duplicates: int = 0
    unknown: tuple[str, ...] = ()


class Database:
    """One open outbox file. Use it on the thread that made it only.

    Args:
        max_file_bytes: SQLite refuses to let the file grow beyond this.
        new_id: makes the sidecar's id, for a new file.

    Attributes:
        sidecar: id of the chain's owner; stays with the file.
        head: the end of the chain.

    Raises:
        sqlite3.Error: it can't be opened; ``is_damage`` tells if it is damaged.
        WrongFileError: it belongs to another program or a newer version.
    """

    sidecar: str
    head: chain.Head

    def __init__(
        self,
        path: Path,
        *,
        max_file_bytes: int,
        fsync: bool,
        new_id: Callable[[], str],
        name: str | None = None,
    ) -> None:
        self._shares = Shares()
        self._connection = sqlite3.connect(
            path, isolation_level=None, cached_statements=64, timeout=1.0
        )
        try:
            self._prepare(max_file_bytes, new_id, name, fsync=fsync)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(
        self, max_file_bytes: int, new_id: Callable[[], str], name: str | None, *, fsync: bool
    ) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
        run("PRAGMA temp_store = MEMORY")
        run("PRAGMA journal_size_limit = 67108864")
        self._page_bytes = self._number("PRAGMA page_size")
        version = self._number("PRAGMA user_version")
        owner = self._number("PRAGMA application_id")
        tables = self._number("SELECT count(*) FROM sqlite_master")
        if version == 0 and tables == 0:
            with self.transaction():
                migration.create(self._connection, new_id())
                run(f"PRAGMA application_id = {sql.APPLICATION_ID}")
                run(f"PRAGMA user_version = {sql.SCHEMA_VERSION}")
        elif owner != sql.APPLICATION_ID:
            raise WrongFileError("the file belongs to another program")
        elif version in migration.FROM:
            with self.transaction():
                migration.FROM[version](self._connection, new_id())
                run(f"PRAGMA user_version = {sql.SCHEMA_VERSION}")
        elif version != sql.SCHEMA_VERSION:
            raise WrongFileError(
                f"the file has schema version {version}, this program knows {sql.SCHEMA_VERSION}"
            )
        # Not before: a migration may need more room than the file is to have.
        run(f"PRAGMA max_page_count = {max(16, max_file_bytes // self._page_bytes)}")
        run(sql.RESET_DUE)
        run(sql.NAME_LEDGER, (name, name))
        self.sidecar, _, _ = run(sql.LEDGER).fetchone()
        self._read_head()

    def _read_head(self) -> None:
        row = self._connection.execute(sql.HEAD).fetchone()
        self.head = chain.Head(*row) if row else chain.start(self.sidecar)

    def _number(self, statement: str) -> int:
        return int(self._connection.execute(statement).fetchone()[0])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it, or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def append(self, rows: Sequence[Row]) -> Stored:
        """Number, chain and store records, all or none; those whose id is here already are left
        as they are, and take no number."""
        fresh = {row[0]: row for row in reversed(rows)}  # of one id the first
        new = [row for row in rows if fresh[row[0]] is row] if len(fresh) < len(rows) else rows
        try:
            unknown = self._insert(new)
        except sqlite3.IntegrityError:
            ids = _json([row[0] for row in new])
            known = {row[0] for row in self._connection.execute(sql.KNOWN, (ids,))}
            if not known:
                raise
            new = [row for row in new if row[0] not in known]
            unknown = self._insert(new)
        return Stored(len(rows) - len(new), unknown)

    def _insert(self, rows: Sequence[Row]) -> tuple[str, ...]:
        if not rows:
            return ()
        unknown = tuple(str(row[0]) for row in rows if row[OUTCOME] == Outcome.UNKNOWN.value)
        if unknown or not is_one_statement(len(rows)):
            with self.transaction():
                head = insert(self._connection, self.head, rows)
                if unknown:
                    self._connection.execute(sql.COUNT_UNKNOWN, (len(unknown),))
        else:
            head = insert(self._connection, self.head, rows)
        self.head = head
        return unknown

    def used_bytes(self) -> int:
        """Bytes of pages in use; free pages within the file don't count."""
        pages = self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")
        return pages * self._page_bytes

    def seal(
        self, first_seq: int, last_seq: int, items: Sequence[SealedItem], wall_ms: int
    ) -> None:
        """Store the items made of a run of unsealed records, all or nothing.

        Raises:
            ConflictError: somebody sealed meanwhile.
        """
        with self.transaction():
            run = self._connection.execute
            if run(sql.SEAL, (last_seq, first_seq - 1)).rowcount != 1:
                raise ConflictError("records were sealed twice at once")
            done_ms = None if items else wall_ms
            run(sql.ADD_CHUNK, (first_seq, last_seq, len(items), done_ms))
            rows = [(*astuple(item), first_seq) for item in items]
            self._connection.executemany(sql.ADD_ITEM, rows)

    def choose(self, limit: int, now_ms: int, wall_ms: int, claimed: Set[str]) -> list[QueuedItem]:
        """See ``claiming.choose``."""
        fresh_ms = wall_ms - int(FRESH_S * 1000)
        return choose(
            self._connection,
            self._shares,
            limit,
            now_ms=now_ms,
            fresh_ms=fresh_ms,
            claimed=claimed,
        )

    def sending(self, items: Sequence[SealedItem]) -> None:
        """See ``ItemQueue.sending``."""
        ids = _json([item.id for item in items])
        self._connection.execute(sql.SENDING, (batch_key(items), ids))

    def handing(self, item_ids: Sequence[str], number: int) -> None:
        """See ``Outbox.handing``."""
        self._connection.execute(sql.HANDING, (str(number), _json(item_ids)))

    def unhand(self) -> None:
        """See ``Outbox.unhand``."""
        self._connection.execute(sql.UNHAND)

    def interrupted(self) -> list[list[QueuedItem]]:
        """See ``ItemQueue.interrupted``."""
        batches: dict[str, list[QueuedItem]] = {}
        for row in self._connection.execute(sql.SENT):
            queued = QueuedItem(SealedItem(*row[:12]), row[12])
            batches.setdefault(row[13], []).append(queued)
        return list(batches.values())

    def settle(self, settlement: Settlement, now_ms: int, wall_ms: int) -> None:
        """See ``ItemQueue.settle``; ``now_ms`` is of the clock that due times go by."""
        run = self._connection.execute
        with self.transaction():
            if settlement.acknowledged:
                billed = _json(settlement.acknowledged)
                run(sql.CLOSE, (billed, wall_ms))
                run(sql.ACKNOWLEDGE, (billed,))
            if settlement.again:
                run(sql.AGAIN, (_json(settlement.again),))
            for refusal in settlement.refused:
                dead = refusal.due_in_s is None
                state = ItemState.DEAD if dead else ItemState.READY
                due_ms = now_ms + int((refusal.due_in_s or 0) * 1000)
                run(sql.REFUSE, (state.value, due_ms, storable(refusal.reason), refusal.item_id))
            if settlement.parked:
                run(sql.PARK, (_json(settlement.parked),))

    def prune(
        self,
        limit: int,
        *,
        done_before_ms: int | None,
        before: Callable[[], None] = lambda: None,
    ) -> int:
        """Delete up to ``limit`` of the oldest retained records; how many.

        Args:
            done_before_ms: leave those that were acknowledged since; None: room is needed.
            before: called before any is deleted; what it raises keeps them.
        """
        with self.transaction():
            return retention.prune(self._connection, limit, done_before_ms, before)

    def replay(self, item_ids: Sequence[str]) -> int:
        """Make held items ready again; how many of them were held."""
        return self._connection.execute(sql.REPLAY, (_json(item_ids),)).rowcount

    def close(self) -> None:
        """Write the log back into the file and close it."""
        self._connection.close()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
