"""``POST /v1/embeddings``: input only. Pure."""

from __future__ import annotations

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
from sentinel_extproc.endpoints.meters import EdgeMeter
from sentinel_extproc.errors import InvalidRequest


class Embeddings(OpenAIEndpoint):
    """Rules for embeddings."""

    name = "embeddings"

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:  # noqa: ARG002
        request = json_body.parse_object(body)
        assert body is not None  # noqa: S101 - parse_object refuses an absent body
        model = json_body.model_name(request)
        given = request.get("input")
        if not isinstance(given, str | list) or given == []:
            raise InvalidRequest("'input' must be a string or a non-empty array.", param="input")
        return Plan(
            endpoint=self.name,
            model=model,
            count=CountRequest("embeddings", request, len(body)),
            output_cap=0,
        )

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:  # noqa: ARG002
        return EdgeMeter()
