"""Which filters stand before us and which behind. Pure.

Requests pass filters from first to last, answers from last to first. What refuses should stand in
front, where it costs no reservation; what reads ``authorization`` must, because behind us the
provider's key is in it; what changes what is counted must not stand between us and the provider.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sentinel_extproc.envoyconf.doctor.attachment import Attachment
from sentinel_extproc.envoyconf.doctor.rules import Finding, Rule, Severity

_ORDER = (
    "# http_filters, in this order: cors, fault, rbac, ratelimit, jwt_authn or ext_authz,\n"
    "# decompressor, compressor, ext_proc (sentinel), credential or header filters, router"
)

ROUTER_FIRST = Rule(
    "router-first",
    Severity.ERROR,
    "The router stands before the sidecar's filter",
    "The router ends the chain: the sidecar never sees a request.",
    _ORDER,
)
AUTH_AFTER = Rule(
    "auth-after",
    Severity.ERROR,
    "A filter that checks credentials stands behind the sidecar's",
    "It finds the provider's key in authorization instead of the user's token: it refuses "
    "everybody, or hands that key to another service.",
    _ORDER,
)
CORS_AFTER = Rule(
    "cors-after",
    Severity.WARNING,
    "cors stands behind the sidecar's filter",
    "Browsers send preflights without a token; the sidecar answers them 401, and no page can call "
    "the gateway.",
    _ORDER,
)
REFUSED_AFTER = Rule(
    "refused-after",
    Severity.WARNING,
    "A filter that refuses requests stands behind the sidecar's",
    "What it refuses has been authenticated and reserved by then: it counts against the user's "
    "limits and costs calls to Redis and Zion.",
    _ORDER,
)
COMPRESSOR_AFTER = Rule(
    "compressor-after",
    Severity.WARNING,
    "The compressor stands behind the sidecar's filter",
    "It sees no accept-encoding, which the sidecar takes away, and never compresses an answer. "
    "Where it compresses requests, the provider gets them so.",
    _ORDER,
)
DECOMPRESSOR_AFTER = Rule(
    "decompressor-after",
    Severity.WARNING,
    "The decompressor stands behind the sidecar's filter",
    "Compressed requests reach the sidecar as they are, and it can't count what it can't read.",
    _ORDER,
)
CACHE_BEFORE = Rule(
    "cache-before",
    Severity.ERROR,
    "A cache stands before the sidecar's filter",
    "What is in it is served to anybody, without authentication, limits or a record.",
    _ORDER,
)
CREDENTIALS_BEFORE = Rule(
    "credentials-before",
    Severity.ERROR,
    "A filter puts credentials into the request before the sidecar sees it",
    "The sidecar takes them for the user's token: everybody is refused, or everybody is one user.",
    _ORDER,
)
CODE_AFTER = Rule(
    "code-after",
    Severity.NOTE,
    "A filter that runs code of its own stands behind the sidecar's",
    "It sees the provider's key, and can change path, model or body after they were counted. Fine "
    "if it does neither.",
    _ORDER,
)
BUFFER = Rule(
    "buffer-filter",
    Severity.WARNING,
    "The buffer filter holds every request until its body is complete",
    "WebSockets hang in it, and a body above its own limit gets 413. The sidecar has bodies "
    "buffered where they are counted.",
    "# in the routes' typed_per_filter_config\n"
    "envoy.filters.http.buffer:\n"
    '  "@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute\n'
    "  disabled: true",
)


@dataclass(frozen=True, slots=True)
class Misplaced:
    """Filters that break a rule on one side of ours."""

    rule: Rule
    kinds: frozenset[str]
    before: bool = False
    after: bool = False


PLACES = (
    Misplaced(ROUTER_FIRST, frozenset({"router"}), before=True),
    Misplaced(
        AUTH_AFTER,
        frozenset({"jwt_authn", "ext_authz", "oauth2", "basic_auth", "api_key_auth", "gcp_authn"}),
        after=True,
    ),
    Misplaced(CORS_AFTER, frozenset({"cors"}), after=True),
    Misplaced(
        REFUSED_AFTER,
        frozenset(
            {
                "rbac",
                "ratelimit",
                "local_ratelimit",
                "rate_limit_quota",
                "fault",
                "csrf",
                "admission_control",
            }
        ),
        after=True,
    ),
    Misplaced(COMPRESSOR_AFTER, frozenset({"compressor"}), after=True),
    Misplaced(DECOMPRESSOR_AFTER, frozenset({"decompressor"}), after=True),
    Misplaced(CACHE_BEFORE, frozenset({"cache", "cache_v2"}), before=True),
    Misplaced(CREDENTIALS_BEFORE, frozenset({"credential_injector"}), before=True),
    Misplaced(
        CODE_AFTER,
        frozenset(
            {"lua", "wasm", "golang", "dynamic_modules", "ext_proc", "tap", "credential_injector"}
        ),
        after=True,
    ),
    Misplaced(BUFFER, frozenset({"buffer"}), before=True, after=True),
)

RULES = tuple(place.rule for place in PLACES)


def check_order(attachment: Attachment) -> Iterator[Finding]:
    """Every filter of every manager against ``PLACES``."""
    for manager, ours in attachment.places:
        for index, entry in enumerate(manager.filters):
            if index in ours:
                continue
            for place in PLACES:
                wrong = (place.before and index < min(ours)) or (place.after and index > max(ours))
                if wrong and entry.kind in place.kinds:
                    yield place.rule.at(f"{manager.where} / filter {entry.name}", entry.kind)
