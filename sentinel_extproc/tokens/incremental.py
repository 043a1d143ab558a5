"""Counting a text that arrives in pieces, as if it had arrived whole.

A piece's end is rarely a token's end, so pieces are gathered, and text is encoded only up to a
place where a pre-token surely ends (see :func:`encodings.late_boundary`); what follows it waits.
Without a live total that happens once per few thousand characters, so a piece costs one list
append.
"""

from __future__ import annotations

from typing import Final

from sentinel_extproc.tokens import encodings

_BATCH_CHARS: Final = 8192
"""Text gathered before it is encoded: long enough to make the fixed cost vanish, short enough
(about a millisecond) for the event loop."""


class IncrementalCounter:
    """An :class:`~sentinel_extproc.tokens.model.OutputCounter` for one text.

    Holds at most ``max_piece_chars`` plus one piece and one batch of text. Not for several
    threads at once.

    Args:
        encoding: name of a shipped encoding.
        factor: tokens per token of that encoding, for models whose own isn't shipped.
        batch_chars: text gathered before it is encoded.
        max_piece_chars: as in :func:`encodings.count`, to which the total is always equal.
    """

    __slots__ = (
        "_batch",
        "_committed",
        "_encoding",
        "_factor",
        "_max_piece",
        "_pieces",
        "_tail",
        "_tail_tokens",
        "_waiting",
    )

    def __init__(
        self,
        encoding: str,
        *,
        factor: float = 1.0,
        batch_chars: int = _BATCH_CHARS,
        max_piece_chars: int = encodings.MAX_PIECE_CHARS,
    ) -> None:
        self._encoding = encoding
        self._factor = factor
        self._batch = batch_chars
        self._max_piece = max_piece_chars
        self._committed = 0
        self._pieces: list[str] = []
        self._waiting = 0
        self._tail = ""
        self._tail_tokens: int | None = 0

    def feed(self, text: str) -> None:
        """Take the next piece."""
        self._pieces.append(text)
        self._waiting += len(text)
        if self._waiting >= self._batch:
            self._commit()

    def total(self) -> int:
        """Tokens of everything fed so far, counted as one text."""
        if self._pieces:
            self._commit()
        if self._tail_tokens is None:
            self._tail_tokens = self._count(self._tail)
        tokens = self._committed + self._tail_tokens
        return tokens if self._factor == 1.0 else round(tokens * self._factor)

    def _count(self, text: str) -> int:
        return encodings.count(self._encoding, text, max_piece_chars=self._max_piece)

    def _commit(self) -> None:
        text = "".join((self._tail, *self._pieces))
        self._pieces.clear()
        self._waiting = 0
        cut = encodings.late_boundary(text)
        if cut:
            self._committed += self._count(text[:cut])
            text = text[cut:]
        while len(text) > self._max_piece:
            cut = encodings.next_cut(text, 0, self._max_piece)
            self._committed += self._count(text[:cut])
            text = text[cut:]
        self._tail = text
        self._tail_tokens = None
