"""Reads an outbox from outside, beside a running sidecar or without one.

Read-only, and in short reads one after the other: a long one would keep SQLite from recycling its
log while the sidecar goes on writing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sentinel_extproc.usage import sql
from sentinel_extproc.usage.rows import record_of
from sentinel_extproc.usage_cli.columns import Entry, delivery
from sentinel_extproc.usage_cli.filters import Filter

SPAN = 2000
"""Records looked at in one read."""

# A run of records with what became of them. A record without items came to nothing, or isn't sealed.
_RECORDS = f"""
SELECT seq, {sql.RECORD_COLUMNS},
    (SELECT group_concat(state) FROM record_items WHERE record_items.seq = records.seq),
    (SELECT group_concat(item) FROM record_items WHERE record_items.seq = records.seq)
FROM records
WHERE seq > :after AND seq <= :until
    AND (:user IS NULL OR external_id = :user OR email = :user)
    AND (:model IS NULL OR model_requested = :model OR model_served = :model)
    AND (:since IS NULL OR occurred_at_ms >= :since)
    AND (:before IS NULL OR occurred_at_ms < :before)
    AND (:provenance IS NULL OR provenance = :provenance)
    AND (:outcome IS NULL OR outcome = :outcome)
ORDER BY seq
"""  # noqa: S608

# Where there are records, and how far they are sealed.
_EXTENT = """
SELECT ledger.sidecar, ledger.sealed_seq, (SELECT min(seq) FROM records),
    (SELECT max(seq) FROM records)
FROM ledger
"""


class LedgerFileError(Exception):
    """The file can't be read as an outbox; the message says why."""


class LedgerFile:
    """An outbox file.

    Raises:
        LedgerFileError: from every method that reads: it isn't there, or is no outbox of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self, wanted: Filter, *, newest_first: bool = False) -> Iterator[Entry]:
        """Records that ``wanted`` means, oldest first unless it says otherwise."""
        with self._opened() as connection:
            sidecar, _, first, last = connection.execute(_EXTENT).fetchone()
            if first is None:
                return
            starts = range(first - 1, last, SPAN)
            for after in reversed(starts) if newest_first else starts:
                found = _span(connection, sidecar, wanted, after)
                yield from reversed(found) if newest_first else found

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        if not self.path.is_file():
            raise LedgerFileError(f"there is no outbox at {self.path}")
        try:
            with closing(_connect(self.path)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise LedgerFileError(f"can't read {self.path}: {error}") from None


def _connect(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.Error, LedgerFileError."""
    uri = path.absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=5.0, isolation_level=None)
    try:
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(path.name + "-wal").exists():
            raise
        # Without its log, on a read-only disk, it can only be read as something that never changes.
        connection = sqlite3.connect(f"{uri}?immutable=1", uri=True, isolation_level=None)
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if owner == sql.APPLICATION_ID and version == sql.SCHEMA_VERSION:
        return connection
    connection.close()
    if owner != sql.APPLICATION_ID:
        raise LedgerFileError(f"{path} is not an outbox")
    raise LedgerFileError(
        f"{path} has schema version {version}, this program knows {sql.SCHEMA_VERSION}"
    )


def _span(
    connection: sqlite3.Connection, sidecar: str, wanted: Filter, after: int
) -> list[Entry]:
    with connection:
        connection.execute("BEGIN")  # so that state and seal are of one moment
        sealed_seq = connection.execute(_EXTENT).fetchone()[1]
        rows = connection.execute(
            _RECORDS,
            {
                "after": after,
                "until": after + SPAN,
                "user": wanted.user,
                "model": wanted.model,
                "since": wanted.since_ms,
                "before": wanted.until_ms,
                "provenance": wanted.provenance,
                "outcome": wanted.outcome,
            },
        ).fetchall()
    found = [_entry(row, sidecar, sealed_seq) for row in rows]
    return [entry for entry in found if wanted.state in (None, entry.state)]


def _entry(row: tuple[str | int | None, ...], sidecar: str, sealed_seq: int) -> Entry:
    seq = int(row[0] or 0)
    record = record_of(row[1:-2])
    states = frozenset(str(row[-2]).split(",")) if row[-2] is not None else frozenset()
    return Entry(
        seq=seq,
        sidecar=sidecar,
        record=record,
        state=delivery(record, sealed=seq <= sealed_seq, item_states=states),
        items=tuple(str(row[-1]).split(",")) if row[-1] is not None else (),
    )
