"""What a token that looks like a JWT says, read without checking its signature. Pure.

An unverified claim may only ever shorten trust. Whoever shortens it in a forged token gains
nothing, and a genuine one says what its issuer meant.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class JwtClaims:
    """What was read. ``expires_at_s`` is in seconds since the epoch; None when not stated."""

    expires_at_s: float | None


class _Header(msgspec.Struct):
    alg: str


class _Payload(msgspec.Struct):
    exp: float | None = None


def read_jwt(token: str) -> JwtClaims | None:
    """The claims of ``token`` if it has the form of a signed JWT (RFC 7515, compact), else None.

    A payload whose ``exp`` isn't a finite number is taken as no JWT of ours: None.
    """
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        return None
    try:
        msgspec.json.decode(_segment(parts[0]), type=_Header)
        payload = msgspec.json.decode(_segment(parts[1]), type=_Payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if payload.exp is not None and not math.isfinite(payload.exp):
        return None
    return JwtClaims(payload.exp)


def signed_sha256(token: str) -> bytes | None:
    """SHA-256 of what a JWT's signature covers: the text ``header.payload``; None for other tokens.

    It names a JWT whatever its signature is spelt like: of ECDSA signatures anybody can make a
    second valid one, and base64url has several spellings of most. For refusing only: everybody can
    put a wrong signature behind a genuine ``header.payload``.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        msgspec.json.decode(_segment(parts[0]), type=_Header)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return hashlib.sha256(f"{parts[0]}.{parts[1]}".encode()).digest()


def _segment(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
