"""Input tokens of a request before it is forwarded, and counters for its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sentinel_extproc.tokens.chat import count_chat
from sentinel_extproc.tokens.incremental import IncrementalCounter
from sentinel_extproc.tokens.messages import count_messages
from sentinel_extproc.tokens.model import Confidence, Estimate, JsonObject
from sentinel_extproc.tokens.models import ModelTable
from sentinel_extproc.tokens.plain import count_completions, count_embeddings
from sentinel_extproc.tokens.remembered import RememberedCounts, TextCounters
from sentinel_extproc.tokens.responses import count_responses
from sentinel_extproc.tokens.tally import Tally, size

RULES: Final[Mapping[str, Callable[[Tally, JsonObject], None]]] = {
    "chat": count_chat,
    "responses": count_responses,
    "completions": count_completions,
    "embeddings": count_embeddings,
    "messages": count_messages,
}


class TokenEstimator:
    """Counts requests by the rules of their endpoint and their model's family.

    Safe to share between threads. Implements
    :class:`~sentinel_extproc.tokens.model.RequestEstimator`.

    Args:
        table: resolves model names; the shipped one without aliases when omitted.
    """

    def __init__(self, table: ModelTable | None = None) -> None:
        self._table = table if table is not None else ModelTable()
        self._texts = RememberedCounts()

    @property
    def text_counters(self) -> TextCounters:
        """Long texts that were counted, and those that had been counted before."""
        return self._texts.counters

    def replace(self, table: ModelTable) -> None:
        """Resolve model names by another table from the next count on."""
        self._table = table

    def estimate(self, kind: str, body: JsonObject) -> Estimate:
        """Count a request body; whatever JSON values it holds, only ``kind`` can be refused.

        Costs about 0.1 ms per 1,000 characters of ordinary text and at most 0.7 ms of hostile
        text, most of it without the GIL (see the package's docstring); less than a tenth of that
        for long texts that came before.

        Raises:
            ValueError: no rule of that name.
        """
        count = RULES.get(kind)
        if count is None:
            raise ValueError(f"no accounting rule named {kind!r}")
        model = self._table.resolve(body.get("model"))
        exact = model.known and model.rules.exact
        best = Confidence.EXACT if exact else Confidence.ROUGH
        tally = Tally(model.rules, best, self._texts)
        try:
            count(tally, body)
        except (RecursionError, ValueError, TypeError, OverflowError):
            # Not expected of any body; refusing by size beats failing the request.
            tally.lower(Confidence.ROUGH)
            tally.add(size(dict(body)))
        return tally.estimate()

    def answer_frame(self, kind: str, model: str) -> int:
        """Tokens that a provider reports beside an answer's text when it ends by itself.

        Never part of a counter's total, because a cut answer doesn't have them; 0 for a ``kind``
        whose answers have no frame.
        """
        rules = self._table.resolve(model).rules
        return {"chat": rules.answer_chat, "responses": rules.answer_responses}.get(kind, 0)

    def output_counter(self, model: str) -> IncrementalCounter:
        """A counter for one generated text of ``model``."""
        rules = self._table.resolve(model).rules
        return IncrementalCounter(rules.encoding, factor=rules.factor)
