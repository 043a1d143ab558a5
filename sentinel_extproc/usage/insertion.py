"""Putting records into the table: numbered, chained, and in as few steps of SQLite as can be."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from sentinel_extproc.usage import chain, sql
from sentinel_extproc.usage.chain import Head
from sentinel_extproc.usage.rows import Row

_LARGEST = 256
"""Rows of one statement: 28 values each, and SQLite takes 32,766."""

_STATEMENTS = {1 << power: sql.append(1 << power) for power in range(_LARGEST.bit_length())}


def insert(connection: sqlite3.Connection, head: Head, rows: Sequence[Row]) -> Head:
    """Insert records behind ``head``; the new head.

    Every step of SQLite gives the GIL away, and on a busy process getting it back can take
    milliseconds. So many rows go into one statement, by powers of two, so that the statements can
    be kept compiled. More than one needs a transaction around it: see ``is_one_statement``.

    Raises:
        sqlite3.IntegrityError: an id is there already, or a value has the wrong type.
    """
    head, hashes = chain.extend(head, rows)
    first = head.seq - len(rows) + 1
    place = 0
    while place < len(rows):
        size = min(_LARGEST, 1 << ((len(rows) - place).bit_length() - 1))
        values: list[str | int | bytes | None] = []
        for index in range(place, place + size):
            values += (first + index, *rows[index], hashes[index])
        connection.execute(_STATEMENTS[size], values)
        place += size
    return head


def is_one_statement(count: int) -> bool:
    """Whether so many records are inserted by a single statement, which is a transaction itself."""
    return count in _STATEMENTS
