"""The generated texts of one answer, counted while they grow. Pure."""

from __future__ import annotations

from sentinel_extproc.endpoints.contract import CounterFactory
from sentinel_extproc.tokens.model import OutputCounter

MAX_TEXTS = 256
"""Texts counted apart; OpenAI's ``n`` goes to 128. What comes beyond is taken by size."""

_CHARS_PER_TOKEN = 4


class Texts:
    """Counts each text of an answer as one, whatever the pieces that it comes in."""

    __slots__ = ("_counters", "_make", "_model", "_uncounted", "volume")

    def __init__(self, model: str, counters: CounterFactory) -> None:
        self.volume = 0
        self._model = model
        self._make = counters
        self._counters: dict[str, OutputCounter] = {}
        self._uncounted = 0

    @property
    def exact(self) -> bool:
        """Whether every text is counted rather than estimated."""
        return not self._uncounted

    def add(self, key: str, text: str) -> None:
        """Take the next piece of the text named ``key``."""
        self.volume += len(text)
        counter = self._counters.get(key)
        if counter is None:
            if len(self._counters) >= MAX_TEXTS:
                self._uncounted += len(text)
                return
            counter = self._counters[key] = self._make(self._model)
        counter.feed(text)

    def total(self) -> int:
        """Tokens of all texts."""
        counted = sum(counter.total() for counter in self._counters.values())
        return counted + -(-self._uncounted // _CHARS_PER_TOKEN)

    def clear(self) -> None:
        """Forget all texts; ``volume`` stays."""
        self._counters.clear()
        self._uncounted = 0
