"""Claims that Envoy's jwt_authn filter has verified, as the credential of a request. Pure.

They are turned into one string that no client can send as a token (it begins with NUL), so that
whatever handles tokens handles them too: caches, single flight, revocation. Two requests share a
credential only if Envoy verified the same claims for both.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping

from sentinel_extproc.errors import Unauthenticated
from sentinel_extproc.identity.bearer import CHALLENGE, CHALLENGE_INVALID, MAX_TOKEN_BYTES
from sentinel_extproc.identity.expiry import signed_sha256

_MARK = "\0"


def claims_credential(verified: Mapping[str, object] | None, name: str, token: str) -> str:
    """The credential of a request.

    Args:
        verified: all that the filter says it has verified, by name.
        name: the filter's ``payload_in_metadata``.
        token: what the client sent in ``authorization``; empty when nothing. It names the
            credential for revocation, but only if it says what was verified: a client is free to
            send something else there.

    Raises:
        Unauthenticated: nothing was verified under this name.
    """
    claims = None if verified is None else verified.get(name)
    if not isinstance(claims, Mapping) or not claims:
        raise Unauthenticated("No verified token came with this request.", headers=CHALLENGE)
    # JSON escapes NUL, so the marks can't be moved by what a claim says.
    text = json.dumps(claims, sort_keys=True, separators=(",", ":"))
    if len(text) > MAX_TOKEN_BYTES:
        raise Unauthenticated(
            f"The claims of this token are longer than {MAX_TOKEN_BYTES} bytes.",
            headers=CHALLENGE_INVALID,
        )
    return f"{_MARK}{text}{_MARK}{token if _says(token, claims) else ''}"


def read_credential(credential: str) -> dict[str, object]:
    """The claims in a credential.

    Raises:
        Unauthenticated: it isn't one, for instance a token that somebody sent.
    """
    mark, _, rest = credential.partition(_MARK)
    if mark or not rest:
        raise Unauthenticated("No verified token came with this request.", headers=CHALLENGE)
    claims: dict[str, object] = json.loads(rest.partition(_MARK)[0])
    return claims


def credential_digest(credential: str) -> bytes:
    """What a credential is known by: SHA-256 of its token where that was forwarded, so that it can
    be revoked like any other; else of its claims."""
    text, _, token = credential.removeprefix(_MARK).partition(_MARK)
    return hashlib.sha256((token or _MARK + text).encode("utf-8", "surrogatepass")).digest()


def credential_signed_sha256(credential: str) -> bytes | None:
    """``signed_sha256`` of the token in a credential; None when it wasn't forwarded."""
    return signed_sha256(credential.removeprefix(_MARK).partition(_MARK)[2])


def _says(token: str, claims: Mapping[str, object]) -> bool:
    parts = token.split(".")
    if len(parts) != 3:
        return False
    try:
        payload = parts[1] + "=" * (-len(parts[1]) % 4)
        return bool(json.loads(base64.b64decode(payload, altchars=b"-_", validate=True)) == claims)
    except (binascii.Error, ValueError, RecursionError):
        return False
