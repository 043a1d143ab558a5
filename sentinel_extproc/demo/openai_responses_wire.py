"""OpenAI's Responses API as it looks on the wire: one JSON answer, or named, numbered events. Pure.

Shapes follow the API reference: a stream announces the response, its one message and that one's
one part, then sends deltas, closes what it opened from the inside out, and ends with the whole
response, usage included, and no ``[DONE]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sentinel_extproc.demo.openai_wire import Completion, JsonObject, sse_event


@dataclass(frozen=True, slots=True)
class ResponsesAnswer(Completion):
    """One answer with one message."""

    @property
    def done(self) -> bytes:
        """See `Completion.done`."""
        return b""

    def usage(self, *, deltas_sent: int | None = None) -> JsonObject:
        """OpenAI's usage object, for all of the answer or its first ``deltas_sent`` deltas."""
        given, generated = self.used(deltas_sent=deltas_sent)
        return {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": given + generated,
        }

    def as_json(self, *, with_usage: bool = True) -> JsonObject:
        """See `Completion.as_json`."""
        cut = self.finish_reason == "length"
        return self._response("incomplete" if cut else "completed", [self._message()]) | {
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": self.usage() if with_usage else None,
        }

    def chunks(self, *, include_usage: bool) -> Iterator[tuple[bytes, int]]:
        """See `Completion.chunks`; ``include_usage`` is about the last event."""
        for number, (event, sent) in enumerate(self._events(include_usage)):
            name = str(event["type"])
            numbered = {"type": name, "sequence_number": number} | event
            yield b"event: " + name.encode() + b"\n" + sse_event(numbered), sent

    def _events(self, include_usage: bool) -> Iterator[tuple[JsonObject, int]]:
        item = {"output_index": 0}
        part = item | {"item_id": self._message_id, "content_index": 0}
        opened = self._response("in_progress", [])
        empty = {"id": self._message_id, "type": "message", "role": "assistant", "content": []}
        added = item | {"item": empty | {"status": "in_progress"}}
        yield {"type": "response.created", "response": opened}, 0
        yield {"type": "response.in_progress", "response": opened}, 0
        yield {"type": "response.output_item.added"} | added, 0
        yield {"type": "response.content_part.added", "part": _part("")} | part, 0
        for sent, text in enumerate(self.deltas, start=1):
            yield {"type": "response.output_text.delta", "delta": text, "logprobs": []} | part, sent
        text, sent = "".join(self.deltas), len(self.deltas)
        yield {"type": "response.output_text.done", "text": text, "logprobs": []} | part, sent
        yield {"type": "response.content_part.done", "part": _part(text)} | part, sent
        yield {"type": "response.output_item.done", "item": self._message()} | item, sent
        whole = self.as_json(with_usage=include_usage)
        yield {"type": f"response.{whole['status']}", "response": whole}, sent

    @property
    def _message_id(self) -> str:
        return "msg_" + self.id.removeprefix("resp_")

    def _message(self) -> JsonObject:
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "status": "incomplete" if self.finish_reason == "length" else "completed",
            "content": [_part("".join(self.deltas))],
        }

    def _response(self, status: str, output: list[JsonObject]) -> JsonObject:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": self.model,
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": None,
        }


def _part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
