"""Choosing the items to send next, in SQLite: a look at either end of the queue, and no scan."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

import msgspec

from sentinel_extproc.usage import sql
from sentinel_extproc.usage.item_queue import QueuedItem
from sentinel_extproc.usage.priority import Shares, Urgency
from sentinel_extproc.usage.sealing import SealedItem


def choose(
    connection: sqlite3.Connection,
    shares: Shares,
    limit: int,
    *,
    now_ms: int,
    fresh_ms: int,
    claimed: Collection[str],
) -> list[QueuedItem]:
    """Up to ``limit`` items that are ready and due, by their urgency; it changes nothing.

    Args:
        now_ms: of the clock that due times go by.
        fresh_ms: usage since then is fresh, milliseconds since the epoch.
        claimed: ids that are taken.
    """
    taken = msgspec.json.encode(list(claimed)).decode()
    settlements = _items(connection, sql.REFUSED_AND_DUE, (now_ms, taken, limit))
    newest = _items(connection, sql.NEWEST, (taken, limit))
    fresh = [queued for queued in newest if queued.item.last_ms >= fresh_ms]
    known = {queued.item.id for queued in fresh}
    # Whatever is not among the newest; times may lie, so they don't decide whether it is sent.
    oldest = _items(connection, sql.OLDEST, (taken, limit))
    backlog = [queued for queued in oldest if queued.item.id not in known]
    ready = {Urgency.SETTLEMENT: settlements, Urgency.FRESH: fresh, Urgency.BACKLOG: backlog}
    places = shares.divide(limit, {urgency: len(items) for urgency, items in ready.items()})
    return [queued for urgency in Urgency for queued in ready[urgency][: places[urgency]]]


def _items(
    connection: sqlite3.Connection, statement: str, parameters: tuple[int | str, ...]
) -> list[QueuedItem]:
    rows = connection.execute(statement, parameters)
    return [QueuedItem(SealedItem(*row[:-1]), row[-1]) for row in rows]
