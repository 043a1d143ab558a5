"""Zion's ledger against ours: the same items, each once, with the same amounts.

Zion's ledger comes as JSON lines, one increment a line, in any order: ``idempotencyKey``,
``externalId``, ``aiRequests``, ``aiInputTokens``, ``aiOutputTokens``. Increments with keys that
aren't here are of other sidecars, or were deleted here after their time: they are counted only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

import msgspec

MAX_FINDINGS = 1000
MAX_LINE_CHARS = 64 * 1024


class Mismatch(StrEnum):
    """What can be wrong between two ledgers."""

    MISSING = "missing at Zion"
    """Zion acknowledged it, and doesn't have it."""
    TWICE = "billed twice"
    AMOUNT = "other amounts"
    USER = "other user"
    HELD = "billed, yet held here"
    """A dead letter or parked item that Zion has: replaying it would bill it again."""


@dataclass(frozen=True, slots=True)
class OwnItem:
    """One of our items; ``state`` as in the outbox."""

    key: str
    external_id: str
    requests: int
    input_tokens: int
    output_tokens: int
    state: str


_Amount = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Increment(msgspec.Struct, rename="camel"):
    """A line of Zion's ledger."""

    idempotency_key: str | None = None
    external_id: str | None = None
    ai_requests: _Amount = 0
    ai_input_tokens: _Amount = 0
    ai_output_tokens: _Amount = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One item that differs."""

    mismatch: Mismatch
    key: str
    detail: str


@dataclass(slots=True)
class Comparison:
    """The outcome.

    Attributes:
        findings: the first ``MAX_FINDINGS`` of so many ``mismatches``.
        matched: items that Zion has once, with our amounts.
        foreign: increments with keys that we don't know.
        unacknowledged: items that Zion has and that haven't been acknowledged here yet.
    """

    matched: int = 0
    foreign: int = 0
    unacknowledged: int = 0
    mismatches: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, mismatch: Mismatch, key: str, detail: str) -> None:
        """Note one more."""
        self.mismatches += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(mismatch, key, detail))


def increments(lines: Iterable[str]) -> Iterator[Increment]:
    """Read JSON lines; empty ones are passed over.

    Raises:
        ValueError: a line can't be read, with its number.
    """
    decode = msgspec.json.Decoder(Increment).decode
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE_CHARS:
            raise ValueError(f"line {number} is longer than {MAX_LINE_CHARS} characters")
        if not line.strip():
            continue
        try:
            yield decode(line)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise ValueError(f"line {number} is no increment: {error}") from None


def compare(own: Iterable[OwnItem], theirs: Iterable[Increment]) -> Comparison:
    """Compare two ledgers of any length: they are joined in a temporary file, not in memory."""
    result = Comparison()
    with closing(sqlite3.connect("", isolation_level=None)) as joined:
        run = joined.execute
        run("PRAGMA journal_mode = OFF")
        run(
            "CREATE TABLE theirs (key TEXT PRIMARY KEY, times INTEGER, external_id TEXT,"
            " requests INTEGER, input_tokens INTEGER, output_tokens INTEGER) WITHOUT ROWID"
        )
        run("BEGIN")
        joined.executemany(
            "INSERT INTO theirs VALUES (?, 1, ?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET times = times + 1",
            (
                (one.idempotency_key, one.external_id, *_amounts(one))
                for one in _with_keys(theirs, result)
            ),
        )
        known = 0
        for item in own:
            row = run("SELECT * FROM theirs WHERE key = ?", (item.key,)).fetchone()
            known += row is not None
            _judge(result, item, row)
        result.foreign += run("SELECT count(*) FROM theirs").fetchone()[0] - known
    return result


def _with_keys(theirs: Iterable[Increment], result: Comparison) -> Iterator[Increment]:
    for one in theirs:
        if one.idempotency_key is None:
            result.foreign += 1
        else:
            yield one


def _judge(
    result: Comparison, item: OwnItem, row: tuple[str, int, str | None, int, int, int] | None
) -> None:
    if row is None:
        if item.state == "done":
            result.add(Mismatch.MISSING, item.key, f"user {item.external_id}")
        return
    _, times, external_id, *amounts = row
    before = result.mismatches
    if times > 1:
        result.add(Mismatch.TWICE, item.key, f"{times} times")
    if external_id is not None and external_id != item.external_id:
        result.add(Mismatch.USER, item.key, f"{item.external_id} here, {external_id} at Zion")
    ours = [item.requests, item.input_tokens, item.output_tokens]
    if ours != amounts:
        result.add(Mismatch.AMOUNT, item.key, f"{_shown(ours)} here, {_shown(amounts)} at Zion")
    if item.state in ("dead", "parked"):
        result.add(Mismatch.HELD, item.key, item.state)
    if result.mismatches == before:
        result.matched += 1
        result.unacknowledged += item.state != "done"


def _amounts(one: Increment) -> tuple[int, int, int]:
    return one.ai_requests, one.ai_input_tokens, one.ai_output_tokens


def _shown(amounts: list[int]) -> str:
    return "requests {}, input {}, output {}".format(*amounts)
