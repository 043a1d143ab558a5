"""What most endpoints have in common; each overrides what is different. Pure."""

from __future__ import annotations

from sentinel_extproc.endpoints.contract import NO_HEAD, CounterFactory, Head, Meter, Plan
from sentinel_extproc.endpoints.cut import openai_error_event
from sentinel_extproc.endpoints.meters import OpaqueMeter
from sentinel_extproc.errors import SentinelError


class OpenAIEndpoint:
    """An endpoint that reads whole bodies and ends streams as OpenAI does."""

    name: str
    upgrades = False
    key_header = ""
    drop_headers: tuple[str, ...] = ()
    any_body = False

    def plan_head(self, head: Head) -> Plan | None:  # noqa: ARG002
        return None

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:
        raise NotImplementedError

    def refined(self, plan: Plan) -> Plan:
        return plan

    def clamped(self, plan: Plan, output_tokens: int) -> Plan:  # noqa: ARG002
        return plan

    def cut(self, message: str) -> bytes:
        return openai_error_event(message)

    def error_body(self, error: SentinelError) -> bytes:
        return error.body()

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:
        raise NotImplementedError


class TokenFree(OpenAIEndpoint):
    """Calls that run no model: one request and no tokens, decided by the headers alone.

    Their answers may well hold the usage of an earlier call, which was billed then.

    Args:
        billed_requests: 0 for calls that are free altogether.
    """

    def __init__(self, name: str, *, billed_requests: int = 1) -> None:
        self.name = name
        self._requests = billed_requests

    def plan_head(self, head: Head) -> Plan:  # noqa: ARG002
        return Plan(
            endpoint=self.name,
            model="",
            output_cap=0,
            billed_requests=self._requests,
            unwatched=True,
        )

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:  # noqa: ARG002
        return self.plan_head(head)

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:  # noqa: ARG002
        return OpaqueMeter()
