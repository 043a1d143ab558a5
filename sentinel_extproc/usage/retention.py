"""Deleting records that are billed: the oldest first, never one that isn't, and never silently:
the chain keeps a gap for what is gone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from sentinel_extproc.usage import sql


def prune(
    connection: sqlite3.Connection,
    limit: int,
    done_before_ms: int | None,
    before: Callable[[], None] = lambda: None,
) -> int:
    """Delete up to ``limit`` records of the oldest chunk that may go; how many.

    Call it within a transaction.

    Args:
        done_before_ms: only of a chunk that was acknowledged before; None: of any that was.
        before: called before any is deleted; what it raises keeps them.
    """
    run = connection.execute
    row = run(sql.RETAINED).fetchone()
    if row is None:
        return 0
    chunk, first, last, done_ms = row
    if done_before_ms is not None and done_ms > done_before_ms:
        return 0
    end = min(last, first + limit - 1)
    if end >= first:
        before()
        (hash_of_end,) = run(sql.HASH_OF, (end,)).fetchone()
        run(sql.DELETE_RECORDS, (first, end))
        _add_gap(connection, first, end, hash_of_end)
    if end < last:
        run(sql.SHRINK_CHUNK, (end + 1, chunk))
    else:
        run(sql.DELETE_ITEMS, (chunk,))
        run(sql.DELETE_CHUNK, (chunk,))
    return int(end - first + 1)


def _add_gap(connection: sqlite3.Connection, first: int, last: int, last_hash: bytes) -> None:
    """Merged with its neighbours, so that there are never more gaps than runs of held records."""
    run = connection.execute
    before = run(sql.GAP_BEFORE, (first - 1,)).fetchall()
    if before:
        first = before[0][0]
    after = run(sql.GAP_AFTER, (last + 1,)).fetchone()
    if after is not None:
        run(sql.WIDEN_GAP, (first, after[0]))
    else:
        run(sql.ADD_GAP, (last, first, last_hash))
