"""The hash chain that shows when a record is missing, altered or moved. Pure.

Every record of a sidecar has a number, 1, 2, 3 and so on without a gap, and a hash:

    start  = SHA-256("sentinel ledger 1\\n" + id of the sidecar)
    hash n = SHA-256(hash n-1 + text n)

where text n is the record as one JSON array that begins with its number, in the order of
``sql.RECORD_COLUMNS``: UTF-8, no blanks, ``null`` for what isn't there. Where records were deleted
after they had been billed, a *gap* keeps the numbers from and to, and the last hash, so that the
rest can still be checked.

The chain has no secret: who can write the file can write a new chain. What can't be forged is a
*head* (number and hash) that was noted elsewhere, in a log for instance; ``verify`` compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

MAX_FINDINGS = 1000
"""More would only say again that something is badly wrong."""

Value = str | int | None

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: the number of its last record, and that one's hash (32 bytes)."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Records ``first`` to ``last``, both included, were deleted; ``hash`` is that of ``last``."""

    first: int
    last: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A record as ``verify`` sees it: number, canonical text, and the hash stored beside it."""

    seq: int
    text: bytes
    hash: bytes


class Kind(StrEnum):
    """What can be wrong with a chain."""

    MISSING = "missing"
    """Records, or the end of the chain, aren't there."""
    ALTERED = "altered"
    """A record or its hash doesn't fit what stands before it."""
    MOVED = "moved"
    """A number comes twice, or after a larger one."""
    REWRITTEN = "rewritten"
    """The chain is whole, but isn't the one whose head was noted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Records ``first`` to ``last`` have a fault."""

    kind: Kind
    first: int
    last: int
    detail: str


def start(sidecar: str) -> Head:
    """The head of the empty chain of a sidecar."""
    return Head(0, hashlib.sha256(b"sentinel ledger 1\n" + sidecar.encode()).digest())


def text(seq: int, row: Sequence[Value]) -> bytes:
    """The canonical text of a record.

    Args:
        row: every column but the number, in the order of ``sql.RECORD_COLUMNS``.
    """
    return _encode((seq, *row))


def following(head: Head, record_text: bytes) -> Head:
    """The head after one more record."""
    return Head(head.seq + 1, hashlib.sha256(head.hash + record_text).digest())


def extend(head: Head, rows: Iterable[Sequence[Value]]) -> tuple[Head, list[bytes]]:
    """Number and chain new records: the new head, and the hash of each record."""
    seq, last = head.seq, head.hash
    hashes: list[bytes] = []
    sha256 = hashlib.sha256
    for row in rows:
        seq += 1
        last = sha256(last + _encode((seq, *row))).digest()
        hashes.append(last)
    return Head(seq, last), hashes


def verify(
    links: Iterable[Link],
    gaps: Sequence[Gap] = (),
    *,
    sidecar: str,
    noted: Sequence[Head] = (),
    least: int = 0,
) -> list[Finding]:
    """Walk a chain, one record at a time, so that millions need no memory.

    After a fault it goes on with what is stored, so that one altered record is one finding.

    Args:
        links: the records that are there, by number.
        gaps: by number.
        noted: heads that this chain is known to have had.
        least: number of the last record that is known to have been here, whatever its hash was.

    Returns:
        What is wrong, at most ``MAX_FINDINGS``; empty if nothing is.
    """
    walk = _Walk(start(sidecar), {head.seq: head.hash for head in noted})
    rest = sorted(gaps, key=lambda gap: gap.first)
    place = 0
    for link in links:
        while place < len(rest) and rest[place].first <= link.seq:
            walk.gap(rest[place])
            place += 1
        walk.link(link)
        if len(walk.findings) >= MAX_FINDINGS:
            return walk.findings
    for gap in rest[place:]:
        walk.gap(gap)
    walk.end(least)
    return walk.findings[:MAX_FINDINGS]


class _Walk:
    def __init__(self, head: Head, noted: dict[int, bytes]) -> None:
        self.head = head
        self.findings: list[Finding] = []
        self._noted = noted

    def link(self, link: Link) -> None:
        if link.seq <= self.head.seq:
            self._find(Kind.MOVED, link.seq, link.seq, f"stands after record {self.head.seq}")
            return
        trusted = self._reach(link.seq)
        if trusted and following(self.head, link.text).hash != link.hash:
            self._find(Kind.ALTERED, link.seq, link.seq, "its hash doesn't fit")
        self._go(Head(link.seq, link.hash))

    def gap(self, gap: Gap) -> None:
        if gap.first <= self.head.seq or gap.last < gap.first:
            self._find(Kind.MOVED, gap.first, gap.last, "deleted records that are still there")
            return
        self._reach(gap.first)
        self._go(Head(gap.last, gap.hash))

    def end(self, least: int) -> None:
        beyond = [seq for seq in self._noted if seq > self.head.seq]
        if beyond:
            last = max(beyond)
            self._find(Kind.MISSING, self.head.seq + 1, last, "the end that was noted isn't there")
        elif least > self.head.seq:
            self._find(Kind.MISSING, self.head.seq + 1, least, "they were sealed, and aren't there")

    def _reach(self, seq: int) -> bool:
        """Whether what stands directly before ``seq`` is known."""
        if seq == self.head.seq + 1:
            return True
        self._find(Kind.MISSING, self.head.seq + 1, seq - 1, "no record and no gap")
        return False

    def _go(self, head: Head) -> None:
        self.head = head
        noted = self._noted.get(head.seq)
        if noted is not None and noted != head.hash:
            self._find(Kind.REWRITTEN, head.seq, head.seq, "another hash was noted for it")

    def _find(self, kind: Kind, first: int, last: int, detail: str) -> None:
        self.findings.append(Finding(kind, first, last, detail))
