"""``GET /v1/models`` and ``/v1/models/{id}``: free, but only for those who may ask. Pure."""

from __future__ import annotations

from sentinel_extproc.endpoints.contract import CounterFactory, Meter, Plan
from sentinel_extproc.endpoints.cut import openai_error_event
from sentinel_extproc.endpoints.meters import OpaqueMeter


class Models:
    """Rules for the list of models."""

    name = "models"

    def plan(self, body: bytes | None) -> Plan:  # noqa: ARG002
        return Plan(endpoint=self.name, model="", output_cap=0, billed_requests=0)

    def clamped(self, plan: Plan, output_tokens: int) -> Plan:  # noqa: ARG002
        return plan

    def cut(self, message: str) -> bytes:
        return openai_error_event(message)

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:  # noqa: ARG002
        return OpaqueMeter()
