"""The outbox's SQLite file: runs the statements of ``sql``, on one thread.

WAL with ``synchronous=NORMAL``: a commit is one write to the log, safe against the death of the
process; with ``FULL`` it is also flushed to disk, safe against the loss of power. Everything
raises ``sqlite3.Error`` as it comes; ``outbox`` translates.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sentinel_extproc.usage import sql
from sentinel_extproc.usage.item_queue import ItemState, QueuedItem, Settlement
from sentinel_extproc.usage.record import UsageRecord
from sentinel_extproc.usage.sealing import SealedGroup, SealedItem, batch_key

Row = tuple[str | int | None, ...]

MAX_NAME = 256
"""Code points kept of names that a client chooses freely."""

MAX_INTEGER = 2**53 - 1

DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class ConflictError(Exception):
    """Two callers sealed at once."""


class WrongFileError(Exception):
    """The file is a database, but not one that this version can use."""


def record_row(record: UsageRecord) -> Row:
    """The row of a record, with every value made storable.

    Client-chosen names are cut at ``MAX_NAME``; what isn't text (lone surrogates, NUL) is
    replaced, numbers are kept within 0 and 2^53 - 1: a strange request must still be billed.
    """
    usage = record.usage
    return (
        _text(record.id),
        record.occurred_at_ms,
        _text(record.external_id),
        _text(record.email),
        _text(record.endpoint[:MAX_NAME]),
        _text(record.model_requested[:MAX_NAME]),
        None if record.model_served is None else _text(record.model_served[:MAX_NAME]),
        _amount(record.requests),
        _amount(usage.input_tokens),
        _amount(usage.output_tokens),
        _amount(usage.cached_input_tokens),
        _amount(usage.reasoning_tokens),
        _amount(usage.audio_input_tokens),
        _amount(usage.audio_output_tokens),
        record.provenance.value,
        record.outcome.value,
    )


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _amount(value: int) -> int:
    return min(max(value, 0), MAX_INTEGER)


class Database:
    """One open outbox file. Use it on the thread that made it only.

    Args:
        max_file_bytes: SQLite refuses to let the file grow beyond this.

    Raises:
        sqlite3.Error: it can't be opened; ``sqlite_errorcode in DAMAGED`` if it is damaged.
        WrongFileError: it belongs to another program or a newer version.
    """

    def __init__(self, path: Path, *, max_file_bytes: int, fsync: bool) -> None:
        self._connection = sqlite3.connect(
            path, isolation_level=None, cached_statements=64, timeout=1.0
        )
        try:
            self._prepare(max_file_bytes, fsync=fsync)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, max_file_bytes: int, *, fsync: bool) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
        run("PRAGMA temp_store = MEMORY")
        run("PRAGMA journal_size_limit = 67108864")
        self._page_bytes = self._number("PRAGMA page_size")
        run(f"PRAGMA max_page_count = {max(16, max_file_bytes // self._page_bytes)}")
        version = self._number("PRAGMA user_version")
        owner = self._number("PRAGMA application_id")
        tables = self._number("SELECT count(*) FROM sqlite_master")
        if version == 0 and tables == 0:
            with self.transaction():
                for statement in sql.SCHEMA.split(";"):
                    run(statement)
                run(f"PRAGMA application_id = {sql.APPLICATION_ID}")
                run(f"PRAGMA user_version = {sql.SCHEMA_VERSION}")
        elif owner != sql.APPLICATION_ID:
            raise WrongFileError("the file belongs to another program")
        elif version != sql.SCHEMA_VERSION:
            raise WrongFileError(
                f"the file has schema version {version}, this program knows {sql.SCHEMA_VERSION}"
            )
        run(sql.RESET_DUE)

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

    def append(self, rows: Sequence[Row]) -> None:
        """Store records, all or none; those that are there already are left as they are."""
        self._connection.execute(sql.APPEND, (_json(rows),))

    def used_bytes(self) -> int:
        """Bytes of pages in use; free pages within the file don't count."""
        pages = self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")
        return pages * self._page_bytes

    def seal(self, seqs: Mapping[str, int], groups: Sequence[SealedGroup]) -> None:
        """Store the items made of unsealed records, all or nothing.

        Args:
            seqs: ``seq`` of every record in ``groups``, by its id.

        Raises:
            ConflictError: a record was sealed meanwhile.
        """
        billed = [
            (seqs[record_id], group.items[0].group)
            for group in groups
            if group.items
            for record_id in group.record_ids
        ]
        nothing = [
            seqs[record_id] for group in groups if not group.items for record_id in group.record_ids
        ]
        with self.transaction():
            run = self._connection.execute
            changed = run(sql.SEAL, (_json(billed),)).rowcount if billed else 0
            changed += run(sql.FORGET, (_json(nothing),)).rowcount if nothing else 0
            if changed != len(billed) + len(nothing):
                raise ConflictError("records were sealed twice at once")
            items = [_item_row(item) for group in groups for item in group.items]
            self._connection.executemany(sql.ADD_ITEM, items)

    def claim(self, limit: int, now_ms: int) -> list[QueuedItem]:
        """See ``ItemQueue.claim``."""
        rows = self._connection.execute(sql.READY, (now_ms, limit)).fetchall()
        claimed = [QueuedItem(SealedItem(*row[:11]), row[11]) for row in rows]
        if claimed:
            items = [queued.item for queued in claimed]
            ids = _json([item.id for item in items])
            self._connection.execute(sql.CLAIM, (batch_key(items), ids))
        return claimed

    def interrupted(self) -> list[list[QueuedItem]]:
        """See ``ItemQueue.interrupted``."""
        batches: dict[str, list[QueuedItem]] = {}
        for row in self._connection.execute(sql.SENT):
            queued = QueuedItem(SealedItem(*row[:11]), row[11])
            batches.setdefault(row[12], []).append(queued)
        return list(batches.values())

    def settle(self, settlement: Settlement, now_ms: int) -> None:
        """See ``ItemQueue.settle``."""
        run = self._connection.execute
        with self.transaction():
            if settlement.acknowledged:
                billed = _json(settlement.acknowledged)
                groups = [group for (group,) in run(sql.GROUPS, (billed,))]
                run(sql.ACKNOWLEDGE, (billed,))
                run(sql.RELEASE, (_json(groups),))
            if settlement.again:
                run(sql.AGAIN, (_json(settlement.again),))
            for refusal in settlement.refused:
                dead = refusal.due_in_s is None
                state = ItemState.DEAD if dead else ItemState.READY
                due_ms = now_ms + int((refusal.due_in_s or 0) * 1000)
                run(sql.REFUSE, (state.value, due_ms, _text(refusal.reason), refusal.item_id))
            if settlement.parked:
                run(sql.PARK, (_json(settlement.parked),))

    def sweep(self, limit: int) -> bool:
        """Delete up to ``limit`` records that are billed; whether there may be more."""
        with self.transaction():
            deleted = self._connection.execute(sql.SWEEP, (limit,)).rowcount
            if deleted < limit:
                self._connection.execute(sql.SWEPT)
        return deleted >= limit

    def replay(self, item_ids: Sequence[str]) -> int:
        """Make held items ready again; how many of them were held."""
        return self._connection.execute(sql.REPLAY, (_json(item_ids),)).rowcount

    def close(self) -> None:
        """Write the log back into the file and close it."""
        self._connection.close()


def _item_row(item: SealedItem) -> Row:
    return (
        item.id,
        item.group,
        item.external_id,
        item.email,
        item.model,
        item.input_tokens,
        item.output_tokens,
        item.requests,
        item.records,
        item.first_ms,
        item.last_ms,
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
