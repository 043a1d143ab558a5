"""The running count of one request, shared by every accounting rule."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from sentinel_extproc.tokens import encodings
from sentinel_extproc.tokens.family import Family
from sentinel_extproc.tokens.model import Confidence, Estimate
from sentinel_extproc.tokens.remembered import CountText

_COMPACT: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_RANK: Final = {Confidence.EXACT: 0, Confidence.CLOSE: 1, Confidence.ROUGH: 2}


class Tally:
    """Adds up text and constants for one family; its confidence only ever falls.

    Args:
        rules: the constants and the encoding to count with.
        confidence: the best that the outcome can be.
        count: counts one text.
    """

    __slots__ = ("_confidence", "_count", "_names", "_tokens", "_unknown", "characters", "rules")

    def __init__(
        self,
        rules: Family,
        confidence: Confidence = Confidence.EXACT,
        count: CountText = encodings.count,
    ) -> None:
        self.rules = rules
        self._count = count
        self.characters = 0
        self._tokens = 0
        self._unknown: list[Any] = []
        self._names: dict[tuple[str, str], int] = {}
        self._confidence = confidence

    def text(self, text: str) -> None:
        """Count a text that stands by itself."""
        self.characters += len(text)
        self._tokens += self._count(self.rules.encoding, text)

    def name(self, name: str, behind: str = "") -> None:
        """Count a name that every result of a call repeats without spelling it out again.

        Encoded once: a long one with thousands of results would take minutes.
        """
        # Not the two joined: that would copy and hash a long name at every use.
        tokens = self._names.get((behind, name))
        if tokens is None:
            tokens = self.measure(behind + name) - self.measure(behind.removesuffix("."))
            self._names[behind, name] = tokens
        self.characters += len(name)
        self._tokens += tokens

    def function_name(self, name: Any) -> None:
        """Count a called function's name, which stands behind ``functions.``; absent is nothing."""
        text = self.optional_text(name)
        if text:
            self.name(text, behind="functions.")

    def measure(self, text: str) -> int:
        """Tokens of ``text``, without adding them."""
        return self._count(self.rules.encoding, text)

    def add(self, tokens: int) -> None:
        """Add tokens that don't come from the client's text."""
        self._tokens += tokens

    def lower(self, confidence: Confidence) -> None:
        """State that the outcome is no better than ``confidence``."""
        if _RANK[confidence] > _RANK[self._confidence]:
            self._confidence = confidence

    def unknown(self, value: Any) -> None:
        """Count what no rule covers as compact JSON, and say so.

        At the end and all at once: thousands of small ones would cost milliseconds.
        """
        self.lower(Confidence.ROUGH)
        self._unknown.append(value)

    def optional_text(self, value: Any) -> str:
        """``value`` as text if it is one; absent is empty; anything else counts as unknown."""
        if isinstance(value, str):
            return value
        if value is not None:
            self.unknown(value)
        return ""

    def estimate(self) -> Estimate:
        """The outcome so far."""
        if self._unknown:
            try:
                self.text(compact(self._unknown))
            except (RecursionError, ValueError, TypeError):
                self.add(size(self._unknown))
            self._unknown = []
        tokens = max(0, self._tokens)
        if self.rules.factor != 1.0:
            tokens = math.ceil(tokens * self.rules.factor)
        return Estimate(tokens, self.characters, self._confidence)


def compact(value: Any) -> str:
    """``value`` as JSON without blanks, non-ASCII kept as it is."""
    return _COMPACT.encode(value)


def arguments(text: str) -> str:
    """A call's arguments as the model is shown them: compact JSON, or as given if they aren't JSON.

    Key order and everything else stays.
    """
    if not text:
        return text
    try:
        return compact(json.loads(text))
    except (ValueError, RecursionError):
        return text


def as_list(value: Any) -> list[Any]:
    """``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_object(value: Any) -> dict[str, Any]:
    """``value`` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def size(value: Any) -> int:
    """Characters of every text inside ``value``, 1 for anything else; without recursion."""
    total = 0
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, dict):
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
        else:
            total += 1
    return total
