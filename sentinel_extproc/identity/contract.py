"""What the authenticator asks, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Epoch


class IdentitySource(Protocol):
    """Checks a token, without any memory of its own."""

    async def identify(self, token: str) -> Principal:
        """Raises as ``Authenticator.authenticate`` does, and SourceBusy; ends by itself within a
        deadline of its own."""
        ...


class EpochReader(Protocol):
    """Knows how far revocation has come."""

    async def epochs(self, external_id: str, *token_sha256: bytes) -> tuple[Epoch, ...]:
        """The epochs that concern this user and token, under all digests that it is known by.
        Never waits long.

        Raises:
            Unavailable: they can't be read.
        """
        ...

    def lowest(self, *token_sha256: bytes) -> tuple[Epoch, ...]:
        """The same epochs at 0: a reservation refuses them wherever there was a revocation."""
        ...


@dataclass(slots=True)
class IdentityCounters:
    """What happened so far; only ever grows. Exactly one of the first six per request."""

    fresh: int = 0
    stale: int = 0
    stale_on_error: int = 0
    denied_from_cache: int = 0
    looked_up: int = 0
    shed: int = 0
    source_calls: int = 0
    source_denials: int = 0
    source_failures: int = 0
    refreshes_shed: int = 0
    gated: int = 0
    revoked: int = 0
