"""Every SQL statement of the outbox, with its name and a sentence."""

from __future__ import annotations

APPLICATION_ID = 0x53454E54  # "SENT", in the file's header
SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
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
    provenance TEXT NOT NULL,
    outcome TEXT NOT NULL,
    item_group TEXT
) STRICT;
CREATE INDEX records_unsealed ON records (seq) WHERE item_group IS NULL;
CREATE INDEX records_by_group ON records (item_group) WHERE item_group IS NOT NULL;

CREATE TABLE items (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    item_group TEXT NOT NULL,
    external_id TEXT NOT NULL,
    email TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    records INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'ready',
    batch TEXT,
    refusals INTEGER NOT NULL DEFAULT 0,
    due_ms INTEGER NOT NULL DEFAULT 0,
    reason TEXT
) STRICT;
CREATE TABLE released (item_group TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE INDEX items_by_state ON items (state, n);
CREATE INDEX items_by_group ON items (item_group);
"""

RECORD_COLUMNS = """id, occurred_at_ms, external_id, email, endpoint, model_requested, model_served,
    requests, input_tokens, output_tokens, cached_input_tokens, reasoning_tokens,
    audio_input_tokens, audio_output_tokens, provenance, outcome"""

ITEM_COLUMNS = """id, item_group, external_id, email, model, input_tokens, output_tokens, requests,
    records, first_ms, last_ms"""

# A whole group in one statement: every step of SQLite gives the GIL away, and on a busy process
# getting it back can take milliseconds. An id that is there already is left as it is.
APPEND = f"""
INSERT INTO records ({RECORD_COLUMNS})
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
    json_extract(value, '$[6]'), json_extract(value, '$[7]'), json_extract(value, '$[8]'),
    json_extract(value, '$[9]'), json_extract(value, '$[10]'), json_extract(value, '$[11]'),
    json_extract(value, '$[12]'), json_extract(value, '$[13]'), json_extract(value, '$[14]'),
    json_extract(value, '$[15]')
FROM json_each(?) WHERE true
ON CONFLICT (id) DO NOTHING
"""  # noqa: S608

# The oldest records that no item bills yet.
UNSEALED = f"""
SELECT seq, {RECORD_COLUMNS} FROM records WHERE item_group IS NULL ORDER BY seq LIMIT ?
"""  # noqa: S608

# Say which group of items bills which record; pairs of seq and group.
SEAL = """
UPDATE records SET item_group = json_extract(sealed.value, '$[1]')
FROM json_each(?) AS sealed
WHERE seq = json_extract(sealed.value, '$[0]') AND item_group IS NULL
"""

# Forget records that come to nothing.
FORGET = """
DELETE FROM records WHERE seq IN (SELECT value FROM json_each(?)) AND item_group IS NULL
"""

ADD_ITEM = f"INSERT INTO items ({ITEM_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608

# The oldest items that may be sent now.
READY = f"""
SELECT {ITEM_COLUMNS}, refusals FROM items WHERE state = 'ready' AND due_ms <= ? ORDER BY n LIMIT ?
"""  # noqa: S608

# Mark items as sent before they are, so that a crash leaves a trace.
CLAIM = """
UPDATE items SET state = 'sent', batch = ? WHERE id IN (SELECT value FROM json_each(?))
"""

# Items whose batch nobody settled, batch by batch, in the order they were sent.
SENT = f"""
SELECT {ITEM_COLUMNS}, refusals, batch FROM items WHERE state = 'sent' ORDER BY batch, n
"""  # noqa: S608

# Groups of which these items are a part.
GROUPS = "SELECT DISTINCT item_group FROM items WHERE id IN (SELECT value FROM json_each(?))"

# Delete billed items.
ACKNOWLEDGE = "DELETE FROM items WHERE id IN (SELECT value FROM json_each(?))"

# Remember groups of which every item is billed: their records can go.
RELEASE = """
INSERT OR IGNORE INTO released (item_group)
SELECT value FROM json_each(?)
WHERE NOT EXISTS (SELECT 1 FROM items WHERE items.item_group = value)
"""

# Delete some records of released groups; all at once could hold up appends for too long.
SWEEP = """
DELETE FROM records WHERE seq IN (
    SELECT seq FROM released CROSS JOIN records USING (item_group) LIMIT ?
)
"""

# Every record of every released group is deleted.
SWEPT = "DELETE FROM released"

# Send these again.
AGAIN = """
UPDATE items SET state = 'ready', batch = NULL
WHERE state = 'sent' AND id IN (SELECT value FROM json_each(?))
"""

# Zion refused an item: try again later, or never.
REFUSE = """
UPDATE items SET state = ?, batch = NULL, refusals = refusals + 1, due_ms = ?, reason = ?
WHERE state = 'sent' AND id = ?
"""

# Nobody knows whether these were billed, and a person is to decide.
PARK = """
UPDATE items SET state = 'parked', batch = NULL, reason = 'the answer was lost'
WHERE state = 'sent' AND id IN (SELECT value FROM json_each(?))
"""

# Parked items and dead letters, oldest first.
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

COUNT_UNSEALED = "SELECT count(*) FROM records WHERE item_group IS NULL"
COUNT_ITEMS = "SELECT state, count(*) FROM items GROUP BY state"

OLDEST_UNSEALED = "SELECT occurred_at_ms FROM records WHERE item_group IS NULL ORDER BY seq LIMIT 1"
OLDEST_ITEM = "SELECT first_ms FROM items WHERE state IN ('ready', 'sent') ORDER BY n LIMIT 1"
