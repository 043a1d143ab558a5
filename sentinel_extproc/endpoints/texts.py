"""The generated texts of one answer, counted while they grow. Pure."""

from __future__ import annotations

from sentinel_extproc.endpoints.contract import CounterFactory
from sentinel_extproc.tokens.model import OutputCounter

MAX_TEXTS = 256
"""Texts counted apart; OpenAI's ``n`` goes to 128. What comes beyond is taken by size."""

MAX_CHARS = 1 << 20
"""Characters counted of one answer, twice what any model writes; what comes beyond is taken by
size. A million of one letter take 0.4 s."""

_SLICE = 8192
"""Counters look for boundaries in all they are given at once, and hold the interpreter's lock."""

_CHARS_PER_TOKEN = 4


class Texts:
    """Counts each text of an answer as one, whatever the pieces that it comes in.

    Taking a piece costs nothing but memory: it is counted when ``total`` is asked for, which may
    then take long and be done in another thread.
    """

    def __init__(self, model: str, counters: CounterFactory) -> None:
        self.volume = 0
        self.waiting = 0
        self._model = model
        self._make = counters
        self._counters: dict[str, OutputCounter] = {}
        self._pieces: list[tuple[OutputCounter, str]] = []
        self._taken = self._uncounted = 0

    @property
    def exact(self) -> bool:
        """Whether every text is counted rather than estimated."""
        return not self._uncounted

    def add(self, key: str, text: str) -> None:
        """Take the next piece of the text named ``key``."""
        size = len(text)
        self.volume += size
        self._taken += size
        counter = self._counters.get(key)
        if self._taken > MAX_CHARS or (counter is None and len(self._counters) >= MAX_TEXTS):
            self._uncounted += size
            return
        if counter is None:
            counter = self._counters[key] = self._make(self._model)
        self._pieces.append((counter, text))
        self.waiting += size

    def total(self) -> int:
        """Tokens of all texts."""
        self._count()
        counted = sum(counter.total() for counter in self._counters.values())
        return counted + -(-self._uncounted // _CHARS_PER_TOKEN)

    def clear(self) -> None:
        """Forget all texts; ``volume`` stays."""
        self._counters.clear()
        self._pieces.clear()
        self.waiting = self._taken = self._uncounted = 0

    def _count(self) -> None:
        for counter, piece in self._pieces:
            for start in range(0, len(piece), _SLICE):
                counter.feed(piece[start : start + _SLICE])
        self._pieces.clear()
        self.waiting = 0
