"""OpenAI's older text completions as they look on the wire. Pure.

Shapes follow the API reference. ``echo``, ``best_of`` and ``logprobs`` are not played.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sentinel_extproc.demo.openai_wire import Completion, JsonObject, sse_event


@dataclass(frozen=True, slots=True)
class TextCompletion(Completion):
    """One answer; choices of several prompts follow each other."""

    def as_json(self, *, with_usage: bool = True) -> JsonObject:
        """See `Completion.as_json`."""
        text = "".join(self.deltas)
        choices = [self._choice(index, text, self.finish_reason) for index in range(self.choices)]
        return self._head() | {"choices": choices} | ({"usage": self.usage()} if with_usage else {})

    def chunks(self, *, include_usage: bool) -> Iterator[tuple[bytes, int]]:
        """See `Completion.chunks`."""
        null: JsonObject = {"usage": None} if include_usage else {}
        texts: list[tuple[str, str | None]] = [(text, None) for text in self.deltas]
        texts.append(("", self.finish_reason))
        for position, (text, finish) in enumerate(texts, start=1):
            for index in range(self.choices):
                choices = [self._choice(index, text, finish)]
                yield (
                    sse_event(self._head() | {"choices": choices} | null),
                    min(position, len(self.deltas)),
                )
        if include_usage:
            yield sse_event(self._head() | {"choices": [], "usage": self.usage()}), len(self.deltas)

    def _head(self) -> JsonObject:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
        }

    def _choice(self, index: int, text: str, finish_reason: str | None) -> JsonObject:
        return {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}
