"""Routes that go through the sidecar: what would cut, double or refuse their traffic. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sentinel_extproc.envoyconf.doctor.attachment import Attachment, Expectations
from sentinel_extproc.envoyconf.doctor.gateway import Gateway, Manager, Route
from sentinel_extproc.envoyconf.doctor.reading import (
    Tree,
    cut_at,
    entries,
    found,
    integer,
    seconds,
    section,
    text,
)
from sentinel_extproc.envoyconf.doctor.rules import Finding, Rule, Severity

DEFAULT_ROUTE_TIMEOUT_S = 15.0
DEFAULT_IDLE_TIMEOUT_S = 300.0
DEFAULT_BUFFER_BYTES = 1 << 20

ROUTE_TIMEOUT = Rule(
    "route-timeout",
    Severity.ERROR,
    "Long answers are cut (15 s by default)",
    "The route's timeout counts from the request to the last byte. Generations take minutes: the "
    "client gets 504, or a stream that breaks off. What was made is billed all the same.",
    "route:\n  timeout: 0s\n  idle_timeout: 300s",
)
MAX_DURATION = Rule(
    "max-stream-duration",
    Severity.ERROR,
    "Streams are cut after a time, however lively they are",
    "max_stream_duration ends answers and WebSocket sessions in the middle.",
    "max_stream_duration: 0s  # or leave it out",
)
IDLE_TIMEOUT = Rule(
    "idle-timeout",
    Severity.WARNING,
    "Answers that begin late are cut",
    "Models that think first say nothing for minutes. The client gets 504, or a stream that "
    "breaks off.",
    "route:\n  idle_timeout: 300s  # or stream_idle_timeout of the connection manager",
)
BODY_LIMIT = Rule(
    "body-limit",
    Severity.ERROR,
    "Large requests are refused (above 1 MiB by default, 32 KiB in Envoy Gateway)",
    "Bodies that are counted are read whole, up to the route's request_body_buffer_limit or else "
    "the listener's per_connection_buffer_limit_bytes. More is 413: long conversations and images. "
    "If more than the limit arrives before the sidecar's first reply, Envoy may stop reading, and "
    "the request hangs until an idle time-out.",
    "request_body_buffer_limit: 16777216  # beside the route's match",
)
BODY_ABOVE = Rule(
    "body-limit-above-sidecar",
    Severity.WARNING,
    "Envoy buffers larger bodies than the sidecar takes",
    "Between the two limits the answer is 503 instead of 413, and clients try again.",
    "# raise server.max_message_bytes above it, or lower\nrequest_body_buffer_limit: 16777216",
)
RETRIES = Rule(
    "retries",
    Severity.WARNING,
    "Envoy sends paid requests again",
    "A request that the provider has begun to work on is repeated: it is paid twice and billed "
    "once. Safe are connect-failure, refused-stream and reset-before-request.",
    "retry_policy:\n  retry_on: connect-failure,refused-stream,reset-before-request",
)
HEDGING = Rule(
    "hedging",
    Severity.WARNING,
    "Envoy sends the same request twice when the first is slow",
    "Both are paid for, one is billed.",
    "# remove hedge_policy",
)
MIRROR = Rule(
    "mirror",
    Severity.ERROR,
    "Requests are copied to another cluster",
    "The copy carries the provider's key. If it leads to a provider, it is paid and never billed; "
    "if not, somebody else has the key.",
    "# remove request_mirror_policies",
)
REDIRECTS = Rule(
    "internal-redirects",
    Severity.WARNING,
    "Envoy follows the provider's redirects itself",
    "The request goes where the provider says, with its key, and is decided on again.",
    "# remove internal_redirect_policy",
)
WEBSOCKET = Rule(
    "websocket-off",
    Severity.NOTE,
    "WebSockets are refused",
    "Realtime sessions get 403 from Envoy.",
    "route:\n  upgrade_configs:\n  - upgrade_type: websocket",
)
HOST = Rule(
    "host-rewrite",
    Severity.WARNING,
    "The provider is sent this gateway's host name",
    "Providers serve by name: they answer 403, 404 or 421.",
    "route:\n  host_rewrite_literal: api.openai.com",
)

RULES = (
    ROUTE_TIMEOUT,
    MAX_DURATION,
    IDLE_TIMEOUT,
    BODY_LIMIT,
    BODY_ABOVE,
    RETRIES,
    HEDGING,
    MIRROR,
    REDIRECTS,
    WEBSOCKET,
    HOST,
)

_SAFE_RETRIES = frozenset(
    {"connect-failure", "refused-stream", "reset-before-request", "envoy-ratelimited"}
)
_REWRITES = (
    "host_rewrite_literal",
    "auto_host_rewrite",
    "host_rewrite_header",
    "host_rewrite_path_regex",
    "host_rewrite",
)


def check_routes(
    gateway: Gateway, attachment: Attachment, expected: Expectations
) -> Iterator[Finding]:
    """Every route through us."""
    for manager, route in attachment.governed:
        yield from _times(manager, route, expected)
        yield from _bodies(manager, route, expected)
        yield from _copies(route)
        yield from _upgrades(manager, route)
        if _is_tls(gateway, route.cluster) and not _rewrites_host(route):
            yield HOST.at(route.where)


def _times(manager: Manager, route: Route, expected: Expectations) -> Iterator[Finding]:
    timeout = seconds(route.action, "timeout")
    if timeout is None:
        yield ROUTE_TIMEOUT.at(route.where, f"not set: {DEFAULT_ROUTE_TIMEOUT_S:g}s")
    elif 0 < timeout < expected.longest_answer_s:
        yield ROUTE_TIMEOUT.at(route.where, f"{timeout:g}s")
    common = section(manager.config, "common_http_protocol_options")
    own = section(route.action, "max_stream_duration")
    longest = seconds(own, "max_stream_duration") if own else None
    if longest is None:
        longest = seconds(common, "max_stream_duration")
    if longest is not None and 0 < longest < expected.longest_answer_s:
        yield MAX_DURATION.at(route.where, f"{longest:g}s")
    per_try = _retry_policy(route)
    for name in ("per_try_timeout", "per_try_idle_timeout"):
        bound = seconds(per_try, name)
        needed = expected.longest_answer_s if name == "per_try_timeout" else 0.0
        if bound is not None and cut_at(bound) and bound < (needed or expected.longest_silence_s):
            yield ROUTE_TIMEOUT.at(route.where, f"{name} {bound:g}s")
    idle = seconds(route.action, "idle_timeout")
    if idle is None:
        idle = seconds(manager.config, "stream_idle_timeout")
    if idle is None:
        idle = DEFAULT_IDLE_TIMEOUT_S
    if 0 < idle < expected.longest_silence_s:
        yield IDLE_TIMEOUT.at(route.where, f"{idle:g}s")


def _bodies(manager: Manager, route: Route, expected: Expectations) -> Iterator[Finding]:
    limit = buffered_bytes(manager, route)
    if limit < expected.body_bytes:
        yield BODY_LIMIT.at(route.where, f"{limit} bytes, needed {expected.body_bytes}")
    if limit > expected.message_bytes:
        yield BODY_ABOVE.at(route.where, f"{limit} bytes, the sidecar {expected.message_bytes}")


def buffered_bytes(manager: Manager, route: Route) -> int:
    """The largest body that Envoy reads whole on a route."""
    for level, name in (
        (route.config, "request_body_buffer_limit"),
        (route.virtual_host, "request_body_buffer_limit"),
        (manager.listener, "per_connection_buffer_limit_bytes"),
    ):
        if (limit := integer(level, name)) is not None:
            return limit
    return DEFAULT_BUFFER_BYTES


def _retry_policy(route: Route) -> Tree:
    return section(route.action, "retry_policy") or section(route.virtual_host, "retry_policy")


def _copies(route: Route) -> Iterator[Finding]:
    policy = _retry_policy(route)
    conditions = {c.strip() for c in text(policy, "retry_on").split(",") if c.strip()}
    if risky := sorted(conditions - _SAFE_RETRIES):
        yield RETRIES.at(route.where, ",".join(risky))
    hedge = section(route.action, "hedge_policy") or section(route.virtual_host, "hedge_policy")
    if (
        hedge.get("hedge_on_per_try_timeout") is True
        or (integer(hedge, "initial_requests") or 1) > 1
    ):
        yield HEDGING.at(route.where)
    mirrors = entries(route.action, "request_mirror_policies") or entries(
        route.virtual_host, "request_mirror_policies"
    )
    if mirrors:
        yield MIRROR.at(route.where, ", ".join(filter(None, (text(m, "cluster") for m in mirrors))))
    if found(route.action, "internal_redirect_policy") is not None:
        yield REDIRECTS.at(route.where)


def _upgrades(manager: Manager, route: Route) -> Iterator[Finding]:
    for level in (route.action, manager.config):
        for upgrade in entries(level, "upgrade_configs"):
            if text(upgrade, "upgrade_type").lower() == "websocket":
                if upgrade.get("enabled") is not False:
                    return
                break
    yield WEBSOCKET.at(route.where)


def _is_tls(gateway: Gateway, cluster: str) -> bool:
    return bool(section(gateway.clusters.get(cluster, {}), "transport_socket"))


def _rewrites_host(route: Route) -> bool:
    return any(level.get(name) for level in (route.action, route.target) for name in _REWRITES)
