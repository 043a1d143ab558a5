"""``POST /v1/chat/completions``. Pure.

Counted: messages, tools, response format. Reserved: the prompt, and the largest of all output caps
times ``n``. Mutated: streamed requests that don't ask for usage get
``stream_options.include_usage``, and its chunk is taken out of the answer again.
"""

from __future__ import annotations

from typing import Any

from sentinel_extproc.endpoints import generation, json_body
from sentinel_extproc.endpoints.base import OpenAIEndpoint
from sentinel_extproc.endpoints.chat_answer import StreamMeter, read_whole
from sentinel_extproc.endpoints.contract import (
    NO_HEAD,
    CounterFactory,
    CountRequest,
    Head,
    Meter,
    Plan,
)
from sentinel_extproc.endpoints.meters import JsonMeter
from sentinel_extproc.errors import InvalidRequest

# The newer name comes last: reasoning models insist on it, and others take it too.
_CAPS = ("max_tokens", "max_completion_tokens")


class ChatCompletions(OpenAIEndpoint):
    """Rules for chat completions."""

    name = "chat.completions"

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:  # noqa: ARG002
        request = json_body.parse_object(body)
        assert body is not None  # noqa: S101 - parse_object refuses an absent body
        model = json_body.model_name(request)
        _check_messages(request)
        cap = generation.largest_cap(request, _CAPS)
        choices = _choices(request)
        upstream, hide = generation.ask_usage(request, body)
        return Plan(
            endpoint=self.name,
            model=model,
            count=CountRequest("chat", request, len(body)),
            output_cap=None if cap is None else cap * choices,
            choices=choices,
            upstream_body=upstream,
            hide_usage=hide,
            streams=request.get("stream") is True,
        )

    def clamped(self, plan: Plan, output_tokens: int) -> Plan:
        assert plan.count is not None  # noqa: S101 - this endpoint always counts
        request = dict(plan.count.body)
        return generation.clamped(plan, request, _CAPS, output_tokens, choices=_choices(request))

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:
        if event_stream:
            return StreamMeter(plan.model, counters, hide_usage=plan.hide_usage)
        return JsonMeter(plan.model, counters, read_whole)


def _check_messages(request: dict[str, Any]) -> None:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be a non-empty array.", param="messages")
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest(
                f"'messages[{place}]' must be an object.", param=f"messages[{place}]"
            )
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            raise InvalidRequest(
                f"'messages[{place}].content' must be a string or an array of parts.",
                param=f"messages[{place}].content",
            )


def _choices(request: dict[str, Any]) -> int:
    return json_body.optional_count(request, "n", least=1, most=generation.MAX_CHOICES) or 1
