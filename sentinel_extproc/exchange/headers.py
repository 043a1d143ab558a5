"""Header rules of an exchange. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from sentinel_extproc.endpoints.contract import Head
from sentinel_extproc.exchange.events import Headers
from sentinel_extproc.exchange.lines import all_values, first_values
from sentinel_extproc.identity.bearer import parse_bearer
from sentinel_extproc.identity.principal import Principal

OWN_PREFIX = "x-sentinel-"

MAX_REQUEST_ID = 128
"""Bytes; Envoy's own has 36, and a client may send its own."""

_NOT_FOR_PROVIDERS = frozenset(
    {
        # Credentials of the caller. Authorization is overwritten where the provider has a key.
        *("proxy-authorization", "x-api-key", "api-key", "cookie"),
        # These choose whose account at the provider pays; the key is ours, so the choice is too.
        *("openai-organization", "openai-project"),
        # Some frameworks believe these more than the request line, which is what was metered.
        *("x-http-method-override", "x-http-method", "x-method-override"),
        *("x-original-url", "x-original-uri", "x-original-path", "x-original-method"),
        *("x-rewrite-url", "x-forwarded-host", "x-forwarded-prefix", "x-forwarded-uri"),
        *("x-forwarded-path", "x-forwarded-method", "forwarded"),
        # Of trailers, which are taken out.
        "trailer",
    }
)
# A second spelling of what only we may say, or what was decided on.
_SPELT_ONCE = frozenset({"authorization", "content-type", "content-length", "transfer-encoding"})
# What the provider tells its customer, which is us, about our account with it.
_PROVIDER_ONLY = frozenset(
    {"openai-organization", "openai-project", "anthropic-organization-id", "set-cookie"}
)
GATEWAYS_OWN = {
    b"408": b"request_timeout",
    b"413": b"payload_too_large",
    b"502": b"bad_gateway",
    b"503": b"service_unavailable",
    b"504": b"gateway_timeout",
}
"""By status, the ``x-sentinel-error`` of answers that Envoy makes in our shape."""
_NOT_FOR_CLIENTS = ("x-ratelimit-", "anthropic-ratelimit-", OWN_PREFIX)

SUBPROTOCOLS = "sec-websocket-protocol"
_KEY_PROTOCOL = b"openai-insecure-api-key."
_PRIVATE_PROTOCOLS = (_KEY_PROTOCOL, b"openai-organization.", b"openai-project.")

_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


def valid_value(value: bytes) -> bool:
    """Whether ``value`` may stand in a header (RFC 9110, section 5.5): no control characters."""
    return _VALUE.fullmatch(value) is not None


def valid_name(name: str) -> bool:
    """Whether ``name`` is a header name (RFC 9110 token) in lower case."""
    return _NAME.fullmatch(name) is not None


def request_id(headers: Headers) -> str | None:
    """What Envoy calls this request in its access log; None if it doesn't."""
    value = first_values(headers).get("x-request-id", b"")
    return value[:MAX_REQUEST_ID].decode("ascii", "replace") or None


def read_head(headers: Headers) -> Head:
    """What an endpoint may decide on before there is a body."""
    given = first_values(headers).get
    length = given("content-length", b"")
    return Head(
        target=given(":path", b"").decode("latin-1"),
        content_type=given("content-type", b"").decode("latin-1"),
        content_length=int(length) if length.isdigit() and len(length) < 19 else None,
        method=given(":method", b""),
    )


def caller_token(headers: Headers, key_header: str) -> str:
    """The user's token: from ``authorization``, or where else the API's clients put it.

    Raises:
        Unauthenticated: there is none, or more than one.
    """
    values = all_values(headers, "authorization")
    if not values and key_header:
        keys = all_values(headers, key_header)
        if key_header == SUBPROTOCOLS:
            keys = [p[len(_KEY_PROTOCOL) :] for p in _protocols(keys) if _is_key(p)]
        values = [b"Bearer " + key.strip() for key in keys]
    return parse_bearer(values)


@dataclass(frozen=True, slots=True)
class Upstream:
    """How requests present themselves to the provider.

    Attributes:
        credentials: header lines that carry the provider's key.
        tell_identity: send our identity headers along.
        defaults: header lines that the provider needs and the client may choose itself.
    """

    credentials: tuple[tuple[str, bytes], ...]
    tell_identity: bool = False
    defaults: tuple[tuple[str, bytes], ...] = ()

    def __post_init__(self) -> None:
        for name, value in (*self.credentials, *self.defaults):
            if not valid_name(name) or not value or not valid_value(value):
                raise ValueError(f"the provider credential for header {name!r} is not usable")


def to_provider(
    headers: Headers,
    upstream: Upstream,
    principal: Principal,
    exchange_id: str,
    *,
    drop: tuple[str, ...] = (),
) -> tuple[tuple[tuple[str, bytes], ...], tuple[str, ...]]:
    """What to set and what to remove on a request that goes upstream.

    The client's copies of our own headers go, also spelt with underscores, which many servers take
    for hyphens. So does ``accept-encoding``: a compressed answer could only be counted by unpacking
    it.

    Args:
        drop: further headers that must not go upstream.
    """
    given = first_values(headers)
    set_headers = list(upstream.credentials)
    if upstream.defaults:
        set_headers += [line for line in upstream.defaults if line[0] not in given]
    if SUBPROTOCOLS in given:
        # Browsers can set no other header on a WebSocket, so clients put their key in here.
        kept_protocols = [
            p
            for p in _protocols(all_values(headers, SUBPROTOCOLS))
            if not p.startswith(_PRIVATE_PROTOCOLS)
        ]
        if kept_protocols:
            set_headers.append((SUBPROTOCOLS, b", ".join(kept_protocols)))
    if upstream.tell_identity:
        set_headers += _identity(principal, exchange_id)
    removed = given.keys() & _dropped(drop)
    names = " ".join(given)
    # Most requests have none of what must be looked at name by name.
    if "_" in names or OWN_PREFIX in names:
        removed |= {name for name in given if _spelt_like_ours(name)}
    return tuple(set_headers), tuple(sorted(removed.difference(dict(set_headers))))


@lru_cache(64)
def _dropped(drop: tuple[str, ...]) -> frozenset[str]:
    return _NOT_FOR_PROVIDERS | {"accept-encoding", "authorization", SUBPROTOCOLS, *drop}


def _spelt_like_ours(name: str) -> bool:
    """Whether it is our own to say, or what a server may take for a header that was taken out."""
    spelt = name.replace("_", "-")
    if spelt.startswith(OWN_PREFIX):
        return True
    return spelt != name and (spelt in _NOT_FOR_PROVIDERS or spelt in _SPELT_ONCE)


def to_client(
    headers: Headers, limits: Iterable[tuple[str, str]], exchange_id: str
) -> tuple[tuple[tuple[str, bytes], ...], tuple[str, ...]]:
    """What to set and what to remove on an answer: our limits instead of the provider's."""
    given = first_values(headers)
    set_headers = [("x-sentinel-exchange-id", exchange_id.encode())]
    set_headers += [(name, value.encode("latin-1", "replace")) for name, value in limits]
    removed = {
        name for name in given if name in _PROVIDER_ONLY or name.startswith(_NOT_FOR_CLIENTS)
    }
    removed.difference_update(dict(set_headers))
    own = GATEWAYS_OWN.get(given.get(":status", b""))
    if own is not None and all_values(headers, "x-sentinel-error") == [own]:
        # Envoy's answer when the provider can't be reached comes by here like the provider's own.
        removed.discard("x-sentinel-error")
    return tuple(set_headers), tuple(sorted(removed))


def _protocols(lines: Iterable[bytes]) -> list[bytes]:
    return [part.strip() for line in lines for part in line.split(b",") if part.strip()]


def _is_key(protocol: bytes) -> bool:
    return protocol.startswith(_KEY_PROTOCOL)


def _identity(principal: Principal, exchange_id: str) -> list[tuple[str, bytes]]:
    facts: Mapping[str, str] = {
        "x-sentinel-user": principal.external_id,
        "x-sentinel-email": principal.email,
        "x-sentinel-exchange-id": exchange_id,
    }
    encoded = [(name, value.encode("utf-8", "replace")) for name, value in facts.items() if value]
    return [(name, value) for name, value in encoded if valid_value(value)]
