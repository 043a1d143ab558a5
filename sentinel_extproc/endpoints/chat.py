"""``POST /v1/chat/completions``. Pure.

Counted: messages, tools, response format. Reserved: the prompt, and the largest of all output caps
times ``n``. Mutated: streamed requests that don't ask for usage get
``stream_options.include_usage``, and its chunk is taken out of the answer again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from sentinel_extproc.endpoints import json_body
from sentinel_extproc.endpoints.contract import CounterFactory, CountRequest, Meter, Plan
from sentinel_extproc.endpoints.cut import openai_error_event
from sentinel_extproc.endpoints.meters import JsonMeter, StreamMeter
from sentinel_extproc.errors import InvalidRequest

MAX_CHOICES = 128
"""OpenAI's own bound on ``n``."""

_CAPS = ("max_tokens", "max_completion_tokens")
_INCLUDE = {"include_usage": True}
_ASK_USAGE = b'{"stream_options":{"include_usage":true},'


class ChatCompletions:
    """Rules for chat completions."""

    name = "chat.completions"

    def plan(self, body: bytes | None) -> Plan:
        request = json_body.parse_object(body)
        assert body is not None  # noqa: S101 - parse_object refuses an absent body
        model = json_body.model_name(request)
        _check_messages(request)
        upstream, hide = _ask_usage(request, body)
        return Plan(
            endpoint=self.name,
            model=model,
            count=CountRequest("chat", request, len(body)),
            output_cap=_output_cap(request),
            upstream_body=upstream,
            hide_usage=hide,
        )

    def clamped(self, plan: Plan, output_tokens: int) -> Plan:
        assert plan.count is not None  # noqa: S101 - this endpoint always counts
        request = dict(plan.count.body)
        choices = request.get("n") or 1
        caps = {name: request[name] for name in _CAPS if request.get(name) is not None}
        # The newer name is what reasoning models insist on, and others take it too.
        for name in caps or ("max_completion_tokens",):
            request[name] = max(1, min(caps.get(name, output_tokens), output_tokens // choices))
        if plan.hide_usage:
            request["stream_options"] = (request.get("stream_options") or {}) | _INCLUDE
        body = json.dumps(request, separators=(",", ":")).encode()
        return replace(plan, output_cap=output_tokens, upstream_body=body)

    def cut(self, message: str) -> bytes:
        return openai_error_event(message)

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:
        if event_stream:
            return StreamMeter(plan.model, counters, hide_usage=plan.hide_usage)
        return JsonMeter(plan.model, counters)


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


def _output_cap(request: dict[str, Any]) -> int | None:
    caps = [
        cap
        for name in _CAPS
        if (cap := json_body.optional_count(request, name, least=1, most=json_body.MAX_COUNT))
    ]
    choices = json_body.optional_count(request, "n", least=1, most=MAX_CHOICES) or 1
    return max(caps) * choices if caps else None


def _ask_usage(request: dict[str, Any], body: bytes) -> tuple[bytes | None, bool]:
    """The body that asks for usage, and whether asking was our doing."""
    options = request.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise InvalidRequest("'stream_options' must be an object.", param="stream_options")
    if not json_body.optional_bool(request, "stream"):
        return None, False
    if options is not None and json_body.optional_bool(options, "include_usage"):
        return None, False
    if "stream_options" not in request:
        # Spliced in, so that every other byte reaches the provider as the client wrote it.
        return _ASK_USAGE + body.lstrip(b" \t\r\n")[1:], True
    asked = request | {"stream_options": (options or {}) | _INCLUDE}
    return json.dumps(asked, separators=(",", ":")).encode(), True
