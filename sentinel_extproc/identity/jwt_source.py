"""JWTs checked here, against an issuer's key set: an identity source that asks nobody per token.

Follows RFC 8725 (JSON Web Token Best Current Practices): the algorithm is fixed by the key,
issuer and audience are required, ``exp`` must be there, and nothing in the token's header but
``alg`` and ``kid`` is looked at.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import jwt

from sentinel_extproc.errors import Unauthenticated
from sentinel_extproc.identity.claim_names import ClaimNames
from sentinel_extproc.identity.jwks import SUPPORTED, VerificationKey
from sentinel_extproc.identity.principal import Principal

LEEWAY_S = 30.0
"""How far the issuer's clock and ours may be apart."""


class KeyFinder(Protocol):
    """Finds the key of a token's issuer; ``JwksCache`` is one."""

    async def find(self, kid: str | None, alg: str) -> VerificationKey | None: ...


class JwtSource:
    """Checks JWTs of one issuer.

    Args:
        issuer: what ``iss`` must be, exactly.
        audience: what must be in ``aud``.
        algorithms: those accepted, of ``jwks.SUPPORTED``.
        names: of the claims that say who it is.

    Raises:
        ValueError: no issuer or audience, or an algorithm that isn't supported.
    """

    def __init__(
        self,
        keys: KeyFinder,
        *,
        issuer: str,
        audience: str,
        algorithms: Collection[str] = SUPPORTED,
        names: ClaimNames | None = None,
    ) -> None:
        if not issuer or not audience:
            raise ValueError("checking JWTs needs an issuer and an audience")
        if not algorithms or not set(algorithms) <= SUPPORTED:
            raise ValueError(f"algorithms must be some of {', '.join(sorted(SUPPORTED))}")
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._algorithms = frozenset(algorithms)
        self._names = names or ClaimNames()

    async def identify(self, token: str) -> Principal:
        """See ``IdentitySource``."""
        if "=" in token:  # RFC 7515, 2: base64url without padding
            raise _invalid("not a signed JWT")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _invalid("not a signed JWT") from None
        alg, kid = header.get("alg"), header.get("kid")
        if not isinstance(alg, str) or alg not in self._algorithms or "crit" in header:
            raise _invalid("its algorithm is not accepted")
        key = await self._keys.find(kid, alg)
        if key is None:
            raise _invalid("its signing key is not known")
        return self._names.principal(self._verify(token, key, alg))

    def _verify(self, token: str, key: VerificationKey, alg: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                # The bare key: the algorithm is the one found for it, not one it brings along.
                key=key.key.key,
                algorithms=[alg],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise _invalid("it has expired") from None
        except (jwt.InvalidIssuerError, jwt.InvalidAudienceError):
            raise _invalid("it was issued for something else") from None
        except jwt.ImmatureSignatureError:
            raise _invalid("it is not valid yet") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise _invalid("its signature or claims are not valid") from None


def _invalid(why: str) -> Unauthenticated:
    return Unauthenticated(f"The API token is not valid: {why}.")
