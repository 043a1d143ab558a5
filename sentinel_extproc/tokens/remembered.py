"""Counts of texts that came before.

Clients say the same again and again: a conversation's turns with each new one, a system prompt and
its documents with every call. Encoding a text costs about a hundred times as much as its hash, so
long ones are looked up by that.

Who sends a text could tell from the time that somebody sent the very same one before, and nothing
else: one character of difference is another hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from sentinel_extproc.tokens import encodings

CountText = Callable[[str, str], int]
"""Tokens of a text (second) under an encoding (first)."""

LEAST_CHARS = 1_000
"""Below, encoding costs hardly more than looking up."""

MOST = 8_192
"""Counts that are kept for sure; up to twice as many, of some 200 bytes each."""


@dataclass(slots=True)
class TextCounters:
    """Long texts so far; only ever grows."""

    remembered: int = 0
    counted: int = 0


class RememberedCounts:
    """A ``CountText`` that remembers. Threads may share it.

    Two generations: what is used moves to the young one; when that is full the old one goes.

    Args:
        count: counts what isn't known.
    """

    def __init__(
        self,
        count: CountText = encodings.count,
        *,
        least_chars: int = LEAST_CHARS,
        most: int = MOST,
    ) -> None:
        self._count = count
        self._least = least_chars
        self._most = most
        self._young: dict[tuple[str, bytes], int] = {}
        self._old: dict[tuple[str, bytes], int] = {}
        self.counters = TextCounters()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def __call__(self, encoding: str, text: str) -> int:
        if len(text) < self._least:
            return self._count(encoding, text)
        key = (encoding, hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        tokens = self._young.get(key)
        if tokens is not None:
            self.counters.remembered += 1
            return tokens
        tokens = self._old.get(key)
        if tokens is None:
            tokens = self._count(encoding, text)
            self.counters.counted += 1
        else:
            self.counters.remembered += 1
        if len(self._young) >= self._most:
            self._old, self._young = self._young, {}
        self._young[key] = tokens
        return tokens
