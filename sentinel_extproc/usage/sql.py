"""Every SQL statement of the outbox, with its name and a sentence.

The schema, version 2:

- ``ledger``, one row: ``sidecar`` (UUIDv7, made with the file), ``name`` (configured),
  ``sealed_seq``: records up to it are sealed, or came to nothing.
- ``records``: one exchange each, by ``seq``: 1, 2, 3 without a gap, in the order of commits.
  ``hash`` chains them (module ``chain``). An ``outcome`` of ``unknown`` is an exchange that nobody
  saw the end of: it is never billed. Rows never change.
- ``chunks``: a run of records that were sealed together, ``n`` (its first seq) to ``last_seq``;
  ``rest_seq`` is the first that is still here; ``open`` is how many of its items aren't
  acknowledged; ``done_ms`` is when that became 0. Then its records are *retained* for audit, until
  they are too old or room is needed: oldest first, and never while ``open`` isn't 0.
- ``items``: sums of records, which Zion bills. An item sums the records from ``first_seq`` to
  ``last_seq`` that have its user, email, model (served, or else requested) and UTC day; the view
  ``record_items`` joins them. ``state``: ``ready``, ``sent``, ``handed`` (to the stream;
  ``batch`` is the number of the call), ``parked``, ``dead``, or ``done``: acknowledged, and kept
  with its chunk.
- ``gaps``: deleted runs of records and the hash of the last of each; neighbours are merged.
- ``counts``: kept by triggers, so that nothing has to be counted: items by state, ``retained``
  records; and ``unknown`` records ever.

``seq`` is the truth about order. Times are for people, days and ages: clocks step.
"""

from __future__ import annotations

APPLICATION_ID = 0x53454E54  # "SENT", in the file's header
SCHEMA_VERSION = 2

DONE = "done"
"""State of acknowledged items; the queue doesn't see them."""

SCHEMA = """
CREATE TABLE ledger (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    sidecar TEXT NOT NULL,
    name TEXT,
    sealed_seq INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE records (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    occurred_at_ms INTEGER NOT NULL,
    external_id TEXT NOT NULL,
    email TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model_requested TEXT NOT NULL,
    model_served TEXT,
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    audio_input_tokens INTEGER NOT NULL,
    audio_output_tokens INTEGER NOT NULL,
    image_input_tokens INTEGER NOT NULL,
    image_output_tokens INTEGER NOT NULL,
    accepted_prediction_tokens INTEGER NOT NULL,
    rejected_prediction_tokens INTEGER NOT NULL,
    provenance TEXT NOT NULL,
    outcome TEXT NOT NULL,
    cost_nanos INTEGER,
    currency TEXT,
    request_id TEXT,
    origin TEXT,
    predicted_input_tokens INTEGER,
    reserved_output_tokens INTEGER,
    hash BLOB NOT NULL
) STRICT;

CREATE TABLE gaps (
    last_seq INTEGER PRIMARY KEY,
    first_seq INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;

CREATE TABLE chunks (
    n INTEGER PRIMARY KEY,
    last_seq INTEGER NOT NULL,
    rest_seq INTEGER NOT NULL,
    open INTEGER NOT NULL,
    done_ms INTEGER
) STRICT;
CREATE INDEX chunks_done ON chunks (n) WHERE open = 0;

CREATE TABLE items (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    external_id TEXT NOT NULL,
    email TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    records INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'ready',
    batch TEXT,
    refusals INTEGER NOT NULL DEFAULT 0,
    due_ms INTEGER NOT NULL DEFAULT 0,
    reason TEXT
) STRICT;
CREATE INDEX items_by_state ON items (state, n);
CREATE INDEX items_by_chunk ON items (chunk);
CREATE INDEX items_due ON items (n) WHERE due_ms > 0;

CREATE TABLE counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO counts VALUES
    ('ready', 0), ('sent', 0), ('handed', 0), ('parked', 0), ('dead', 0), ('done', 0),
    ('retained', 0), ('unknown', 0);

CREATE TRIGGER item_added AFTER INSERT ON items BEGIN
    UPDATE counts SET value = value + 1 WHERE name = NEW.state;
END;
CREATE TRIGGER item_moved AFTER UPDATE OF state ON items WHEN NEW.state <> OLD.state BEGIN
    UPDATE counts SET value = value + iif(name = NEW.state, 1, -1)
    WHERE name IN (NEW.state, OLD.state);
END;
CREATE TRIGGER item_gone AFTER DELETE ON items BEGIN
    UPDATE counts SET value = value - 1 WHERE name = OLD.state;
END;
CREATE TRIGGER chunk_added AFTER INSERT ON chunks WHEN NEW.open = 0 BEGIN
    UPDATE counts SET value = value + NEW.last_seq - NEW.rest_seq + 1 WHERE name = 'retained';
END;
CREATE TRIGGER chunk_changed AFTER UPDATE OF open, rest_seq ON chunks BEGIN
    UPDATE counts SET value = value
        + iif(NEW.open = 0, NEW.last_seq - NEW.rest_seq + 1, 0)
        - iif(OLD.open = 0, OLD.last_seq - OLD.rest_seq + 1, 0)
    WHERE name = 'retained';
END;
CREATE TRIGGER chunk_gone AFTER DELETE ON chunks WHEN OLD.open = 0 BEGIN
    UPDATE counts SET value = value - (OLD.last_seq - OLD.rest_seq + 1) WHERE name = 'retained';
END;

CREATE VIEW record_items AS
SELECT records.seq AS seq, items.id AS item, items.state AS state
FROM records JOIN items
    ON items.chunk = (SELECT max(chunks.n) FROM chunks WHERE chunks.n <= records.seq)
    AND records.seq BETWEEN items.first_seq AND items.last_seq
    AND records.external_id = items.external_id
    AND records.email = items.email
    AND coalesce(nullif(records.model_served, ''), records.model_requested) = items.model
    AND records.occurred_at_ms / 86400000 = items.first_ms / 86400000
WHERE records.outcome <> 'unknown';
"""

RECORD_COLUMNS = """id, occurred_at_ms, external_id, email, endpoint, model_requested, model_served,
    requests, input_tokens, output_tokens, cached_input_tokens, reasoning_tokens,
    audio_input_tokens, audio_output_tokens, image_input_tokens, image_output_tokens,
    accepted_prediction_tokens, rejected_prediction_tokens, provenance, outcome, cost_nanos,
    currency, request_id, origin, predicted_input_tokens, reserved_output_tokens"""
"""Of a record, after ``seq``; the chain's hashes go by this order, so it never changes within a
schema version."""

ITEM_COLUMNS = """id, external_id, email, model, input_tokens, output_tokens, requests, records,
    first_ms, last_ms, first_seq, last_seq"""


def append(count: int) -> str:
    """Insert so many records, every value a parameter: seq, the columns, hash."""
    row = f"({', '.join('?' * (RECORD_COLUMNS.count(',') + 3))})"
    return f"INSERT INTO records (seq, {RECORD_COLUMNS}, hash) VALUES {', '.join([row] * count)}"  # noqa: S608


# Which of these ids are here already.
KNOWN = "SELECT id FROM records WHERE id IN (SELECT value FROM json_each(?))"

# Who we are.
BEGIN_LEDGER = "INSERT INTO ledger (one, sidecar) VALUES (1, ?)"
LEDGER = "SELECT sidecar, name, sealed_seq FROM ledger"
NAME_LEDGER = "UPDATE ledger SET name = ? WHERE name IS NOT ?"

# The end of the chain, which may have been deleted.
HEAD = """
SELECT seq, hash FROM (
    SELECT seq, hash FROM (SELECT seq, hash FROM records ORDER BY seq DESC LIMIT 1)
    UNION ALL
    SELECT last_seq, hash FROM (SELECT last_seq, hash FROM gaps ORDER BY last_seq DESC LIMIT 1)
) ORDER BY seq DESC LIMIT 1
"""

# The oldest records that are not sealed yet: from and to, and how many.
UNSEALED = """
SELECT min(seq), max(seq), count(*) FROM (
    SELECT seq FROM records WHERE seq > (SELECT sealed_seq FROM ledger) ORDER BY seq LIMIT ?
)
"""

# What sealing needs of records from and to, but for those that are never billed.
LINES = """
SELECT external_id, email, coalesce(nullif(model_served, ''), model_requested),
    occurred_at_ms / 86400000, seq, occurred_at_ms, input_tokens, output_tokens, requests
FROM records WHERE seq BETWEEN ? AND ? AND outcome <> 'unknown' ORDER BY seq
"""

# Everything after a record, for whoever walks the chain.
RECORDS = f"""
SELECT seq, {RECORD_COLUMNS}, hash FROM records WHERE seq > ? ORDER BY seq LIMIT ?
"""  # noqa: S608

GAPS = "SELECT first_seq, last_seq, hash FROM gaps ORDER BY last_seq"

# Records up to here are sealed; nothing changes if somebody else sealed in between.
SEAL = "UPDATE ledger SET sealed_seq = ? WHERE sealed_seq = ?"

ADD_CHUNK = "INSERT INTO chunks (n, last_seq, rest_seq, open, done_ms) VALUES (?1, ?2, ?1, ?3, ?4)"

ADD_ITEM = f"""
INSERT INTO items ({ITEM_COLUMNS}, chunk) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""  # noqa: S608

# Items that Zion refused before and that are due again; the + keeps SQLite from walking all that
# is ready instead of the few that have a due time.
REFUSED_AND_DUE = f"""
SELECT {ITEM_COLUMNS}, refusals FROM items
WHERE +state = 'ready' AND due_ms > 0 AND due_ms <= ?
    AND id NOT IN (SELECT value FROM json_each(?))
ORDER BY n LIMIT ?
"""  # noqa: S608

# The newest items that may be sent now.
NEWEST = f"""
SELECT {ITEM_COLUMNS}, refusals FROM items
WHERE state = 'ready' AND due_ms = 0 AND id NOT IN (SELECT value FROM json_each(?))
ORDER BY n DESC LIMIT ?
"""  # noqa: S608

# The oldest items that may be sent now.
OLDEST = f"""
SELECT {ITEM_COLUMNS}, refusals FROM items
WHERE state = 'ready' AND due_ms = 0 AND id NOT IN (SELECT value FROM json_each(?))
ORDER BY n LIMIT ?
"""  # noqa: S608

# Mark items as sent right before they are, so that a crash leaves a trace.
SENDING = """
UPDATE items SET state = 'sent', batch = ? WHERE id IN (SELECT value FROM json_each(?))
"""

# Items whose batch nobody settled, batch by batch, in the order they were sent.
SENT = f"""
SELECT {ITEM_COLUMNS}, refusals, batch FROM items WHERE state = 'sent' ORDER BY batch, n
"""  # noqa: S608

# Mark items as handed to the stream, by the call with this number, right before it.
HANDING = """
UPDATE items SET state = 'handed', batch = ? WHERE id IN (SELECT value FROM json_each(?))
"""

# What was handed to the stream and not heard of since, and by which call.
HANDED = """
SELECT n, id, CAST(batch AS INTEGER) FROM items WHERE state = 'handed' AND n > ?
ORDER BY n LIMIT ?
"""
LAST_HANDING = "SELECT coalesce(max(CAST(batch AS INTEGER)), 0) FROM items WHERE state = 'handed'"

# There is no stream any more: for all that is known these were sent, in batches of half a thousand.
UNHAND = "UPDATE items SET state = 'sent', batch = 'handed ' || (n / 500) WHERE state = 'handed'"

# Count off, chunk by chunk, items that are about to be marked as billed.
CLOSE = """
UPDATE chunks SET open = open - closed, done_ms = iif(open = closed, ?2, NULL)
FROM (
    SELECT chunk AS of_chunk, count(*) AS closed FROM items
    WHERE state <> 'done' AND id IN (SELECT value FROM json_each(?1)) GROUP BY chunk
)
WHERE n = of_chunk
"""

# Mark billed items.
ACKNOWLEDGE = """
UPDATE items SET state = 'done', batch = NULL
WHERE state <> 'done' AND id IN (SELECT value FROM json_each(?))
"""

# The oldest run of records of which every item is billed.
RETAINED = """
SELECT n, rest_seq, last_seq, done_ms FROM chunks WHERE open = 0 ORDER BY n LIMIT 1
"""

# Delete records from and to.
DELETE_RECORDS = "DELETE FROM records WHERE seq BETWEEN ? AND ?"
HASH_OF = "SELECT hash FROM records WHERE seq = ?"

# Some of a chunk's records are deleted; all of them.
SHRINK_CHUNK = "UPDATE chunks SET rest_seq = ? WHERE n = ?"
DELETE_CHUNK = "DELETE FROM chunks WHERE n = ?"
DELETE_ITEMS = "DELETE FROM items WHERE chunk = ?"

# Remember a deleted run: what it follows directly, what follows it directly, itself.
GAP_BEFORE = "DELETE FROM gaps WHERE last_seq = ? RETURNING first_seq"
GAP_AFTER = "SELECT last_seq FROM gaps WHERE first_seq = ?"
WIDEN_GAP = "UPDATE gaps SET first_seq = ? WHERE last_seq = ?"
ADD_GAP = "INSERT INTO gaps (last_seq, first_seq, hash) VALUES (?, ?, ?)"

# Send these again.
AGAIN = """
UPDATE items SET state = 'ready', batch = NULL
WHERE state IN ('sent', 'handed') AND id IN (SELECT value FROM json_each(?))
"""

# Zion refused an item: try again later, or never.
REFUSE = """
UPDATE items SET state = ?, batch = NULL, refusals = refusals + 1, due_ms = ?, reason = ?
WHERE state IN ('sent', 'handed') AND id = ?
"""

# Nobody knows whether these were billed, and a person is to decide.
PARK = """
UPDATE items SET state = 'parked', batch = NULL, reason = 'the answer was lost'
WHERE state IN ('sent', 'handed') AND id IN (SELECT value FROM json_each(?))
"""

# Parked items and dead letters, oldest first; an index search for each state.
HELD = f"""
SELECT {ITEM_COLUMNS}, state, reason, n FROM items
WHERE state IN ('parked', 'dead') AND n > ? ORDER BY n LIMIT ?
"""  # noqa: S608

# A person decided: try these held items again, from the start.
REPLAY = """
UPDATE items SET state = 'ready', refusals = 0, due_ms = 0, reason = NULL
WHERE state IN ('parked', 'dead') AND id IN (SELECT value FROM json_each(?))
"""

# Due times are of a monotonic clock that means nothing to a new process.
RESET_DUE = "UPDATE items SET due_ms = 0 WHERE due_ms > 0"

COUNTS = "SELECT name, value FROM counts"
COUNT_UNKNOWN = "UPDATE counts SET value = value + ? WHERE name = 'unknown'"

OLDEST_UNSEALED = """
SELECT occurred_at_ms FROM records
WHERE seq > (SELECT sealed_seq FROM ledger) ORDER BY seq LIMIT 1
"""
OLDEST_ITEM = "SELECT first_ms FROM items WHERE state = ? ORDER BY n LIMIT 1"
