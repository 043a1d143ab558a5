"""What the stand-in OpenAI can be told, and what it remembers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

WHOSE = {
    "request_id": "x-request-id",
    "exchange_id": "x-sentinel-exchange-id",
    "user": "x-sentinel-user",
}
"""Headers that say whose request it is, by the names of ``Served``."""


class Fault(StrEnum):
    """How a request can be made to fail."""

    ERROR_500 = "error-500"
    ERROR_429 = "error-429"
    DROP_MIDSTREAM = "drop-midstream"
    HANG = "hang"
    SLOW = "slow"
    NO_USAGE = "no-usage"
    GARBAGE = "garbage"
    GZIP = "gzip"


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request as it arrived.

    Attributes:
        headers: lower-case name and value pairs, in order, duplicates kept.
        body: at most the first 64 KiB, undecodable bytes replaced.
    """

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: str
    body_bytes: int
    authorized: bool

    def header(self, name: str) -> str | None:
        """The first value of a header, by its lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Served:
    """What one answer cost; ``complete`` is False when the client or a fault cut it.

    Attributes:
        request_id: ``x-request-id`` as Envoy sent it.
        exchange_id, user: what the sidecar told with ``provider.tell_identity``; else None.
    """

    id: str
    model_requested: str
    model: str
    streamed: bool
    complete: bool
    prompt_tokens: int
    completion_tokens: int
    request_id: str | None = None
    exchange_id: str | None = None
    user: str | None = None
