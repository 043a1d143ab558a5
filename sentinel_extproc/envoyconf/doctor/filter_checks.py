"""Our own filter's fields. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sentinel_extproc.envoyconf.doctor.attachment import Attached, Attachment, Expectations
from sentinel_extproc.envoyconf.doctor.reading import (
    Tree,
    covers,
    cut_at,
    entries,
    flag,
    found,
    seconds,
    section,
    text,
    texts,
)
from sentinel_extproc.envoyconf.doctor.rules import Finding, Rule, Severity
from sentinel_extproc.envoyconf.names import METADATA_NAMESPACE
from sentinel_extproc.envoyconf.versions import CONTENT_LENGTH_SINCE

DEFAULT_MESSAGE_TIMEOUT_S = 0.2

MESSAGE_TIMEOUT = Rule(
    "message-timeout",
    Severity.ERROR,
    "Envoy gives the sidecar too little time to answer (200 ms by default)",
    "Asking Zion or Redis takes longer at times, and such requests end in 504. It must be above "
    "server.decision_timeout_seconds, or the sidecar's own answer comes too late.",
    "message_timeout: 2s",
)
MAX_MESSAGE_TIMEOUT = Rule(
    "max-message-timeout",
    Severity.NOTE,
    "max_message_timeout has no effect here",
    "It bounds the extra time that a processor asks for. The sidecar never asks for any; what "
    "counts is message_timeout.",
    "# remove max_message_timeout",
)
FAILURE_MODE = Rule(
    "failure-mode-allow",
    Severity.ERROR,
    "Requests pass when the sidecar fails",
    "While it is down or too slow, everybody reaches the provider, without authentication or "
    "limits, and nothing is billed.",
    "failure_mode_allow: false",
)
OBSERVABILITY = Rule(
    "observability-mode",
    Severity.ERROR,
    "Envoy doesn't wait for the sidecar's answers",
    "Requests go to the provider at once, with the user's own token and whatever the sidecar says: "
    "nobody is authenticated or limited.",
    "observability_mode: false",
)
DEFERRED_CLOSE = Rule(
    "deferred-close",
    Severity.NOTE,
    "deferred_close_timeout has no effect here",
    "It is read in observability mode only.",
    "# remove deferred_close_timeout",
)
IMMEDIATE_RESPONSE = Rule(
    "immediate-response-off",
    Severity.ERROR,
    "The sidecar's refusals are thrown away",
    "Instead of 401, 403 or 429 with its reason, clients get status_on_error (500 or 503), and "
    "they retry what they should not.",
    "disable_immediate_response: false",
)
STATUS_ON_ERROR = Rule(
    "status-on-error",
    Severity.NOTE,
    "A failing sidecar looks like a fault of Envoy's",
    "Clients get 500 instead of 503, which says that trying again helps.",
    "status_on_error: {code: ServiceUnavailable}",
)
HTTP_SERVICE = Rule(
    "http-service",
    Severity.ERROR,
    "The filter calls its processor by plain HTTP",
    "The sidecar speaks ext_proc's gRPC. Every request fails.",
    "grpc_service: {envoy_grpc: {cluster_name: sentinel}}  # instead of http_service",
)
GOOGLE_GRPC = Rule(
    "google-grpc",
    Severity.WARNING,
    "The filter calls the sidecar by Google's gRPC client",
    "No cluster, so no circuit breakers, health checks or balancing over workers; what is said "
    "about clusters here can't be checked.",
    "grpc_service: {envoy_grpc: {cluster_name: sentinel}}  # instead of google_grpc",
)
REQUEST_HEADERS = Rule(
    "request-headers-skipped",
    Severity.ERROR,
    "The sidecar isn't shown the request's headers",
    "It can't tell whose request it is. Every request fails.",
    "processing_mode: {request_header_mode: SEND}",
)
REQUEST_BODY = Rule(
    "request-body-mode",
    Severity.WARNING,
    "Request bodies are buffered before the sidecar says whether it wants them",
    "Its reply to the headers changes that, but by then more than the buffer may have come: large "
    "uploads that would only pass get 413 now and then.",
    "processing_mode: {request_body_mode: STREAMED}",
)
RESPONSE_MODE = Rule(
    "response-mode",
    Severity.NOTE,
    "By itself the filter doesn't stream answers through the sidecar",
    "It works as long as the sidecar's replies override it. State what is meant.",
    "processing_mode: {response_header_mode: SEND, response_body_mode: STREAMED}",
)
FULL_DUPLEX = Rule(
    "full-duplex",
    Severity.ERROR,
    "FULL_DUPLEX_STREAMED is another protocol",
    "The sidecar answers each message; in this mode that is a fault. Requests with a body fail, "
    "and there is no message_timeout.",
    "processing_mode: {request_body_mode: STREAMED, response_body_mode: STREAMED}",
)
MODE_OVERRIDE = Rule(
    "mode-override-off",
    Severity.ERROR,
    "The sidecar may not say which bodies it needs",
    "It asks for whole bodies where tokens are counted. Without them, requests that come in more "
    "than one piece get 400, streams fail, and WebSockets hang if the mode is BUFFERED.",
    "allow_mode_override: true",
)
OVERRIDE_MODES = Rule(
    "override-modes",
    Severity.ERROR,
    "allowed_override_modes lacks modes that the sidecar asks for",
    "Envoy ignores such an override without a word: bodies come in pieces or not at all, and the "
    "requests fail or aren't counted.",
    "# remove allowed_override_modes",
)
EARLY_BODY = Rule(
    "early-body",
    Severity.ERROR,
    "Bodies are sent before the sidecar has answered to the headers",
    "It hasn't said by then whether it wants them whole. Requests fail with 400 or 503.",
    "send_body_without_waiting_for_header_response: false",
)
TRAILERS = Rule(
    "trailers-sent",
    Severity.NOTE,
    "Trailers are sent for every request",
    "Each costs a message. The sidecar asks for them where it needs them.",
    "processing_mode: {request_trailer_mode: SKIP, response_trailer_mode: SKIP}",
)
NAMESPACE = Rule(
    "namespace-missing",
    Severity.WARNING,
    "Envoy drops the sidecar's metadata",
    "User, model, tokens and decision are missing from the access log and for later filters.",
    "metadata_options:\n  receiving_namespaces:\n    untyped: [sentinel]",
)
MUTATION_RULES = Rule(
    "mutation-rules",
    Severity.ERROR,
    "mutation_rules forbid changes that the sidecar makes",
    "It puts the provider's key into authorization. Without that, the user's own token goes to "
    "the provider, or the request fails.",
    "mutation_rules: {}  # Envoy's defaults allow what is needed",
)
FORWARD_RULES = Rule(
    "forward-rules",
    Severity.ERROR,
    "forward_rules hide headers that the sidecar needs",
    "Without :path everything is 404, without authorization 401; without content-type and "
    "content-encoding it can't read bodies.",
    "# remove forward_rules",
)
CONTENT_LENGTH = Rule(
    "content-length",
    Severity.WARNING,
    "Answers lose their Content-Length",
    "Streaming through a processor takes it away, also from answers that aren't streamed; some "
    "clients need it.",
    "allow_content_length_header: true  # Envoy 1.38 and newer",
)
ROUTE_CACHE = Rule(
    "route-cache",
    Severity.WARNING,
    "Envoy chooses the route again after the sidecar's changes",
    "Changed headers can lead the request to another route, with other time-outs or another "
    "cluster than the one it was checked for.",
    "route_cache_action: RETAIN",
)

RULES = (
    MESSAGE_TIMEOUT,
    MAX_MESSAGE_TIMEOUT,
    FAILURE_MODE,
    OBSERVABILITY,
    DEFERRED_CLOSE,
    IMMEDIATE_RESPONSE,
    STATUS_ON_ERROR,
    HTTP_SERVICE,
    GOOGLE_GRPC,
    REQUEST_HEADERS,
    REQUEST_BODY,
    RESPONSE_MODE,
    FULL_DUPLEX,
    MODE_OVERRIDE,
    OVERRIDE_MODES,
    EARLY_BODY,
    TRAILERS,
    NAMESPACE,
    MUTATION_RULES,
    FORWARD_RULES,
    CONTENT_LENGTH,
    ROUTE_CACHE,
)

_ASKED_FOR = (("BUFFERED", "STREAMED"), ("NONE", "STREAMED"), ("STREAMED", "STREAMED"))
"""Request and response body modes of the sidecar's overrides; see transport.codec."""

_CHANGED_HEADERS = ("authorization", "content-length", "accept-encoding")
_NEEDED_HEADERS = (
    ":path",
    ":method",
    "authorization",
    "content-type",
    "content-encoding",
    "content-length",
    "upgrade",
)


def check_filters(
    attachment: Attachment, expected: Expectations, version: tuple[int, int] | None
) -> Iterator[Finding]:
    """Everything about every form of our filter."""
    for attached in attachment.filters:
        if not (expected.observes and flag(attached.config, "observability_mode")):
            yield from _timeouts(attached, expected)
            yield from _failures(attached)
            yield from _modes(attached)
            yield from _mutations(attached)
        yield from _service(attached)
        yield from _forwarded(attached)
        kept = flag(attached.config, "allow_content_length_header")
        if not kept and (version is None or version >= CONTENT_LENGTH_SINCE):
            yield CONTENT_LENGTH.at(attached.where)


def _timeouts(attached: Attached, expected: Expectations) -> Iterator[Finding]:
    timeout = seconds(attached.config, "message_timeout")
    if timeout is None:
        yield MESSAGE_TIMEOUT.at(attached.where, "not set: 0.2s")
    elif timeout <= expected.decision_s:
        seen = f"{timeout:g}s, the sidecar decides within {expected.decision_s:g}s"
        yield MESSAGE_TIMEOUT.at(attached.where, seen)
    if cut_at(seconds(attached.config, "max_message_timeout")):
        yield MAX_MESSAGE_TIMEOUT.at(attached.where)


def _failures(attached: Attached) -> Iterator[Finding]:
    config = attached.config
    if flag(config, "failure_mode_allow"):
        yield FAILURE_MODE.at(attached.where)
    if flag(config, "observability_mode"):
        yield OBSERVABILITY.at(attached.where)
    elif "deferred_close_timeout" in config:
        yield DEFERRED_CLOSE.at(attached.where)
    if flag(config, "disable_immediate_response"):
        yield IMMEDIATE_RESPONSE.at(attached.where)
    if not section(config, "status_on_error"):
        yield STATUS_ON_ERROR.at(attached.where)
    if text(config, "route_cache_action") == "CLEAR":
        yield ROUTE_CACHE.at(attached.where)


def _modes(attached: Attached) -> Iterator[Finding]:
    mode = section(attached.config, "processing_mode")
    if text(mode, "request_header_mode") == "SKIP":
        yield REQUEST_HEADERS.at(attached.where)
    bodies = [text(mode, f"{side}_body_mode") or "NONE" for side in ("request", "response")]
    if "FULL_DUPLEX_STREAMED" in bodies:
        yield FULL_DUPLEX.at(attached.where)
    elif not flag(attached.config, "allow_mode_override"):
        yield MODE_OVERRIDE.at(attached.where, f"request bodies are {bodies[0]}")
    else:
        if bodies[0].startswith("BUFFERED"):
            yield REQUEST_BODY.at(attached.where, bodies[0])
        if bodies[1] != "STREAMED" or text(mode, "response_header_mode") == "SKIP":
            yield RESPONSE_MODE.at(attached.where)
        yield from _allowed_modes(attached)
    if flag(attached.config, "send_body_without_waiting_for_header_response"):
        yield EARLY_BODY.at(attached.where)
    trailers = (text(mode, "request_trailer_mode"), text(mode, "response_trailer_mode"))
    if "SEND" in trailers and "FULL_DUPLEX_STREAMED" not in bodies:
        yield TRAILERS.at(attached.where)


def _allowed_modes(attached: Attached) -> Iterator[Finding]:
    allowed = {
        (text(m, "request_body_mode") or "NONE", text(m, "response_body_mode") or "NONE")
        for m in entries(attached.config, "allowed_override_modes")
    }
    missing = [f"{a}/{b}" for a, b in _ASKED_FOR if allowed and (a, b) not in allowed]
    if missing:
        yield OVERRIDE_MODES.at(attached.where, f"missing: {', '.join(missing)}")


def _service(attached: Attached) -> Iterator[Finding]:
    if section(attached.config, "http_service"):
        yield HTTP_SERVICE.at(attached.where)
    elif found(attached.config, "grpc_service.google_grpc") is not None:
        yield GOOGLE_GRPC.at(attached.where)
    spaces = texts(attached.config, "metadata_options.receiving_namespaces.untyped")
    if METADATA_NAMESPACE not in spaces:
        yield NAMESPACE.at(attached.where)


def _mutations(attached: Attached) -> Iterator[Finding]:
    if reason := _forbidden(section(attached.config, "mutation_rules")):
        yield MUTATION_RULES.at(attached.where, reason)


def _forwarded(attached: Attached) -> Iterator[Finding]:
    rules = section(attached.config, "forward_rules")
    allowed = entries(rules, "allowed_headers.patterns")
    denied = entries(rules, "disallowed_headers.patterns")
    hidden = [
        name
        for name in _NEEDED_HEADERS
        if (allowed and not _listed(name, allowed)) or _listed(name, denied)
    ]
    if hidden:
        yield FORWARD_RULES.at(attached.where, f"hidden: {', '.join(hidden)}")


def _forbidden(rules: Tree) -> str:
    allowed = text(rules, "allow_expression.regex")
    denied = text(rules, "disallow_expression.regex")
    for name in _CHANGED_HEADERS:
        if denied and covers(denied, name):
            return f"disallow_expression covers {name}"
        if flag(rules, "disallow_all") and not (allowed and covers(allowed, name)):
            return f"disallow_all covers {name}"
    return ""


def _listed(name: str, patterns: list[Tree]) -> bool:
    return any(_is_match(name, pattern) for pattern in patterns)


def _is_match(name: str, pattern: Tree) -> bool:
    tests: dict[str, Callable[[str], bool]] = {
        "exact": name.__eq__,
        "prefix": name.startswith,
        "suffix": name.endswith,
        "contains": name.__contains__,
    }
    for form, holds in tests.items():
        if (wanted := text(pattern, form)) and holds(wanted.lower()):
            return True
    regex = text(pattern, "safe_regex.regex")
    return bool(regex) and bool(covers(regex, name))
