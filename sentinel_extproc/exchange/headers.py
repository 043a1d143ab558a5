"""Header rules of an exchange. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sentinel_extproc.errors import InvalidRequest
from sentinel_extproc.exchange.events import Headers
from sentinel_extproc.identity.principal import Principal

OWN_PREFIX = "x-sentinel-"

# Credentials of the caller. Authorization is overwritten where the provider has a key for it.
_CREDENTIALS = frozenset({"proxy-authorization", "x-api-key", "api-key", "cookie"})
# These choose whose account at the provider pays; the key is ours, so the choice is too.
_ACCOUNT = frozenset({"openai-organization", "openai-project"})
# What the provider tells its customer, which is us, about our account with it.
_PROVIDER_ONLY = frozenset({"openai-organization", "openai-project", "set-cookie"})

_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


def valid_value(value: bytes) -> bool:
    """Whether ``value`` may stand in a header (RFC 9110, section 5.5): no control characters."""
    return _VALUE.fullmatch(value) is not None


def valid_name(name: str) -> bool:
    """Whether ``name`` is a header name (RFC 9110 token) in lower case."""
    return _NAME.fullmatch(name) is not None


def first(headers: Headers, name: str) -> bytes:
    """The first value of ``name``, or empty."""
    for key, value in headers:
        if key == name:
            return value
    return b""


def all_values(headers: Headers, name: str) -> list[bytes]:
    """Every value of ``name``, in order."""
    return [value for key, value in headers if key == name]


def refuse_unreadable(headers: Headers) -> None:
    """Refuse what would pass without being counted.

    Raises:
        InvalidRequest: a compressed body, or a connection upgrade.
    """
    encoding = first(headers, "content-encoding").strip().lower()
    if encoding not in (b"", b"identity"):
        raise InvalidRequest(
            "Compressed request bodies are not supported; send it without Content-Encoding.",
            code="unsupported_content_encoding",
        )
    if first(headers, "upgrade") or first(headers, ":protocol"):
        raise InvalidRequest(
            "Connection upgrades are not supported on this path.", code="upgrade_not_supported"
        )


@dataclass(frozen=True, slots=True)
class Upstream:
    """How requests present themselves to the provider.

    Attributes:
        credentials: header lines that carry the provider's key.
        tell_identity: send our identity headers along.
    """

    credentials: tuple[tuple[str, bytes], ...]
    tell_identity: bool = False

    def __post_init__(self) -> None:
        for name, value in self.credentials:
            if not valid_name(name) or not value or not valid_value(value):
                raise ValueError(f"the provider credential for header {name!r} is not usable")


def to_provider(
    headers: Headers, upstream: Upstream, principal: Principal, exchange_id: str
) -> tuple[tuple[tuple[str, bytes], ...], tuple[str, ...]]:
    """What to set and what to remove on a request that goes upstream.

    The client's copies of our own headers go, and so does ``accept-encoding``: a compressed answer
    could only be counted by unpacking it.
    """
    given = {name for name, _ in headers}
    set_headers = list(upstream.credentials)
    if upstream.tell_identity:
        set_headers += _identity(principal, exchange_id)
    kept = {name for name, _ in set_headers}
    removed = {
        name
        for name in given
        if name.startswith(OWN_PREFIX) or name in _CREDENTIALS or name in _ACCOUNT
    }
    removed |= {"accept-encoding", "authorization"} & given
    return tuple(set_headers), tuple(sorted(removed - kept))


def to_client(
    headers: Headers, limits: Iterable[tuple[str, str]], exchange_id: str
) -> tuple[tuple[tuple[str, bytes], ...], tuple[str, ...]]:
    """What to set and what to remove on an answer: our limits instead of the provider's."""
    set_headers = [("x-sentinel-exchange-id", exchange_id.encode())]
    set_headers += [(name, value.encode("latin-1", "replace")) for name, value in limits]
    kept = {name for name, _ in set_headers}
    removed = {
        name
        for name, _ in headers
        if name in _PROVIDER_ONLY or name.startswith(("x-ratelimit-", OWN_PREFIX))
    }
    return tuple(set_headers), tuple(sorted(removed - kept))


def _identity(principal: Principal, exchange_id: str) -> list[tuple[str, bytes]]:
    facts: Mapping[str, str] = {
        "x-sentinel-user": principal.external_id,
        "x-sentinel-email": principal.email,
        "x-sentinel-exchange-id": exchange_id,
    }
    encoded = [(name, value.encode("utf-8", "replace")) for name, value in facts.items() if value]
    return [(name, value) for name, value in encoded if valid_value(value)]
