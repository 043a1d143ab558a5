"""Making an outbox's tables, and bringing those of an earlier version up to date in place.

Call these within a transaction: a migration is done, or the file is as it was.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping

from sentinel_extproc.usage import chain, sql
from sentinel_extproc.usage.insertion import insert

logger = logging.getLogger(__name__)

_BATCH = 1000


def create(connection: sqlite3.Connection, sidecar: str) -> None:
    """Make the tables of a new outbox."""
    for statement in _statements(sql.SCHEMA):
        connection.execute(statement)
    connection.execute(sql.BEGIN_LEDGER, (sidecar,))


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for part in script.split(";"):
        statement += part + ";"
        if sqlite3.complete_statement(statement):  # a trigger has semicolons inside
            yield statement
            statement = ""


_V1_RECORDS = """
SELECT seq, id, occurred_at_ms, external_id, email, endpoint, model_requested, model_served,
    requests, input_tokens, output_tokens, cached_input_tokens, reasoning_tokens,
    audio_input_tokens, audio_output_tokens, 0, 0, 0, 0, provenance, outcome,
    NULL, NULL, NULL, NULL, NULL, NULL
FROM records_v1 WHERE (item_group IS NOT NULL) = ? AND seq > ? ORDER BY seq LIMIT ?
"""
_V1_MOVED = "DELETE FROM records_v1 WHERE (item_group IS NOT NULL) = ? AND seq <= ?"
_V1_BILLED = "DELETE FROM records_v1 WHERE item_group IN (SELECT item_group FROM released)"
_V1_ITEMS = """
INSERT INTO items (n, id, external_id, email, model, input_tokens, output_tokens, requests, records,
    first_ms, last_ms, first_seq, last_seq, chunk, state, batch, refusals, due_ms, reason)
SELECT n, id, external_id, email, model, input_tokens, output_tokens, requests, records,
    first_ms, last_ms, ?1, ?2, ?1, state, batch, refusals, due_ms, reason
FROM items_v1
"""


def _from_1(connection: sqlite3.Connection, sidecar: str) -> None:
    run = connection.execute
    for index in ("records_unsealed", "records_by_group", "items_by_state", "items_by_group"):
        run(f"DROP INDEX {index}")
    run("ALTER TABLE records RENAME TO records_v1")
    run("ALTER TABLE items RENAME TO items_v1")
    create(connection, sidecar)
    run(_V1_BILLED)
    head = _move(connection, chain.start(sidecar), sealed=True)
    sealed = head.seq
    (items,) = run("SELECT count(*) FROM items_v1").fetchone()
    # What was sealed comes first, in one chunk, which is done when all old items are.
    if sealed:
        run(sql.ADD_CHUNK, (1, sealed, items, None if items else 0))
    elif items:
        run(sql.ADD_CHUNK, (0, -1, items, None))
    run(_V1_ITEMS, (1 if sealed else 0, sealed))
    run("UPDATE ledger SET sealed_seq = ?", (sealed,))
    head = _move(connection, head, sealed=False)
    for table in ("records_v1", "items_v1", "released"):
        run(f"DROP TABLE {table}")
    logger.warning("the outbox was of version 1: %d records, %d items kept", head.seq, items)


def _move(connection: sqlite3.Connection, head: chain.Head, *, sealed: bool) -> chain.Head:
    """Copy old records in batches, and free the room of each for the next."""
    run = connection.execute
    last = 0
    while rows := run(_V1_RECORDS, (sealed, last, _BATCH)).fetchall():
        last = rows[-1][0]
        head = insert(connection, head, [row[1:] for row in rows])
        run(_V1_MOVED, (sealed, last))
    return head


FROM: Mapping[int, Callable[[sqlite3.Connection, str], None]] = {1: _from_1}
"""By the version that the file has."""
