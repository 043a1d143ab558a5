"""The past in the order of its times, whatever its length: in a temporary file, not in memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from sentinel_extproc.frozen import value
from sentinel_extproc.usage.record import Outcome, UsageRecord

_BLOCK = 1000

_SCHEMA = """
PRAGMA journal_mode = OFF;
CREATE TABLE past (at INTEGER, user TEXT, endpoint TEXT, model TEXT, input INTEGER, output INTEGER);
CREATE TABLE refusals (policy INTEGER, user TEXT, name TEXT, at INTEGER, tokens INTEGER);
BEGIN;
"""

_EXTENT = "SELECT count(*), count(DISTINCT user), sum(input + output), min(at), max(at) FROM past"

_BY_LIMIT = """
SELECT name, count(*), sum(tokens), count(DISTINCT user) FROM refusals WHERE policy = ?
GROUP BY name ORDER BY 2 DESC, name
"""

_REFUSED_USERS = "SELECT count(DISTINCT user) FROM refusals WHERE policy = ?"

_WORST = """
SELECT user, total(policy = 1), total(policy = 0), min(CASE policy WHEN 1 THEN at END),
    group_concat(DISTINCT CASE policy WHEN 1 THEN name END)
FROM refusals GROUP BY user ORDER BY 2 DESC, 3 DESC, user LIMIT ?
"""

_REQUESTS = """
SELECT user, count(*) FROM past WHERE user IN (SELECT value FROM json_each(?)) GROUP BY user
"""


@value(frozen=True, slots=True)
class Past:
    """One request of the past: what policies go by, and what it used."""

    at_ms: int
    user: str
    endpoint: str
    model: str
    input_tokens: int
    output_tokens: int


def past_of(record: UsageRecord) -> Past:
    """What a record says. Of an exchange that nobody saw the end of, what was predicted."""
    usage = record.usage
    tokens = (usage.input_tokens, usage.output_tokens)
    if record.outcome is Outcome.UNKNOWN:
        tokens = (record.predicted_input_tokens or 0, record.reserved_output_tokens or 0)
    return Past(
        record.occurred_at_ms, record.external_id, record.endpoint, record.model_requested, *tokens
    )


@dataclass(frozen=True, slots=True)
class Extent:
    """How much past there is; ``first_ms`` and ``last_ms`` are None when there is none."""

    requests: int
    users: int
    tokens: int
    first_ms: int | None
    last_ms: int | None


@dataclass(frozen=True, slots=True)
class OfLimit:
    """What one limit refused."""

    name: str
    requests: int
    tokens: int
    users: int


@dataclass(frozen=True, slots=True)
class OfUser:
    """What a user was refused: by the proposed policy (1), and by the current one (0)."""

    user: str
    requests: int
    proposed: int
    current: int
    first_ms: int | None
    limits: tuple[str, ...]


class Timeline:
    """Requests and refusals in a database of its own."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._run = database.execute
        self._run_many = database.executemany
        self._refusals: list[tuple[int, str, str, int, int]] = []
        database.executescript(_SCHEMA)

    def add(self, requests: Iterable[Past]) -> None:
        """Take requests, in any order."""
        self._run_many(
            "INSERT INTO past VALUES (?, ?, ?, ?, ?, ?)",
            (
                (one.at_ms, one.user, one.endpoint, one.model, one.input_tokens, one.output_tokens)
                for one in requests
            ),
        )

    def __iter__(self) -> Iterator[Past]:
        """Every request, in the order of the times."""
        for row in self._run("SELECT * FROM past ORDER BY at, rowid"):
            yield Past(*row)

    def refuse(self, policy: int, past: Past, limit: str) -> None:
        """Note that a policy refuses a request."""
        tokens = past.input_tokens + past.output_tokens
        self._refusals.append((policy, past.user, limit, past.at_ms, tokens))
        if len(self._refusals) >= _BLOCK:
            self._flush()

    def extent(self) -> Extent:
        """How much past there is."""
        requests, users, tokens, first, last = self._run(_EXTENT).fetchone()
        return Extent(requests, users, tokens or 0, first, last)

    def by_limit(self, policy: int) -> list[OfLimit]:
        """What each limit of a policy refused, the most first."""
        self._flush()
        return [OfLimit(*row) for row in self._run(_BY_LIMIT, (policy,))]

    def refused_users(self, policy: int) -> int:
        """How many users a policy refused something."""
        self._flush()
        return int(self._run(_REFUSED_USERS, (policy,)).fetchone()[0])

    def worst(self, most: int) -> list[OfUser]:
        """Who was refused most by the proposed policy, then by the current one."""
        self._flush()
        rows = self._run(_WORST, (most,)).fetchall()
        requests = dict(self._run(_REQUESTS, (json.dumps([row[0] for row in rows]),)))
        return [
            OfUser(user, requests[user], int(new), int(old), first, _names(names))
            for user, new, old, first, names in rows
        ]

    def _flush(self) -> None:
        self._run_many("INSERT INTO refusals VALUES (?, ?, ?, ?, ?)", self._refusals)
        self._refusals.clear()


def _names(joined: str | None) -> tuple[str, ...]:
    return tuple(sorted(joined.split(","))) if joined else ()


@contextmanager
def timeline() -> Iterator[Timeline]:
    """An empty timeline, which is gone at the end."""
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        yield Timeline(database)
