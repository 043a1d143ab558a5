"""Connection managers that the sidecar is attached to. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator

from sentinel_extproc.envoyconf.doctor.attachment import Attachment
from sentinel_extproc.envoyconf.doctor.gateway import Manager
from sentinel_extproc.envoyconf.doctor.reading import (
    cut_at,
    entries,
    flag,
    found,
    seconds,
    text,
)
from sentinel_extproc.envoyconf.doctor.rules import Finding, Rule, Severity
from sentinel_extproc.envoyconf.names import METADATA_NAMESPACE

SHORTEST_UPLOAD_S = 60.0
"""A body of some megabytes over a slow line takes about as long."""

PATHS = Rule(
    "path-normalisation",
    Severity.WARNING,
    "Paths are matched as the client spells them",
    "With /a/../v1/ or //v1/ a client picks a route that isn't meant for /v1/, one without the "
    "sidecar for instance. What reaches the sidecar so is refused with 400.",
    "normalize_path: true\nmerge_slashes: true",
)
ESCAPED_SLASHES = Rule(
    "escaped-slashes",
    Severity.WARNING,
    "Escaped slashes are turned into slashes after the route was chosen by the escaped path",
    "UNESCAPE_AND_FORWARD unescapes /v1%2F... before the sidecar sees it and only then: what was "
    "matched and what is metered can differ.",
    "path_with_escaped_slashes_action: REJECT_REQUEST",
)
REQUEST_TIMEOUT = Rule(
    "request-timeout",
    Severity.WARNING,
    "Slow uploads are cut",
    "request_timeout bounds how long a whole request may take to arrive; audio and images over a "
    "slow line get 408.",
    "request_timeout: 600s\nrequest_headers_timeout: 10s",
)
SLOW_BODIES = Rule(
    "slow-bodies",
    Severity.WARNING,
    "Clients may take for ever to send a request",
    "Idle time-outs begin anew with every byte. Who sends one now and then keeps a stream to the "
    "sidecar, and their place among those that may run at once, for as long as they like.",
    "request_timeout: 600s  # the longest honest upload must fit into it",
)
ENVOY_HEADERS = Rule(
    "client-headers-trusted",
    Severity.WARNING,
    "Clients may steer Envoy with x-envoy-* headers",
    "Without use_remote_address a client says by x-forwarded-for that it is internal. Then "
    "x-envoy-retry-on makes Envoy send a paid request several times, and "
    "x-envoy-upstream-rq-timeout-ms cuts it.",
    "use_remote_address: true",
)
HEADERS_SENT = Rule(
    "envoy-headers-sent",
    Severity.NOTE,
    "The provider is told about this gateway",
    "The router adds x-envoy-* headers to what goes to the provider, and to answers.",
    "# in the router's typed_config\nsuppress_envoy_headers: true",
)
ACCESS_LOG = Rule(
    "access-log",
    Severity.NOTE,
    "The access log doesn't have what the sidecar found out",
    "User, model, tokens and decision are there for the asking.",
    'json_format:\n  sentinel: "%DYNAMIC_METADATA(sentinel)%"',
)
LOCAL_REPLY = Rule(
    "local-reply",
    Severity.NOTE,
    "Envoy's own refusals are plain text",
    "Clients of the OpenAI API look for error.code in JSON; Envoy's 408, 413, 503 and 504 have "
    "none.",
    "# local_reply_config: as in envoy/envoy.yaml",
)
UPGRADE_FILTERS = Rule(
    "upgrade-filters",
    Severity.ERROR,
    "Upgraded requests have filters of their own, without the sidecar",
    "upgrade_configs with filters replaces the whole chain: WebSockets pass ungoverned.",
    "upgrade_configs:\n- upgrade_type: websocket  # without filters: the same chain as the rest",
)

RULES = (
    PATHS,
    ESCAPED_SLASHES,
    REQUEST_TIMEOUT,
    SLOW_BODIES,
    ENVOY_HEADERS,
    HEADERS_SENT,
    ACCESS_LOG,
    LOCAL_REPLY,
    UPGRADE_FILTERS,
)


def check_managers(attachment: Attachment) -> Iterator[Finding]:
    """Fields that hold for all routes of a manager."""
    for manager in attachment.managers:
        yield from _paths(manager)
        yield from _upgrades(manager, attachment.processors)
        yield from _headers(manager)
        yield from _logs(manager)
        timeout = seconds(manager.config, "request_timeout")
        if timeout is None or not cut_at(timeout):
            if not _observed(manager):
                yield SLOW_BODIES.at(manager.where)
        elif timeout < SHORTEST_UPLOAD_S:
            yield REQUEST_TIMEOUT.at(manager.where, f"{timeout:g}s")


def _observed(manager: Manager) -> bool:
    """Whether the sidecar only gets copies: then nothing waits for it."""
    ours = [entry for entry in manager.filters if entry.kind == "ext_proc"]
    return any(flag(entry.config, "observability_mode") for entry in ours)


def _paths(manager: Manager) -> Iterator[Finding]:
    missing = [f for f in ("normalize_path", "merge_slashes") if not flag(manager.config, f)]
    if missing:
        yield PATHS.at(manager.where, f"not set: {', '.join(missing)}")
    if text(manager.config, "path_with_escaped_slashes_action") == "UNESCAPE_AND_FORWARD":
        yield ESCAPED_SLASHES.at(manager.where)


def _upgrades(manager: Manager, processors: frozenset[str]) -> Iterator[Finding]:
    for upgrade in entries(manager.config, "upgrade_configs"):
        if upgrade.get("enabled") is False or not entries(upgrade, "filters"):
            continue
        clusters = {
            text(entry, "typed_config.grpc_service.envoy_grpc.cluster_name")
            for entry in entries(upgrade, "filters")
        }
        if not clusters & processors:
            kind = text(upgrade, "upgrade_type") or "?"
            yield UPGRADE_FILTERS.at(f"{manager.where} / upgrade {kind}")


def _headers(manager: Manager) -> Iterator[Finding]:
    if not flag(manager.config, "use_remote_address"):
        yield ENVOY_HEADERS.at(manager.where)
    for entry in manager.filters:
        if entry.kind == "router" and not flag(entry.config, "suppress_envoy_headers"):
            yield HEADERS_SENT.at(f"{manager.where} / filter {entry.name}")


def _logs(manager: Manager) -> Iterator[Finding]:
    wanted = f"DYNAMIC_METADATA({METADATA_NAMESPACE}"
    logs = entries(manager.config, "access_log")
    if not any(wanted in json.dumps(log, default=str) or _is_service(log) for log in logs):
        yield ACCESS_LOG.at(manager.where, "" if logs else "there is none")
    if found(manager.config, "local_reply_config") is None:
        yield LOCAL_REPLY.at(manager.where)


def _is_service(log: dict[str, object]) -> bool:
    # A log service gets all metadata, whatever is in a format.
    kind = text(log, "typed_config.@type")
    return "HttpGrpcAccessLogConfig" in kind or "OpenTelemetryAccessLogConfig" in kind
