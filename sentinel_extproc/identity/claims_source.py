"""Envoy's jwt_authn filter as the source of identities: it has verified, we read."""

from __future__ import annotations

from collections.abc import Mapping

from sentinel_extproc.errors import Unauthenticated
from sentinel_extproc.identity.claim_names import ClaimNames
from sentinel_extproc.identity.claims import read_credential
from sentinel_extproc.identity.principal import Principal


class ClaimsSource:
    """An ``IdentitySource`` over ``claims_credential``; refuses tokens, which it can't verify.

    Args:
        issuer, audience: what ``iss`` must be and ``aud`` contain; None for whatever Envoy accepts.
        names: of the claims that say who it is.
    """

    def __init__(
        self,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        names: ClaimNames | None = None,
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._names = names or ClaimNames()

    async def identify(self, token: str) -> Principal:
        """See ``IdentitySource``."""
        claims = read_credential(token)
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise _for_something_else()
        if self._audience is not None and self._audience not in _audiences(claims):
            raise _for_something_else()
        return self._names.principal(claims)


def _audiences(claims: Mapping[str, object]) -> list[object]:
    given = claims.get("aud")
    return given if isinstance(given, list) else [given]


def _for_something_else() -> Unauthenticated:
    return Unauthenticated("The API token is not valid: it was issued for something else.")
