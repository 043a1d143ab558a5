"""``/v1/batches``: work whose usage the provider tells later, when asked about it. Pure.

Creating a batch notes who owes for it. The first answer to the same caller that shows it ended, be
it one batch or a list, is billed its usage, once; what others see of it costs them nothing.
"""

from __future__ import annotations

from typing import Any

from sentinel_extproc.endpoints.base import OpenAIEndpoint
from sentinel_extproc.endpoints.contract import (
    NO_HEAD,
    CounterFactory,
    Deferred,
    Head,
    Meter,
    Plan,
)
from sentinel_extproc.endpoints.meters import JsonMeter, Whole, text_of
from sentinel_extproc.endpoints.provider_usage import read_usage

MAX_LISTED = 100
"""OpenAI's bound on a page of a list."""

_MAX_ID = 128
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


class Batches(OpenAIEndpoint):
    """Rules for batches.

    Args:
        creates: whether answers show a new batch rather than known ones.
    """

    name = "batches"

    def __init__(self, *, creates: bool) -> None:
        self._read = read_new if creates else read_known

    def plan_head(self, head: Head) -> Plan:  # noqa: ARG002
        return Plan(endpoint=self.name, model="", output_cap=0)

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:  # noqa: ARG002
        return self.plan_head(head)

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:  # noqa: ARG002
        return JsonMeter(plan.model, counters, self._read)


def read_new(answer: dict[str, Any]) -> Whole:
    """Read the answer to a creation."""
    name = _id(answer)
    return Whole(deferrals=(Deferred(name),) if name else ())


def read_known(answer: dict[str, Any]) -> Whole:
    """Read one batch, or a page of them."""
    page = answer.get("data")
    shown = page[:MAX_LISTED] if isinstance(page, list) else [answer]
    found = []
    for batch in shown:
        if isinstance(batch, dict) and text_of(batch.get("status")) in _ENDED:
            usage, name = read_usage(batch.get("usage")), _id(batch)
            if usage is not None and name:
                found.append(Deferred(name, usage))
    return Whole(deferrals=tuple(found))


def _id(batch: dict[str, Any]) -> str:
    name = text_of(batch.get("id"))
    return name if len(name) <= _MAX_ID and name.isascii() and name.isprintable() else ""
