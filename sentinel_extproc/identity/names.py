"""What a token is known by. Pure."""

from __future__ import annotations

import hashlib

from msgspec import Struct

from sentinel_extproc.errors import Unauthenticated
from sentinel_extproc.identity.bearer import CHALLENGE_INVALID, MAX_TOKEN_BYTES


class Names(Struct, frozen=True, gc=False):
    """What a token is known by: its text, and what a JWT's signature covers."""

    text: bytes
    signed: bytes | None

    @property
    def all(self) -> tuple[bytes, ...]:
        """Every digest."""
        return (self.text,) if self.signed is None else (self.text, self.signed)


def text_sha256(token: str) -> bytes:
    """The digest of a whole token.

    Raises:
        Unauthenticated: it is longer than any may be.
    """
    data = token.encode("utf-8", "surrogatepass")
    if len(data) > MAX_TOKEN_BYTES:
        raise Unauthenticated(
            f"The API key is longer than {MAX_TOKEN_BYTES} bytes.", headers=CHALLENGE_INVALID
        )
    return hashlib.sha256(data).digest()
