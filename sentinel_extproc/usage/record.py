"""The usage record: what one exchange is billed for, and how we know."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


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


@dataclass(frozen=True, slots=True)
class TokenUsage:
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


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One forwarded exchange, exactly once.

    Attributes:
        id: UUIDv7 of the exchange, text form; the idempotency anchor.
        occurred_at_ms: when it was forwarded, milliseconds since the epoch, UTC.
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


class Ledger(Protocol):
    """Where usage records go to become durable."""

    def check_room(self) -> None:
        """Called before a metered request is forwarded.

        Raises:
            Unavailable: the outbox is at its bound or broken; new metered traffic must wait.
        """
        ...

    async def append(self, record: UsageRecord) -> None:
        """Return once ``record`` is durable.

        Raises:
            Unavailable: it could not be stored yet; the ledger keeps it and goes on trying.
        """
        ...
