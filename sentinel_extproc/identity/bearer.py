"""The ``Authorization`` header of a request, taken apart. Pure.

Strict where leniency helps nobody but an attacker: one header, one scheme, one blank, and a token
of visible ASCII (RFC 9110, 11.6.2; RFC 6750, 2.1, whose token alphabet is a part of it). A comma is
refused because Envoy and other proxies join repeated headers with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sentinel_extproc.errors import Unauthenticated

MAX_TOKEN_BYTES = 8 * 1024
"""Longer than any JWT that a browser could send in a header; bounds the work on unknown input."""

CHALLENGE = {"www-authenticate": 'Bearer realm="sentinel"'}
CHALLENGE_INVALID = {"www-authenticate": 'Bearer realm="sentinel", error="invalid_token"'}

_TOKEN = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")  # visible ASCII without the comma
_TOKEN_BYTES = bytes(byte for byte in range(256) if _TOKEN.fullmatch(bytes([byte])))

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_SCHEME = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)( ?)(.*)", re.DOTALL)


def parse_bearer(values: Sequence[bytes | str]) -> str:
    """The token in a request's ``Authorization`` headers.

    Args:
        values: every value of the header, in order, undecoded where possible.

    Raises:
        Unauthenticated: there is no usable token; the message says which rule was broken.
    """
    if not values:
        raise Unauthenticated(
            "No API key was given: send it as 'Authorization: Bearer <key>'.", headers=CHALLENGE
        )
    if len(values) > 1:
        raise _invalid("The Authorization header was sent more than once.")
    value = values[0]
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogatepass")
    scheme, token = value[:7], value[7:]
    usual = scheme.lower() == b"bearer " and token and len(token) <= MAX_TOKEN_BYTES
    if usual and not token.translate(None, _TOKEN_BYTES):  # which is quick for long ones
        return token.decode("ascii")
    if len(value) > MAX_TOKEN_BYTES + 64:
        raise _too_long()
    value = value.strip(b" \t")
    if not value:
        raise Unauthenticated("The Authorization header is empty.", headers=CHALLENGE)
    if _CONTROL.search(value) is not None:
        raise _invalid("The Authorization header has control characters in it.")
    return _token(value)


def _token(value: bytes) -> str:
    found = _SCHEME.fullmatch(value)
    if found is None:
        raise _invalid("The Authorization header can't be read.")
    scheme, blank, token = found.groups()
    if scheme.lower() != b"bearer":
        raise _invalid("Only the Bearer scheme is supported in the Authorization header.")
    if not token:
        raise _invalid("The Authorization header names the Bearer scheme but has no key.")
    if not blank:
        raise _invalid("The Authorization header can't be read.")
    if b"," in token:
        raise _invalid("The Authorization header has more than one value.")
    if b" " in token:
        raise _invalid("The API key has blanks in it or before it.")
    if len(token) > MAX_TOKEN_BYTES:
        raise _too_long()
    if _TOKEN.fullmatch(token) is None:
        raise _invalid("The API key has characters that no key has.")
    return token.decode("ascii")


def _too_long() -> Unauthenticated:
    return _invalid(f"The API key is longer than {MAX_TOKEN_BYTES} bytes.")


def _invalid(message: str) -> Unauthenticated:
    return Unauthenticated(message, headers=CHALLENGE_INVALID)
