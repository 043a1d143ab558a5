"""Anthropic-style ``POST /v1/messages``. Pure.

Counted: system, messages, tools. Reserved: the prompt and ``max_tokens``, which is mandatory.
Mutated: only by clamping, since usage comes unasked: the input's in the first event of a stream,
the output's so far in each ``message_delta``. Its clients send their key as ``x-api-key``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import structs

from sentinel_extproc.endpoints import generation, json_body
from sentinel_extproc.endpoints.anthropic_errors import (
    anthropic_error_body,
    anthropic_error_event,
)
from sentinel_extproc.endpoints.base import OpenAIEndpoint, TokenFree
from sentinel_extproc.endpoints.contract import (
    NO_HEAD,
    CounterFactory,
    CountRequest,
    Head,
    Meter,
    Plan,
    Reading,
)
from sentinel_extproc.endpoints.events import EventMeter
from sentinel_extproc.endpoints.meters import JsonMeter, Whole, text_of
from sentinel_extproc.endpoints.provider_usage import read_split_usage
from sentinel_extproc.endpoints.texts import Texts
from sentinel_extproc.errors import InvalidRequest, SentinelError
from sentinel_extproc.usage.record import TokenUsage

_CAPS = ("max_tokens",)
_DELTAS = ("text", "partial_json", "thinking")


class Messages(OpenAIEndpoint):
    """Rules for messages."""

    name = "messages"
    key_header = "x-api-key"

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:  # noqa: ARG002
        request = json_body.parse_object(body)
        assert body is not None  # noqa: S101 - parse_object refuses an absent body
        model = json_body.model_name(request)
        messages = request.get("messages")
        if not isinstance(messages, list) or not messages:
            raise InvalidRequest("'messages' must be a non-empty array.", param="messages")
        cap = generation.largest_cap(request, _CAPS, least=0)
        if cap is None:
            raise InvalidRequest("'max_tokens' is required.", param="max_tokens")
        json_body.optional_bool(request, "stream")
        return Plan(
            endpoint=self.name,
            model=model,
            count=CountRequest("messages", request, len(body)),
            output_cap=cap,
        )

    def clamped(self, plan: Plan, output_tokens: int) -> Plan:
        assert plan.count is not None  # noqa: S101 - this endpoint always counts
        request = dict(plan.count.body)
        thinking = request.get("thinking")
        budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
        if isinstance(budget, int) and budget >= output_tokens:
            return plan  # the provider would refuse it: its cap must be above what it may think
        request = generation.clamp(request, _CAPS, output_tokens)
        return structs.replace(
            plan, output_cap=output_tokens, upstream_body=generation.encode(request)
        )

    def cut(self, message: str) -> bytes:
        return anthropic_error_event(message)

    def error_body(self, error: SentinelError) -> bytes:
        return anthropic_error_body(error)

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:
        if event_stream:
            return EventMeter(MessageReader(plan.model, counters))
        return JsonMeter(plan.model, counters, read_message)


class CountTokens(TokenFree):
    """``POST /v1/messages/count_tokens``: answers a number, generates nothing."""

    key_header = "x-api-key"

    def __init__(self) -> None:
        super().__init__("messages.count_tokens")

    def cut(self, message: str) -> bytes:
        return anthropic_error_event(message)

    def error_body(self, error: SentinelError) -> bytes:
        return anthropic_error_body(error)


class MessageReader:
    """Reads a message's events."""

    def __init__(self, model: str, counters: CounterFactory) -> None:
        self._texts = Texts(model, counters)
        self._usage: TokenUsage | None = None
        self._complete = False
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
        match event.get("type"):
            case "content_block_delta":
                self._read_delta(event)
            case "content_block_start":
                block = event.get("content_block")
                if isinstance(block, dict) and (name := text_of(block.get("name"))):
                    self._texts.add(f"{event.get('index')} name", name)
            case "message_start":
                message = event.get("message")
                if isinstance(message, dict):
                    self._served = text_of(message.get("model")) or None
                    self._usage = read_split_usage(message.get("usage"), self._usage)
            case "message_delta":
                usage = event.get("usage")
                self._usage = read_split_usage(usage, self._usage)
                self._complete = isinstance(usage, dict) and "output_tokens" in usage
            case "error":
                self._failed = True

    def reading(self) -> Reading:
        complete = self._usage if self._complete else None
        before = None if self._usage is None else structs.replace(self._usage, output_tokens=0)
        return Reading(
            reported=complete,
            so_far=before,
            output_tokens=self._texts.total(),
            exact=self._all_seen and self._texts.exact,
            model_served=self._served,
            failed=self._failed,
        )

    def _read_delta(self, event: dict[str, Any]) -> None:
        delta = event.get("delta")
        if not isinstance(delta, dict):
            return
        for name in _DELTAS:
            if text := text_of(delta.get(name)):
                # What comes after a ``message_delta`` isn't in its sums.
                self._complete = False
                self._texts.add(f"{event.get('index')} {name}", text)
        if "thinking" in delta:
            self._all_seen = False  # a summary of what is paid for


def read_message(answer: dict[str, Any]) -> Whole:
    """Read a whole message."""
    blocks = answer.get("content")
    known = [b for b in blocks if isinstance(b, dict)] if isinstance(blocks, list) else []
    return Whole(
        read_split_usage(answer.get("usage")),
        _pieces(known),
        exact=all(block.get("type") in ("text", "tool_use") for block in known),
    )


def _pieces(blocks: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for place, block in enumerate(blocks):
        for name in ("text", "name", "thinking"):
            if text := text_of(block.get(name)):
                yield f"{place} {name}", text
        if isinstance(given := block.get("input"), dict):
            yield f"{place} input", generation.encode(given).decode()
