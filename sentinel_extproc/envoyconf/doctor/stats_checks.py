"""What a running Envoy has counted since it started. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sentinel_extproc.envoyconf.doctor.attachment import Attachment
from sentinel_extproc.envoyconf.doctor.gateway import Gateway
from sentinel_extproc.envoyconf.doctor.reading import text
from sentinel_extproc.envoyconf.doctor.rules import Finding, Rule, Severity

UNGOVERNED = Rule(
    "seen-ungoverned",
    Severity.ERROR,
    "Requests have passed while the sidecar failed",
    "failure_mode_allow let them through: without authentication, limits or a record.",
    "failure_mode_allow: false",
)
TIMEOUTS = Rule(
    "seen-message-timeouts",
    Severity.WARNING,
    "The sidecar was too slow for message_timeout",
    "Clients got 504. Zion or Redis is slow, or the sidecar has too little CPU.",
    "message_timeout: 2s",
)
STREAMS = Rule(
    "seen-failed-streams",
    Severity.WARNING,
    "Streams to the sidecar have failed",
    "Clients got status_on_error, or answers that break off. It was down, restarted or full; its "
    "log says which.",
    "# look at the sidecar's log and metrics",
)
MUTATIONS = Rule(
    "seen-rejected-mutations",
    Severity.ERROR,
    "Envoy has rejected changes of headers that the sidecar made",
    "The provider may have got the user's token instead of its key.",
    "mutation_rules: {}",
)
SPURIOUS = Rule(
    "seen-spurious-messages",
    Severity.WARNING,
    "The sidecar has answered what wasn't asked",
    "The request failed. Envoy and the sidecar don't agree on the processing mode; check "
    "allow_mode_override and the versions of both.",
    "allow_mode_override: true",
)
NOT_HTTP2 = Rule(
    "seen-not-grpc",
    Severity.ERROR,
    "What answers at the sidecar's address is no ext_proc service",
    "Requests failed. Another program listens there, or a proxy in between doesn't pass gRPC.",
    "# check the endpoints of the sidecar's cluster",
)
OVERFLOW = Rule(
    "seen-overflow",
    Severity.WARNING,
    "A circuit breaker has refused requests",
    "They got 503 at once, because too many were in work.",
    "circuit_breakers:\n"
    "  thresholds:\n"
    "  - max_connections: 100000\n"
    "    max_pending_requests: 100000\n"
    "    max_requests: 100000",
)
CONNECT = Rule(
    "seen-connect-failures",
    Severity.WARNING,
    "Connections couldn't be made",
    "Requests got 503. For a Unix socket: it isn't there, or Envoy's user may not use it.",
    "# check the address, and server.socket_mode and the folder's permissions for a socket",
)
RESETS = Rule(
    "seen-resets",
    Severity.WARNING,
    "The other side has broken off requests",
    "Answers ended in the middle. For the sidecar: it restarted or its max_streams was reached.",
    "# look at the sidecar's log and metrics",
)
TOO_LARGE = Rule(
    "seen-too-large",
    Severity.WARNING,
    "Requests were refused for their size",
    "Bodies above the buffer limit got 413.",
    "request_body_buffer_limit: 16777216  # beside the route's match",
)
CUT = Rule(
    "seen-cut",
    Severity.WARNING,
    "Requests or answers were cut by a time-out",
    "A route's timeout, an idle time-out or max_stream_duration ended them.",
    "route:\n  timeout: 0s\n  idle_timeout: 300s",
)
RETRIED = Rule(
    "seen-retries",
    Severity.WARNING,
    "Envoy has sent requests to the provider again",
    "Each may have been paid twice and billed once.",
    "retry_policy:\n  retry_on: connect-failure,refused-stream,reset-before-request",
)
NO_WEBSOCKET = Rule(
    "seen-websocket-refused",
    Severity.NOTE,
    "Clients have asked for WebSockets where none are allowed",
    "They got 403.",
    "route:\n  upgrade_configs:\n  - upgrade_type: websocket",
)
UNHEALTHY = Rule(
    "seen-unhealthy",
    Severity.ERROR,
    "No worker of the sidecar is healthy",
    "Every request fails.",
    "# is the sidecar running? sentinel-extproc status",
)
PARTLY_UNHEALTHY = Rule(
    "seen-partly-unhealthy",
    Severity.WARNING,
    "Some workers of the sidecar aren't healthy",
    "The others carry their load.",
    "# sentinel-extproc status",
)
REJECTED_UPDATE = Rule(
    "seen-rejected-update",
    Severity.WARNING,
    "Envoy has refused configuration from its control plane",
    "What runs is older than what was meant. Older proxies refuse fields that they don't know.",
    "# Envoy's log says which field; render for its version",
)


@dataclass(frozen=True, slots=True)
class Counted:
    """Counters that mean trouble when they aren't 0."""

    rule: Rule
    names: tuple[str, ...]


OF_FILTER = (
    Counted(UNGOVERNED, ("failure_mode_allowed",)),
    Counted(TIMEOUTS, ("message_timeouts",)),
    Counted(STREAMS, ("streams_failed",)),
    Counted(MUTATIONS, ("rejected_header_mutations",)),
    Counted(SPURIOUS, ("spurious_msgs_received",)),
    Counted(NOT_HTTP2, ("http_not_ok_resp_received",)),
)
OF_BOTH_CLUSTERS = (
    Counted(
        OVERFLOW,
        ("upstream_rq_pending_overflow", "upstream_cx_overflow", "upstream_rq_active_overflow"),
    ),
    Counted(CONNECT, ("upstream_cx_connect_fail", "upstream_cx_connect_timeout")),
    Counted(RESETS, ("upstream_rq_rx_reset",)),
)
OF_PROVIDER = (
    *OF_BOTH_CLUSTERS,
    Counted(
        CUT,
        (
            "upstream_rq_timeout",
            "upstream_rq_per_try_timeout",
            "upstream_rq_per_try_idle_timeout",
            "upstream_rq_max_duration_reached",
        ),
    ),
    Counted(RETRIED, ("upstream_rq_retry",)),
)
OF_PROCESSOR = (*OF_BOTH_CLUSTERS, Counted(CUT, ("upstream_rq_max_duration_reached",)))
OF_MANAGER = (
    Counted(TOO_LARGE, ("downstream_rq_too_large",)),
    Counted(
        CUT,
        (
            "downstream_rq_timeout",
            "downstream_rq_idle_timeout",
            "downstream_rq_max_duration_reached",
        ),
    ),
    Counted(NO_WEBSOCKET, ("downstream_rq_ws_on_non_ws_route",)),
)
OF_CONTROL = (
    "listener_manager.lds.update_rejected",
    "cluster_manager.cds.update_rejected",
)

RULES = (
    UNGOVERNED,
    TIMEOUTS,
    STREAMS,
    MUTATIONS,
    SPURIOUS,
    NOT_HTTP2,
    OVERFLOW,
    CONNECT,
    RESETS,
    TOO_LARGE,
    CUT,
    RETRIED,
    NO_WEBSOCKET,
    UNHEALTHY,
    PARTLY_UNHEALTHY,
    REJECTED_UPDATE,
)

FILTER = "|".join(
    sorted(
        {
            name
            for table in (OF_FILTER, OF_PROVIDER, OF_PROCESSOR, OF_MANAGER)
            for counted in table
            for name in counted.names
        }
        | {"membership_", "update_rejected"}
    )
)
"""A regular expression for /stats that leaves out what isn't looked at."""

Stats = Mapping[str, int]


def check_stats(
    gateway: Gateway, attachment: Attachment, stats: Stats, observed_as: Mapping[str, str]
) -> Iterator[Finding]:
    """Counters of our filter, its managers and the clusters on both sides.

    Args:
        stats: counters and gauges by name.
        observed_as: a cluster's name in ``stats``, where that isn't its own.
    """
    prefixes = {_safe(text(manager.config, "stat_prefix")) for manager in attachment.managers}
    for prefix in sorted(prefixes):
        yield from _count(stats, f"http.{prefix}.", OF_MANAGER, f"listener stats {prefix}")
        for name in sorted({_filter_prefix(a.config) for a in attachment.filters}):
            yield from _count(stats, f"http.{prefix}.ext_proc.{name}", OF_FILTER, "the filter")
    for cluster in sorted(attachment.processors & gateway.clusters.keys()):
        root = _root(gateway, cluster, observed_as)
        yield from _count(stats, root, OF_PROCESSOR, f"cluster {cluster}")
        total = stats.get(f"{root}membership_total", 0)
        healthy = stats.get(f"{root}membership_healthy", 0)
        if total and healthy < total:
            rule = PARTLY_UNHEALTHY if healthy else UNHEALTHY
            yield rule.at(f"cluster {cluster}", f"{healthy} of {total} healthy")
    for cluster in sorted(attachment.providers & gateway.clusters.keys()):
        root = _root(gateway, cluster, observed_as)
        yield from _count(stats, root, OF_PROVIDER, f"cluster {cluster}")
    for name in OF_CONTROL:
        if stats.get(name, 0) > 0:
            yield REJECTED_UPDATE.at("control plane", f"{name} {stats[name]}")


def _count(stats: Stats, prefix: str, table: tuple[Counted, ...], where: str) -> Iterator[Finding]:
    for counted in table:
        counts = [f"{n} {v}" for n in counted.names if (v := stats.get(prefix + n, 0)) > 0]
        if counts:
            yield counted.rule.at(where, ", ".join(counts))


def _filter_prefix(config: dict[str, object]) -> str:
    prefix = text(config, "stat_prefix")
    return f"{_safe(prefix)}." if prefix else ""


def _root(gateway: Gateway, cluster: str, observed_as: Mapping[str, str]) -> str:
    name = text(gateway.clusters[cluster], "alt_stat_name") or cluster
    return f"cluster.{_safe(observed_as.get(cluster, name))}."


def _safe(name: str) -> str:
    """As Envoy puts a name into the name of a counter."""
    return name.replace(":", "_")
