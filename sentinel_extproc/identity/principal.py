"""Who a request is for, once its credential has been checked."""

from __future__ import annotations

from typing import Protocol

from sentinel_extproc.frozen import value
from sentinel_extproc.limits.model import Epoch, Quota


@value(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Attributes:
        external_id: the id that limits and billing are kept under; never empty.
        user_id: the identity source's own id.
        email: what Zion bills by; may be empty for sources that have none.
        plan: subscription plan, for matching policies; None when unknown.
        epochs: how far revocation had come when the credential was checked; the reservation
            fails when it has moved since.
    """

    external_id: str
    user_id: str
    email: str
    plan: str | None = None
    epochs: tuple[Epoch, ...] = ()


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

    async def recheck(self, token: str) -> Principal:
        """As ``authenticate``, but ask the source itself, past everything remembered."""
        ...


@value(frozen=True, slots=True)
class Entitlement:
    """What another authority says a caller may use.

    Attributes:
        plan: the subscription's name; None when the authority names none.
    """

    quotas: tuple[Quota, ...] = ()
    plan: str | None = None


class EntitlementSource(Protocol):
    """Knows what callers are entitled to."""

    async def entitlement(self, principal: Principal) -> Entitlement:
        """The caller's quotas and plan, as last reported.

        Raises:
            Forbidden: the authority doesn't know the caller.
            Unavailable: they can't be known now, and what was known is too old.
        """
        ...
