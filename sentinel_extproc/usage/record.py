"""The usage record: what one exchange is billed for, and how we know.

Structs, because one of each is made per exchange: they are built in C.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import msgspec


class Provenance(StrEnum):
    """Where the token numbers come from."""

    PROVIDER = "provider"
    COUNTED = "counted"
    ESTIMATED = "estimated"


class Outcome(StrEnum):
    """How the exchange ended, as far as can be seen from Envoy's side."""

    COMPLETED = "completed"
    PROVIDER_ERROR = "provider_error"
    DISCONNECTED = "disconnected"
    DRAINED = "drained"
    CUT = "cut"
    """Ended by us: a limit ran out under the answer."""
    UNKNOWN = "unknown"
    """Forwarded, and nobody saw how it ended: its sidecar died. Never billed by guess."""


class TokenUsage(msgspec.Struct, frozen=True, gc=False):
    """Token sums of one exchange; details are parts of the sums, not additions to them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Cost(msgspec.Struct, frozen=True, gc=False):
    """Money: billionths of a currency."""

    nanos: int
    currency: str


Pricer = Callable[[str, str | None, TokenUsage, int], Cost | None]
"""(model asked for, model served, usage, requests) → its cost; None when that isn't known."""


def unpriced(_asked: str, _served: str | None, _usage: TokenUsage, _requests: int) -> None:
    """The ``Pricer`` of whoever has no price list."""


class UsageRecord(msgspec.Struct, frozen=True, gc=False):
    """One forwarded exchange, exactly once.

    Attributes:
        id: UUIDv7 of the exchange, text form; the idempotency anchor.
        occurred_at_ms: when it was forwarded, milliseconds since the epoch, UTC.
        cost_nanos: billionths of ``currency``; None, never 0, when the model has no price.
        request_id: Envoy's ``x-request-id``, to join with access logs; None when there was none.
        origin: id of the sidecar that admitted it, when that wasn't the one that keeps the record.
        predicted_input_tokens, reserved_output_tokens: of ``UNKNOWN`` only: what was estimated
            when it was admitted. Its ``usage`` and ``requests`` are 0.
    """

    id: str
    occurred_at_ms: int
    external_id: str
    email: str
    endpoint: str
    model_requested: str
    model_served: str | None
    requests: int
    usage: TokenUsage
    provenance: Provenance
    outcome: Outcome
    cost_nanos: int | None = None
    currency: str | None = None
    request_id: str | None = None
    origin: str | None = None
    predicted_input_tokens: int | None = None
    reserved_output_tokens: int | None = None


class Intent(msgspec.Struct, frozen=True, gc=False):
    """An exchange that is about to be forwarded: what is known of it if its sidecar dies.

    Attributes:
        id, occurred_at_ms, request_id: as in the ``UsageRecord`` that it will have.
    """

    id: str
    occurred_at_ms: int
    external_id: str
    email: str
    endpoint: str
    model: str
    request_id: str | None
    predicted_input_tokens: int
    reserved_output_tokens: int

    def unknown(self, *, origin: str | None = None) -> UsageRecord:
        """The record of an exchange that nobody saw the end of: nothing to bill."""
        return UsageRecord(
            id=self.id,
            occurred_at_ms=self.occurred_at_ms,
            external_id=self.external_id,
            email=self.email,
            endpoint=self.endpoint,
            model_requested=self.model,
            model_served=None,
            requests=0,
            usage=TokenUsage(),
            provenance=Provenance.ESTIMATED,
            outcome=Outcome.UNKNOWN,
            request_id=self.request_id,
            origin=origin,
            predicted_input_tokens=self.predicted_input_tokens,
            reserved_output_tokens=self.reserved_output_tokens,
        )


class Ledger(Protocol):
    """Where usage records go to become durable."""

    def check_room(self) -> None:
        """Called before a metered request is forwarded.

        Raises:
            Unavailable: the outbox is at its bound or broken; new metered traffic must wait.
        """
        ...

    def begin(self, intent: Intent) -> None:
        """Note that an exchange is about to be forwarded, so that it is known of even if this
        process dies; the record with its id ends that. Takes no time.

        Raises:
            Unavailable: it can't be noted, and so must not be forwarded.
        """
        ...

    async def abandon(self, exchange_id: str) -> None:
        """Put on record that nobody can say how an exchange that was begun ended; does nothing if
        it has its record.

        Raises:
            Unavailable: as ``append``.
        """
        ...

    async def append(self, record: UsageRecord) -> None:
        """Return once ``record`` is durable.

        Raises:
            Unavailable: it could not be stored yet; the ledger keeps it and goes on trying.
        """
        ...
