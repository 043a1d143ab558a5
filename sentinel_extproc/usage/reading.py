"""Reading the outbox beside its writer: in WAL mode a reader holds nobody up.

Every function opens the file read-only for itself, so it may run on any thread. All raise
``sqlite3.Error``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sentinel_extproc.usage import sql
from sentinel_extproc.usage.item_queue import Backlog, HeldItem, ItemState
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.sealing import SealedItem


def unsealed(path: Path, limit: int) -> list[tuple[int, UsageRecord]]:
    """The oldest records that no item bills yet, with their ``seq``."""
    with _reading(path) as connection:
        rows = connection.execute(sql.UNSEALED, (limit,)).fetchall()
    return [(row[0], _record(row[1:])) for row in rows]


def backlog(path: Path) -> Backlog:
    """What is still on its way. Counts, so it takes a second or so for millions of records."""
    items = dict.fromkeys(ItemState, 0)
    with _reading(path) as connection:
        for state, count in connection.execute(sql.COUNT_ITEMS):
            items[ItemState(state)] = count
        (records,) = connection.execute(sql.COUNT_UNSEALED).fetchone()
        oldest = [
            row[0]
            for statement in (sql.OLDEST_UNSEALED, sql.OLDEST_ITEM)
            for row in connection.execute(statement)
        ]
    return Backlog(records=records, items=items, oldest_ms=min(oldest, default=None))


def held(path: Path, limit: int, after: int) -> list[HeldItem]:
    """Parked items and dead letters whose position is beyond ``after``, oldest first."""
    with _reading(path) as connection:
        rows = connection.execute(sql.HELD, (after, limit)).fetchall()
    return [
        HeldItem(
            position=row[13], item=SealedItem(*row[:11]), state=ItemState(row[11]), reason=row[12]
        )
        for row in rows
    ]


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
    try:
        connection.execute("BEGIN")  # one snapshot for all that is read
        yield connection
    finally:
        connection.close()


def _record(row: Sequence[str | int | None]) -> UsageRecord:
    return UsageRecord(
        id=str(row[0]),
        occurred_at_ms=int(row[1] or 0),
        external_id=str(row[2]),
        email=str(row[3]),
        endpoint=str(row[4]),
        model_requested=str(row[5]),
        model_served=None if row[6] is None else str(row[6]),
        requests=int(row[7] or 0),
        usage=TokenUsage(*(int(value or 0) for value in row[8:14])),
        provenance=Provenance(str(row[14])),
        outcome=Outcome(str(row[15])),
    )
