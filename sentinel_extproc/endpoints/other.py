"""Everything else under the metered prefix: estimated by size, so that no path dodges limits. Pure.

The estimate is deliberately high (3 bytes a token); what the provider reports in a ``usage`` object
replaces it.
"""

from __future__ import annotations

import math
from typing import Any

from msgspec import structs

from sentinel_extproc.endpoints.base import OpenAIEndpoint
from sentinel_extproc.endpoints.chat_answer import StreamMeter, read_whole
from sentinel_extproc.endpoints.contract import (
    NO_HEAD,
    CounterFactory,
    Head,
    Meter,
    Plan,
    Reading,
)
from sentinel_extproc.endpoints.generation import MAX_CHOICES
from sentinel_extproc.endpoints.json_body import (
    AMBIGUOUS,
    MAX_COUNT,
    MAX_MODEL_CHARS,
    parse_object,
)
from sentinel_extproc.endpoints.meters import JsonMeter, OpaqueMeter, Whole, text_of, tokens_by_size
from sentinel_extproc.errors import InvalidRequest

BYTES_PER_TOKEN = 3
_CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_WAITING = frozenset({"queued", "in_progress"})


class Other(OpenAIEndpoint):
    """Rules for endpoints without rules of their own."""

    name = "other"
    any_body = True

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:  # noqa: ARG002
        if not body:
            return Plan(endpoint=self.name, model="", output_cap=0)
        known = _known(body)
        return Plan(
            endpoint=self.name,
            model=_model(known),
            input_tokens=math.ceil(len(body) / BYTES_PER_TOKEN),
            output_cap=_cap(known),
            choices=_choices(known),
        )

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:
        if not plan.input_tokens:
            # Without a body nothing is asked to be generated; a usage in the answer is of a call
            # that was billed when it was made.
            return OpaqueMeter()
        if event_stream:
            return AtLeastBySize(StreamMeter(plan.model, counters, hide_usage=False))
        return AtLeastBySize(JsonMeter(plan.model, counters, read_unknown))


def read_unknown(answer: dict[str, Any]) -> Whole:
    """Read a whole answer of an API that we don't know.

    One that only tells of work to come (an assistant's run, a video) is billed as reserved: its
    usage would come in the answer to a call of another kind.
    """
    whole = read_whole(answer)
    waits = whole.reported is None and text_of(answer.get("status")) in _WAITING
    return structs.replace(whole, deferred=waits)


class AtLeastBySize:
    """A meter of an API that we don't know: what it can't read counts by its size."""

    rewrites = False
    held = b""
    finished = False

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._size = 0

    @property
    def partial(self) -> int:
        return self._meter.partial

    @property
    def volume(self) -> int:
        return self._meter.volume or self._size

    @property
    def waiting(self) -> int:
        return self._meter.waiting

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:
        self._size += len(chunk)
        return self._meter.feed(chunk, end=end)

    def reading(self) -> Reading:
        reading = self._meter.reading()
        if reading.reported is not None or reading.output_tokens or reading.deferred:
            return reading
        return structs.replace(reading, output_tokens=tokens_by_size(self._size), exact=False)


def _known(body: bytes) -> dict[str, Any]:
    """What can be read of a body of any kind.

    Raises:
        InvalidRequest: it is an object in which two readers would find different things.
    """
    if body.lstrip()[:1] != b"{":
        return {}
    try:
        return parse_object(body)
    except InvalidRequest as fault:
        if fault.code in AMBIGUOUS:
            raise
        return {}


def _model(request: dict[str, Any]) -> str:
    model = request.get("model")
    usable = isinstance(model, str) and len(model) <= MAX_MODEL_CHARS and model.isprintable()
    return str(model) if usable else ""


def _cap(request: dict[str, Any]) -> int | None:
    caps = [
        value
        for name in _CAPS
        if isinstance(value := request.get(name), int) and not isinstance(value, bool)
    ]
    return min(max(0, *caps) * _choices(request), MAX_COUNT) if caps else None


def _choices(request: dict[str, Any]) -> int:
    asked = request.get("n")
    if not isinstance(asked, int) or isinstance(asked, bool):
        return 1
    return min(max(1, asked), MAX_CHOICES)
