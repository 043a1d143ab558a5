"""The counts in a small SQLite file; several sidecars on one machine may share it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from sentinel_extproc.shadow.tally import Count, Key

_BUSY_S = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS counts (
    user TEXT NOT NULL, reason TEXT NOT NULL, limit_name TEXT NOT NULL, status INTEGER NOT NULL,
    requests INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
    PRIMARY KEY (user, reason, limit_name, status)
) WITHOUT ROWID
"""

_ADD = """
INSERT INTO counts VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (user, reason, limit_name, status) DO UPDATE SET
    requests = requests + excluded.requests,
    first_ms = MIN(first_ms, excluded.first_ms),
    last_ms = MAX(last_ms, excluded.last_ms)
"""


class ShadowStore:
    """A file of counts.

    Methods raise OSError or sqlite3.Error where it can't be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> set[Key]:
        """Make the file if there is none; the keys in it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._open("rwc") as database:
            database.execute(_SCHEMA)
        return set(self.read())

    def add(self, counts: Mapping[Key, Count]) -> None:
        """Add to what is there, all or nothing."""
        rows = [
            (key.user, key.reason, key.limit, key.status, n.requests, n.first_ms, n.last_ms)
            for key, n in counts.items()
        ]
        with self._open("rw") as database:
            database.executemany(_ADD, rows)

    def read(self) -> dict[Key, Count]:
        """All of it."""
        with self._open("ro") as database:
            rows = database.execute("SELECT * FROM counts").fetchall()
        return {Key(*row[:4]): Count(*row[4:]) for row in rows}

    @contextlib.contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        place = f"{self._path.absolute().as_uri()}?mode={mode}"
        database = sqlite3.connect(place, uri=True, timeout=_BUSY_S)
        with contextlib.closing(database), database:
            yield database
