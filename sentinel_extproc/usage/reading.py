"""Reading the outbox beside its writer: in WAL mode a reader holds nobody up.

Every function opens the file read-only for itself, so it may run on any thread. All raise
``sqlite3.Error``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sentinel_extproc.usage import chain, sql
from sentinel_extproc.usage.chain import Gap, Head, Link
from sentinel_extproc.usage.item_queue import Backlog, HandedItem, HeldItem, ItemState
from sentinel_extproc.usage.record import UsageRecord
from sentinel_extproc.usage.rows import record_of
from sentinel_extproc.usage.sealing import Line, SealedItem


@dataclass(frozen=True, slots=True)
class LedgerState:
    """One outbox at one moment.

    Attributes:
        sidecar: UUIDv7, made with the file; ``name`` is what the operator calls it.
        head: the end of its chain.
        unsealed: records that no item bills yet.
        retained: records that are billed, and kept for audit.
        unknown: exchanges ever that nobody saw the end of.
        items: by state as in the table; ``sql.DONE`` are acknowledged ones.
    """

    sidecar: str
    name: str | None
    head: Head
    unsealed: int
    retained: int
    unknown: int
    items: dict[str, int]


@dataclass(frozen=True, slots=True)
class Unsealed:
    """A run of records that no item bills yet.

    Attributes:
        first, last: their numbers, from and to.
        count: how many they are.
        lines: of those that are to be billed.
    """

    first: int
    last: int
    count: int
    lines: list[Line]


def unsealed(path: Path, limit: int) -> Unsealed | None:
    """The oldest records that no item bills yet; None when there are none."""
    with _reading(path) as connection:
        first, last, count = connection.execute(sql.UNSEALED, (limit,)).fetchone()
        if not count:
            return None
        return Unsealed(first, last, count, connection.execute(sql.LINES, (first, last)).fetchall())


def records(path: Path, limit: int, after: int) -> list[tuple[Link, UsageRecord]]:
    """Records whose ``seq`` is beyond ``after``, in order, and what the chain knows of them."""
    with _reading(path) as connection:
        rows = connection.execute(sql.RECORDS, (after, limit)).fetchall()
    return [
        (Link(row[0], chain.text(row[0], row[1:-1]), row[-1]), record_of(row[1:-1])) for row in rows
    ]


def gaps(path: Path) -> list[Gap]:
    """The runs of records that were deleted after they had been billed."""
    with _reading(path) as connection:
        return [Gap(*row) for row in connection.execute(sql.GAPS)]


def ledger(path: Path) -> LedgerState:
    """Whose it is, and how it stands: counts that are kept, so it takes no time."""
    with _reading(path) as connection:
        return _ledger(connection)


def backlog(path: Path) -> Backlog:
    """What is still on its way; counts that are kept, so it takes no time."""
    with _reading(path) as connection:
        state = _ledger(connection)
        oldest = [
            row[0]
            for statement, values in (
                (sql.OLDEST_UNSEALED, ()),
                (sql.OLDEST_ITEM, (ItemState.READY.value,)),
                (sql.OLDEST_ITEM, (ItemState.SENT.value,)),
                (sql.OLDEST_ITEM, (ItemState.HANDED.value,)),
            )
            for row in connection.execute(statement, values)
        ]
    items = {kind: state.items.get(kind.value, 0) for kind in ItemState}
    return Backlog(state.unsealed, items, min(oldest, default=None))


def _ledger(connection: sqlite3.Connection) -> LedgerState:
    run = connection.execute
    sidecar, name, sealed = run(sql.LEDGER).fetchone()
    head = run(sql.HEAD).fetchone()
    counts = dict(run(sql.COUNTS).fetchall())
    retained, unknown = counts.pop("retained"), counts.pop("unknown")
    last = Head(*head) if head else chain.start(sidecar)
    return LedgerState(sidecar, name, last, last.seq - sealed, retained, unknown, counts)


def held(path: Path, limit: int, after: int) -> list[HeldItem]:
    """Parked items and dead letters whose position is beyond ``after``, oldest first."""
    with _reading(path) as connection:
        rows = connection.execute(sql.HELD, (after, limit)).fetchall()
    return [
        HeldItem(
            position=row[14], item=SealedItem(*row[:12]), state=ItemState(row[12]), reason=row[13]
        )
        for row in rows
    ]


def handed(path: Path, limit: int, after: int) -> list[HandedItem]:
    """Items in the stream whose position is beyond ``after``, oldest first."""
    with _reading(path) as connection:
        return [HandedItem(*row) for row in connection.execute(sql.HANDED, (after, limit))]


def last_handing(path: Path) -> int:
    """The largest number of a call that handed over what is in the stream; 0 without any."""
    with _reading(path) as connection:
        return int(connection.execute(sql.LAST_HANDING).fetchone()[0])


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
    try:
        connection.execute("BEGIN")  # one snapshot for all that is read
        yield connection
    finally:
        connection.close()
