"""API keys from the configuration, by hash: an identity source for development and small set-ups.

The configuration holds SHA-256 digests, so reading it gives no key away. That is safe for keys
of full entropy only, which is why ``new_key`` makes them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping

from sentinel_extproc.errors import Unauthenticated
from sentinel_extproc.identity.principal import Principal

_DIGEST = re.compile(r"[0-9a-f]{64}")


def digest(key: str) -> str:
    """What to write into the configuration for ``key``: SHA-256, 64 lower-case hex digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_key() -> str:
    """A new key of 256 random bits."""
    return f"sk-sentinel-{secrets.token_urlsafe(32)}"


class StaticKeys:
    """An ``IdentitySource`` over a fixed table.

    Args:
        principals: by the key's ``digest``, in upper or lower case.

    Raises:
        ValueError: a digest isn't one, occurs twice, or its principal has no external id.
    """

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        self._principals: dict[str, Principal] = {}
        for text, principal in principals.items():
            name = text.lower()
            if _DIGEST.fullmatch(name) is None:
                # The text isn't repeated: it may be a key that somebody wrote there by mistake.
                raise ValueError("a static key must be given as 64 hex digits of its SHA-256")
            if name in self._principals:
                raise ValueError(f"static key {name[:8]}… is given twice")
            if not principal.external_id.strip():
                raise ValueError(f"static key {name[:8]}… has no external id")
            self._principals[name] = principal

    async def identify(self, token: str) -> Principal:
        """See ``IdentitySource``."""
        # Looking up a digest tells nothing about a key by its timing.
        principal = self._principals.get(digest(token))
        if principal is None:
            raise Unauthenticated("The API key is not valid.")
        return principal
