"""``POST /v1/responses``. Pure.

Counted: instructions, input items, tools, text format. What the provider keeps for the caller
(``previous_response_id``, ``conversation``, ``prompt`` templates) can't be seen, so such an
estimate is rough. Reserved: the input and ``max_output_tokens``. Mutated: only by clamping, since
usage comes unasked in the last event.

With ``background`` the answer comes later, to a call that costs nothing: the reservation is billed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import structs

from sentinel_extproc.endpoints import generation, json_body
from sentinel_extproc.endpoints.base import OpenAIEndpoint
from sentinel_extproc.endpoints.contract import (
    NO_HEAD,
    CounterFactory,
    CountRequest,
    Head,
    Meter,
    Plan,
    Reading,
)
from sentinel_extproc.endpoints.cut import responses_error_event
from sentinel_extproc.endpoints.events import EventMeter
from sentinel_extproc.endpoints.meters import JsonMeter, Whole, text_of
from sentinel_extproc.endpoints.provider_usage import read_usage
from sentinel_extproc.endpoints.texts import Texts
from sentinel_extproc.errors import InvalidRequest
from sentinel_extproc.usage.record import TokenUsage

_CAPS = ("max_output_tokens",)

_LEAST_CAP = 16
"""OpenAI refuses a smaller ``max_output_tokens``."""

_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})
_WAITING = frozenset({"queued", "in_progress"})


class Responses(OpenAIEndpoint):
    """Rules for responses."""

    name = "responses"

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:  # noqa: ARG002
        request = json_body.parse_object(body)
        assert body is not None  # noqa: S101 - parse_object refuses an absent body
        template = request.get("prompt")
        # A prompt template names the model when the request doesn't.
        model = json_body.model_name(({"model": "prompt"} if template else {}) | request)
        given = request.get("input")
        if given is not None and not isinstance(given, str | list):
            raise InvalidRequest("'input' must be a string or an array of items.", param="input")
        json_body.optional_bool(request, "stream")
        return Plan(
            endpoint=self.name,
            model=model,
            count=CountRequest("responses", request, len(body)),
            output_cap=generation.largest_cap(request, _CAPS),
        )

    def clamped(self, plan: Plan, output_tokens: int) -> Plan:
        assert plan.count is not None  # noqa: S101 - this endpoint always counts
        cap = max(_LEAST_CAP, output_tokens)
        request = generation.clamp(dict(plan.count.body), _CAPS, cap)
        return structs.replace(plan, output_cap=cap, upstream_body=generation.encode(request))

    def cut(self, message: str) -> bytes:
        return responses_error_event(message)

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:
        if event_stream:
            return EventMeter(ResponsesReader(plan.model, counters))
        return JsonMeter(plan.model, counters, read_response)


class ResponsesReader:
    """Reads a response's events."""

    def __init__(self, model: str, counters: CounterFactory) -> None:
        self._texts = Texts(model, counters)
        self._reported: TokenUsage | None = None
        self._served: str | None = None
        self._failed = False
        self._all_seen = True

    @property
    def volume(self) -> int:
        return self._texts.volume

    @property
    def waiting(self) -> int:
        return self._texts.waiting

    def read(self, event: dict[str, Any]) -> None:
        kind = text_of(event.get("type"))
        if kind.endswith(".delta"):
            self._read_delta(kind, event)
        elif kind == "response.output_item.added":
            item = event.get("item")
            if isinstance(item, dict) and (name := text_of(item.get("name"))):
                self._texts.add(f"{event.get('output_index')} name", name)
        elif kind == "error" or isinstance(event.get("error"), dict):
            self._failed = True
        elif isinstance(response := event.get("response"), dict):
            self._served = text_of(response.get("model")) or self._served
            if kind in _LAST:
                self._reported = read_usage(response.get("usage")) or self._reported
                self._failed = kind == "response.failed"

    def reading(self) -> Reading:
        return Reading(
            reported=self._reported,
            output_tokens=self._texts.total(),
            exact=self._all_seen and self._texts.exact,
            model_served=self._served,
            failed=self._failed,
        )

    def _read_delta(self, kind: str, event: dict[str, Any]) -> None:
        if "audio.delta" in kind or kind.startswith("response.reasoning"):
            # Sound isn't text, and a summary of reasoning is shorter than what is paid for.
            self._all_seen = False
        text = text_of(event.get("delta"))
        if text and not kind.endswith("audio.delta"):
            part = event.get("content_index", event.get("summary_index"))
            self._texts.add(f"{event.get('output_index')} {kind} {part}", text)


def read_response(answer: dict[str, Any]) -> Whole:
    """Read a whole response."""
    reported = read_usage(answer.get("usage"))
    items = answer.get("output")
    known = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return Whole(
        reported,
        _pieces(known),
        exact=all(item.get("type") in ("message", "function_call") for item in known),
        deferred=reported is None and text_of(answer.get("status")) in _WAITING,
    )


def _pieces(items: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for place, item in enumerate(items):
        for name in ("name", "arguments", "input", "code"):
            if text := text_of(item.get(name)):
                yield f"{place} {name}", text
        for name in ("content", "summary"):
            parts = item.get(name)
            for number, part in enumerate(parts if isinstance(parts, list) else ()):
                if isinstance(part, dict):
                    text = text_of(part.get("text")) or text_of(part.get("refusal"))
                    if text:
                        yield f"{place} {name} {number}", text
