"""``POST /v1/moderations``: input only, and the provider reports no usage. Pure.

Texts are counted; pictures aren't, because the provider neither prices nor sizes them.
"""

from __future__ import annotations

from typing import Any

from sentinel_extproc.endpoints import json_body
from sentinel_extproc.endpoints.base import OpenAIEndpoint
from sentinel_extproc.endpoints.contract import (
    NO_HEAD,
    CounterFactory,
    CountRequest,
    Head,
    Meter,
    Plan,
)
from sentinel_extproc.endpoints.meters import OpaqueMeter, text_of
from sentinel_extproc.errors import InvalidRequest

_DEFAULT_MODEL = "omni-moderation-latest"
"""What OpenAI takes when none is named, by its API reference."""


class Moderations(OpenAIEndpoint):
    """Rules for moderations."""

    name = "moderations"

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:  # noqa: ARG002
        request = json_body.parse_object(body)
        assert body is not None  # noqa: S101 - parse_object refuses an absent body
        model = json_body.model_name({"model": _DEFAULT_MODEL} | request)
        texts = _texts(request.get("input"))
        return Plan(
            endpoint=self.name,
            model=model,
            count=CountRequest("embeddings", {"model": model, "input": texts}, len(body)),
            output_cap=0,
            unwatched=True,
        )

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:  # noqa: ARG002
        return OpaqueMeter()


def _texts(given: Any) -> list[str]:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise InvalidRequest("'input' must be a string or a non-empty array.", param="input")
    return [one if isinstance(one, str) else _part(one) for one in given]


def _part(part: Any) -> str:
    if not isinstance(part, dict):
        raise InvalidRequest("'input' must hold texts or parts.", param="input")
    return text_of(part.get("text"))
