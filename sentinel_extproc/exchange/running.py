"""What can be told of an exchange while it runs. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Running:
    """One exchange that has a stream.

    Attributes:
        started_at_ms: milliseconds since the epoch, UTC.
        user: external id; None before authentication.
        endpoint, model: None before they were read.
        admitted: whether it was let through to the provider.
        generated_chars: characters of its answer so far.
    """

    id: str
    started_at_ms: int
    user: str | None
    endpoint: str | None
    model: str | None
    admitted: bool
    generated_chars: int
