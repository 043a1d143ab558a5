"""What a count is: a number, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

from sentinel_extproc.frozen import value

JsonObject = Mapping[str, Any]


class Confidence(StrEnum):
    """How close an input estimate is expected to be to what the provider will report."""

    EXACT = "exact"
    CLOSE = "close"
    ROUGH = "rough"


@value(frozen=True, slots=True)
class Estimate:
    """Input tokens of one request.

    Attributes:
        input_tokens: predicted ``prompt_tokens`` / ``input_tokens`` of the provider's usage.
        characters: characters of text that were counted.
        confidence: what to expect of the number.
    """

    input_tokens: int
    characters: int
    confidence: Confidence


class OutputCounter(Protocol):
    """Counts generated text as it arrives; never raises, whatever the text."""

    def feed(self, text: str) -> None:
        """Take the next piece of the same text."""
        ...

    def total(self) -> int:
        """Tokens of everything fed so far, as one text."""
        ...


class RequestEstimator(Protocol):
    """Counts requests and makes counters for their answers."""

    def estimate(self, kind: str, body: JsonObject) -> Estimate:
        """Count a parsed, validated request body.

        Args:
            kind: the endpoint's accounting rule: ``chat``, ``responses``, ``completions``,
                ``embeddings``, ``messages``.
            body: the request as decoded JSON.

        Raises:
            ValueError: no rule of that name.
        """
        ...

    def output_counter(self, model: str) -> OutputCounter:
        """A counter for one generated text of ``model``."""
        ...
