"""Who a request is for, once its credential has been checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Attributes:
        external_id: the id that limits and billing are kept under; never empty.
        user_id: the identity source's own id.
        email: what Zion bills by; may be empty for sources that have none.
        plan: subscription plan, for matching policies; None when unknown.
    """

    external_id: str
    user_id: str
    email: str
    plan: str | None = None


class Authenticator(Protocol):
    """Turns a bearer token into a principal."""

    async def authenticate(self, token: str) -> Principal:
        """Check ``token`` (without its scheme).

        Raises:
            Unauthenticated: the identity source says the token is invalid.
            Forbidden: the token is valid but unusable (no external id, account refused).
            Unavailable: it could not be checked; never a 401 in that case.
        """
        ...
