"""Reads an outbox from outside, beside a running sidecar or without one.

Read-only, and in short reads one after the other: a long one would keep SQLite from recycling its
log while the sidecar goes on writing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from sentinel_extproc.usage import ended, reading, sql
from sentinel_extproc.usage.chain import Finding, Gap, Head, Link, text, verify
from sentinel_extproc.usage.files import ended_path
from sentinel_extproc.usage.item_queue import HeldItem, ItemState
from sentinel_extproc.usage.record import UsageRecord
from sentinel_extproc.usage.rows import record_of
from sentinel_extproc.usage.sealing import SealedItem
from sentinel_extproc.usage_cli.columns import Entry, delivery, iso
from sentinel_extproc.usage_cli.filters import Filter
from sentinel_extproc.usage_cli.matching import Items, StoredItem, misfits
from sentinel_extproc.usage_cli.zion_ledger import MAX_FINDINGS, OwnItem

SPAN = 2000
"""Records looked at in one read."""

_RECORDS = f"""
SELECT seq, {sql.RECORD_COLUMNS} FROM records
WHERE seq > :after AND seq <= :until
    AND (:user IS NULL OR external_id = :user OR email = :user)
    AND (:model IS NULL OR model_requested = :model OR model_served = :model)
    AND (:since IS NULL OR occurred_at_ms >= :since)
    AND (:before IS NULL OR occurred_at_ms < :before)
    AND (:provenance IS NULL OR provenance = :provenance)
    AND (:outcome IS NULL OR outcome = :outcome)
ORDER BY seq
"""  # noqa: S608

# Items of the chunks that a run of records is of. By hand, not by the view record_items: SQLite
# would look at all items of its chunk for each record.
_ITEMS_OF = f"""
SELECT {sql.ITEM_COLUMNS}, state, chunk FROM items
WHERE chunk >= ifnull((SELECT max(n) FROM chunks WHERE n <= :after + 1), 0) AND chunk <= :until
"""  # noqa: S608

# Chunks of which no record was deleted, after their time, yet.
_WHOLE_CHUNKS = "SELECT n, last_seq FROM chunks WHERE rest_seq = n AND n > ? ORDER BY n LIMIT ?"

# Where there are records, and how far they are sealed.
_EXTENT = """
SELECT ledger.sidecar, ledger.sealed_seq, (SELECT min(seq) FROM records),
    (SELECT max(seq) FROM records)
FROM ledger
"""

_LINKS = f"SELECT seq, {sql.RECORD_COLUMNS}, hash FROM records ORDER BY seq"  # noqa: S608

_ITEMS = """
SELECT id, external_id, requests, input_tokens, output_tokens, state FROM items ORDER BY n
"""


class LedgerFileError(Exception):
    """The file can't be read as an outbox; the message says why."""


class LedgerFile:
    """An outbox file.

    Raises:
        LedgerFileError: from every method that reads: it isn't there, or is no outbox of ours.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def status(self) -> dict[str, str | int | None]:
        """Whose it is and how it stands; from counts that are kept, so it takes no time."""
        with self._opened():
            state = reading.ledger(self._path)
            oldest_ms = reading.backlog(self._path).oldest_ms
            size = self._path.stat().st_size
        try:
            unstored = ended.waiting(ended_path(self._path))
        except OSError as error:
            raise LedgerFileError(f"can't read beside {self._path}: {error.strerror}") from None
        items = {name: state.items.get(name, 0) for name in (*ItemState, sql.DONE)}
        items |= {name: count for name, count in state.items.items() if name not in items}
        return {
            "sidecar": state.sidecar,
            "name": state.name,
            "head": f"{state.head.seq}:{state.head.hash.hex()}",
            "records": state.head.seq,
            "unstored_records": unstored,
            "unsealed_records": state.unsealed,
            "billed_records_kept": state.retained,
            "unknown_records": state.unknown,
            **{f"{'billed' if name == sql.DONE else name}_items": n for name, n in items.items()},
            "oldest_undelivered": None if oldest_ms is None else iso(oldest_ms),
            "file_bytes": size,
        }

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

    def records(self, wanted: Filter) -> Iterator[UsageRecord]:
        """As ``entries``, oldest first, without where they are, which takes half the time. A state
        can't be wanted."""
        with self._opened() as connection:
            _, _, first, last = connection.execute(_EXTENT).fetchone()
            if first is None:
                return
            for after in range(first - 1, last, SPAN):
                values = _values(wanted, after, after + SPAN)
                for row in connection.execute(_RECORDS, values).fetchall():
                    yield record_of(row[1:])

    def held(self, user: str | None = None) -> Iterator[HeldItem]:
        """Dead letters and parked items, oldest first, perhaps of one user alone."""
        after = 0
        with self._opened():
            while found := reading.held(self._path, SPAN, after):
                after = found[-1].position
                for one in found:
                    if user in (None, one.item.external_id, one.item.email):
                        yield one

    def items(self) -> Iterator[OwnItem]:
        """Every item, oldest first."""
        with self._opened() as connection:
            for row in connection.execute(_ITEMS):
                yield OwnItem(*row)

    def verify_chain(self, noted: Sequence[Head] = ()) -> list[Finding]:
        """Walk the chain; see ``chain.verify``. One long read, so that it sees one moment."""
        with self._opened() as connection, _one_moment(connection):
            sidecar, _, sealed = connection.execute(sql.LEDGER).fetchone()
            gaps = [Gap(*row) for row in connection.execute(sql.GAPS)]
            rows = connection.execute(_LINKS)
            links = (Link(row[0], text(row[0], row[1:-1]), row[-1]) for row in rows)
            return verify(links, gaps, sidecar=sidecar, noted=noted, least=sealed)

    def verify_sums(self) -> list[tuple[str, str]]:
        """Seal every chunk of records again; what of its items isn't as it should be.

        Chunks some of whose records were deleted after their time are passed over.
        """
        found: list[tuple[str, str]] = []
        after = 0
        with self._opened() as connection:
            while chunks := connection.execute(_WHOLE_CHUNKS, (after, SPAN)).fetchall():
                for first, last in chunks:
                    found += misfits(*_chunk(connection, first, last))
                    if len(found) >= MAX_FINDINGS:
                        return found[:MAX_FINDINGS]
                after = chunks[-1][0]
        return found

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        if not self._path.is_file():
            raise LedgerFileError(f"there is no outbox at {self._path}")
        uri = f"{self._path.absolute().as_uri()}?mode=ro"
        try:
            with closing(
                sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None)
            ) as opened:
                _check(opened, self._path)
                yield opened
        except sqlite3.Error as error:
            raise LedgerFileError(f"can't read {self._path}: {error}") from None


def _check(connection: sqlite3.Connection, path: Path) -> None:
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if owner != sql.APPLICATION_ID:
        raise LedgerFileError(f"{path} is not an outbox")
    if version != sql.SCHEMA_VERSION:
        raise LedgerFileError(
            f"{path} has schema version {version}, this program knows {sql.SCHEMA_VERSION}"
        )


def _span(connection: sqlite3.Connection, sidecar: str, wanted: Filter, after: int) -> list[Entry]:
    with _one_moment(connection):
        sealed_seq = connection.execute(_EXTENT).fetchone()[1]
        rows = connection.execute(_RECORDS, _values(wanted, after, after + SPAN)).fetchall()
        stored = _stored(connection, after, after + SPAN) if rows else []
    items = Items(stored)
    entries = []
    for seq, *row in rows:
        record = record_of(row)
        of_record = items.of(seq, record)
        states = frozenset(one.state for one in of_record)
        state = delivery(record, sealed=seq <= sealed_seq, item_states=states)
        if wanted.state in (None, state):
            ids = tuple(one.item.id for one in of_record)
            entries.append(Entry(seq, sidecar, record, state, ids))
    return entries


def _chunk(
    connection: sqlite3.Connection, first: int, last: int
) -> tuple[list[tuple[int, UsageRecord]], list[StoredItem]]:
    with _one_moment(connection):
        rows = connection.execute(_RECORDS, _values(Filter(), first - 1, last)).fetchall()
        stored = _stored(connection, first - 1, last)
    if rows and (rows[0][0], rows[-1][0]) != (first, last):
        return [], []  # it was deleted meanwhile
    return [(row[0], record_of(row[1:])) for row in rows], stored if rows else []


def _stored(connection: sqlite3.Connection, after: int, until: int) -> list[StoredItem]:
    rows = connection.execute(_ITEMS_OF, {"after": after, "until": until})
    return [StoredItem(SealedItem(*row[:-2]), row[-2], row[-1]) for row in rows]


def _values(wanted: Filter, after: int, until: int) -> dict[str, str | int | None]:
    return {
        "after": after,
        "until": until,
        "user": wanted.user,
        "model": wanted.model,
        "since": wanted.since_ms,
        "before": wanted.until_ms,
        "provenance": wanted.provenance,
        "outcome": wanted.outcome,
    }


@contextmanager
def _one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")
