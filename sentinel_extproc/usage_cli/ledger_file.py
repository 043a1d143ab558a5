"""Reads an outbox from outside, beside a running sidecar or without one.

Read-only, and in short reads one after the other: a long one would keep SQLite from recycling its
log while the sidecar goes on writing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from sentinel_extproc.usage import reading, sql
from sentinel_extproc.usage.chain import Finding, Gap, Head, Link, text, verify
from sentinel_extproc.usage.item_queue import HeldItem, ItemState
from sentinel_extproc.usage.rows import record_of
from sentinel_extproc.usage_cli.columns import Entry, delivery, iso
from sentinel_extproc.usage_cli.filters import Filter
from sentinel_extproc.usage_cli.zion_ledger import MAX_FINDINGS, OwnItem

SPAN = 2000
"""Records looked at in one read."""

# A run of records with what became of them: without items they came to nothing, or aren't sealed.
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

_LINKS = f"SELECT seq, {sql.RECORD_COLUMNS}, hash FROM records ORDER BY seq"  # noqa: S608

_ITEMS = """
SELECT id, external_id, requests, input_tokens, output_tokens, state FROM items ORDER BY n
"""

# Each item beside the sums of its records, which are found as in the view record_items; not where
# some of them are deleted.
_SUMS = """
SELECT items.id, count(records.seq), ifnull(sum(records.requests), 0),
    ifnull(sum(records.input_tokens), 0), ifnull(sum(records.output_tokens), 0),
    items.records, items.requests, items.input_tokens, items.output_tokens
FROM items
JOIN chunks ON chunks.n = items.chunk AND chunks.rest_seq <= items.first_seq
LEFT JOIN records ON records.seq BETWEEN items.first_seq AND items.last_seq
    AND records.external_id = items.external_id
    AND records.email = items.email
    AND coalesce(nullif(records.model_served, ''), records.model_requested) = items.model
    AND records.occurred_at_ms / 86400000 = items.first_ms / 86400000
    AND records.outcome <> 'unknown'
GROUP BY items.n
"""
_AMOUNTS = "records, requests, input tokens, output tokens"


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
        items = {name: state.items.get(name, 0) for name in (*ItemState, sql.DONE)}
        items |= {name: count for name, count in state.items.items() if name not in items}
        return {
            "sidecar": state.sidecar,
            "name": state.name,
            "head": f"{state.head.seq}:{state.head.hash.hex()}",
            "records": state.head.seq,
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
        with self._opened() as connection, connection:
            connection.execute("BEGIN")
            sidecar = connection.execute(sql.LEDGER).fetchone()[0]
            gaps = [Gap(*row) for row in connection.execute(sql.GAPS)]
            rows = connection.execute(_LINKS)
            links = (Link(row[0], text(row[0], row[1:-1]), row[-1]) for row in rows)
            return verify(links, gaps, sidecar=sidecar, noted=noted)

    def verify_sums(self) -> list[tuple[str, str]]:
        """Items, by id, whose amounts aren't those of their records, and what they are.

        Items some of whose records were deleted after their time are passed over.
        """
        found: list[tuple[str, str]] = []
        with self._opened() as connection:
            for item_id, *numbers in connection.execute(_SUMS):
                summed, own = tuple(numbers[:4]), tuple(numbers[4:])
                # Where metrics are billed apart, an item has one of them.
                single = sum(map(bool, own[1:])) == 1
                right = own == summed or (
                    single and all(mine in (0, one) for mine, one in zip(own, summed, strict=True))
                )
                if not right:
                    found.append((item_id, f"{_AMOUNTS}: {own} instead of {summed}"))
                if len(found) >= MAX_FINDINGS:
                    break
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
