"""``POST /v1/completions``. Pure.

Counted: prompts and suffix. Reserved: the prompts, and ``max_tokens`` for each of
``max(n, best_of)`` choices of each prompt. Mutated: as chat completions.
"""

from __future__ import annotations

from typing import Any

from msgspec import structs

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
from sentinel_extproc.endpoints.meters import JsonMeter, Whole
from sentinel_extproc.errors import InvalidRequest

_CAPS = ("max_tokens",)

_DEFAULT_CAP = 16
"""What OpenAI generates at most when ``max_tokens`` is absent, by its API reference."""


class Completions(OpenAIEndpoint):
    """Rules for completions."""

    name = "completions"

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:  # noqa: ARG002
        request = json_body.parse_object(body)
        assert body is not None  # noqa: S101 - parse_object refuses an absent body
        model = json_body.model_name(request)
        cap = generation.largest_cap(request, _CAPS, least=0)
        choices = _choices(request)
        upstream, hide = generation.ask_usage(request, body)
        return Plan(
            endpoint=self.name,
            model=model,
            count=CountRequest("completions", request, len(body)),
            output_cap=min((_DEFAULT_CAP if cap is None else cap) * choices, json_body.MAX_COUNT),
            upstream_body=upstream,
            hide_usage=hide,
        )

    def clamped(self, plan: Plan, output_tokens: int) -> Plan:
        assert plan.count is not None  # noqa: S101 - this endpoint always counts
        request = dict(plan.count.body)
        return generation.clamped(plan, request, _CAPS, output_tokens, choices=_choices(request))

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:
        all_seen = plan.count is not None and _all_seen(dict(plan.count.body))
        if event_stream:
            return StreamMeter(plan.model, counters, hide_usage=plan.hide_usage, all_seen=all_seen)

        def read(answer: dict[str, Any]) -> Whole:
            return structs.replace(read_whole(answer), exact=all_seen)

        return JsonMeter(plan.model, counters, read)


def _all_seen(request: dict[str, Any]) -> bool:
    """Whether the answer's text is what was generated: no discarded choices, no repeated prompt."""
    return not request.get("echo") and (request.get("best_of") or 1) <= (request.get("n") or 1)


def _choices(request: dict[str, Any]) -> int:
    prompt = request.get("prompt")
    if prompt is not None and not isinstance(prompt, str | list):
        raise InvalidRequest("'prompt' must be a string or an array.", param="prompt")
    asked = (
        json_body.optional_count(request, name, least=1, most=generation.MAX_CHOICES) or 1
        for name in ("n", "best_of")
    )
    return max(asked) * _prompts(prompt)


def _prompts(prompt: str | list[Any] | None) -> int:
    one = not isinstance(prompt, list) or not prompt or isinstance(prompt[0], int)
    return 1 if one or prompt is None else len(prompt)
