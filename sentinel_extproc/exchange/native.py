"""Answers that Envoy meters itself, so that their bodies never come here. Pure.

Envoy's ``ai_protocol_manager`` reads the usage that the provider puts at the end of a stream and
hands it to us in one message. Of a stream that is cut it tells nothing; then what is left is how
many bytes the client got, from Envoy's access log service.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from sentinel_extproc.endpoints.contract import Plan, Reading
from sentinel_extproc.exchange.events import Told
from sentinel_extproc.usage.record import TokenUsage

ENDPOINTS = frozenset({"chat.completions"})
"""What Envoy 1.40 can read of what we serve."""

CHAT_PATH = "/v1/chat/completions"
"""The one path on which it is told to, unless ours begin with something else."""

HEADER = ("x-sentinel-meter", b"stream")
"""Sends a request down the route on which Envoy reads the usage. It reads streams only, and answers
of another kind there, which we watch as well, never end for their client (seen on Envoy 1.40)."""

TYPICAL_BYTES = 240.0
"""Of an event stream for each token: OpenAI's envelope around one, until a model's own is known."""

_MAX_MODELS = 256
_WEIGHT = 0.1
_LEAST_TOKENS = 16
"""Shorter answers say more about the first and last event than about those between."""


def read_told(told: Told) -> Reading | None:
    """The reading of an answer that Envoy told the usage of; None if it could not read any."""
    if told.input_tokens is None or told.output_tokens is None:
        return None
    usage = TokenUsage(
        input_tokens=told.input_tokens,
        output_tokens=told.output_tokens,
        cached_input_tokens=min(told.cached_tokens, told.input_tokens),
        reasoning_tokens=min(told.reasoning_tokens, told.output_tokens),
    )
    return Reading(reported=usage, model_served=told.model or None, complete=True)


def read_bytes(
    plan: Plan, body_bytes: int | None, *, reserved: int, bytes_per_token: float
) -> Reading:
    """An estimate of a cut answer.

    Args:
        body_bytes: how many the client got; None if nobody knows, and then all that was reserved
            is taken for used.
        reserved: output tokens that the reservation has room for.
    """
    if body_bytes is None:
        return Reading(output_tokens=reserved)
    tokens = math.ceil(body_bytes / bytes_per_token)
    return Reading(
        output_tokens=tokens if plan.output_cap is None else min(tokens, plan.output_cap)
    )


class BytesPerToken:
    """How long a model's event streams are for each token, learnt from those that were whole."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, float] = OrderedDict()

    def of(self, model: str) -> float:
        """Bytes for each token of output."""
        return self._known.get(model, TYPICAL_BYTES)

    def learn(self, model: str, body_bytes: int, tokens: int) -> None:
        """A whole answer of ``tokens`` came in so many bytes."""
        if tokens < _LEAST_TOKENS or body_bytes <= 0:
            return
        seen = body_bytes / tokens
        before = self._known.pop(model, seen)
        # Never far from what is typical: one odd answer must not make cut ones free.
        value = before + _WEIGHT * (seen - before)
        self._known[model] = min(max(value, TYPICAL_BYTES / 60), TYPICAL_BYTES * 2)
        if len(self._known) > _MAX_MODELS:
            self._known.popitem(last=False)
