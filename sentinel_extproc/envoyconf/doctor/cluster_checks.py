"""The sidecar's cluster and the providers'. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sentinel_extproc.envoyconf.doctor.attachment import Attachment, Expectations, is_paid
from sentinel_extproc.envoyconf.doctor.gateway import (
    Gateway,
    addresses_of,
    breaker,
    http_options,
)
from sentinel_extproc.envoyconf.doctor.places import is_literal, is_local
from sentinel_extproc.envoyconf.doctor.reading import (
    Tree,
    entries,
    flag,
    found,
    seconds,
    section,
    text,
)
from sentinel_extproc.envoyconf.doctor.rules import Finding, Rule, Severity

_HTTP2 = (
    "typed_extension_protocol_options:\n"
    "  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n"
    '    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n'
    "    explicit_http_config:\n"
    "      http2_protocol_options: {}"
)
_BREAKERS = (
    "circuit_breakers:\n"
    "  thresholds:\n"
    "  - max_connections: 100000\n"
    "    max_pending_requests: 100000\n"
    "    max_requests: 100000"
)
_TLS_SOCKET = (
    "transport_socket:\n"
    "  name: envoy.transport_sockets.tls\n"
    "  typed_config:\n"
    '    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls'
    ".v3.UpstreamTlsContext\n"
)
_TLS = _TLS_SOCKET + (
    "    sni: api.openai.com\n"
    "    common_tls_context:\n"
    "      validation_context:\n"
    "        trusted_ca: {filename: /etc/ssl/certs/ca-certificates.crt}\n"
    "        match_typed_subject_alt_names:\n"
    "        - san_type: DNS\n"
    "          matcher: {exact: api.openai.com}"
)

MISSING = Rule(
    "cluster-missing",
    Severity.ERROR,
    "A cluster that is named doesn't exist",
    "Envoy's own validation accepts that. At run time every request to it fails, with 500 or 503.",
    "# add a cluster of that name",
)
NO_ENDPOINTS = Rule(
    "cluster-empty",
    Severity.ERROR,
    "The sidecar's cluster has no endpoints",
    "Every request fails.",
    "load_assignment:\n"
    "  cluster_name: sentinel\n"
    "  endpoints:\n"
    "  - lb_endpoints:\n"
    "    - endpoint: {address: {pipe: {path: /run/sentinel/sentinel.sock}}}",
)
HTTP1 = Rule(
    "cluster-http1",
    Severity.ERROR,
    "The sidecar's cluster doesn't speak HTTP/2",
    "gRPC needs it. Every request fails. Letting the client's protocol decide is not enough.",
    _HTTP2,
)
BREAKERS = Rule(
    "cluster-breakers",
    Severity.WARNING,
    "At most 1024 requests are in work at once",
    "An ext_proc stream lives as long as the answer does. Beyond the circuit breaker's number "
    "Envoy answers 503 at once.",
    _BREAKERS,
)
PROCESSOR_DURATION = Rule(
    "cluster-max-duration",
    Severity.ERROR,
    "Envoy ends its streams to the sidecar after a time",
    "The answer that runs through it is cut at that moment.",
    "# remove max_stream_duration from the cluster's common_http_protocol_options",
)
HEALTH = Rule(
    "cluster-health",
    Severity.NOTE,
    "The sidecar's workers aren't health-checked",
    "One that is starting or stopping is sent requests, which fail.",
    "health_checks:\n"
    "- timeout: 2s\n"
    "  interval: 5s\n"
    "  no_traffic_interval: 5s\n"
    "  unhealthy_threshold: 2\n"
    "  healthy_threshold: 1\n"
    "  grpc_health_check: {}",
)
BALANCING = Rule(
    "cluster-balancing",
    Severity.WARNING,
    "Requests aren't balanced by how busy the workers are",
    "Answers differ a thousandfold in length; in turn, one worker ends up with the long ones.",
    "lb_policy: LEAST_REQUEST",
)
SHARED_ADDRESS = Rule(
    "cluster-shared-address",
    Severity.WARNING,
    "The same address of the sidecar is listed more than once",
    "Several processes behind one port (SO_REUSEPORT) share its connections by chance: Envoy keeps "
    "one per thread, and all of it lands on one process.",
    "# one socket per worker process, each listed once",
)
PLAINTEXT = Rule(
    "cluster-plaintext",
    Severity.WARNING,
    "Tokens and the provider's key cross the network in the clear",
    "The sidecar answers with the provider's key to whoever shows it a valid token, and sees every "
    "prompt. Keep it on a Unix socket or loopback, or use mutual TLS.",
    _TLS_SOCKET
    + "    # and a client certificate, for server.client_ca_file: render --sidecar-ca shows all",
)
PROVIDER_BREAKERS = Rule(
    "provider-breakers",
    Severity.WARNING,
    "At most 1024 answers come from the provider at once",
    "Beyond the circuit breaker's number Envoy answers 503 at once, or lets requests wait.",
    _BREAKERS,
)
PROVIDER_DURATION = Rule(
    "provider-max-duration",
    Severity.ERROR,
    "Answers of the provider are cut after a time",
    "max_stream_duration of its cluster ends them in the middle.",
    "# remove max_stream_duration from the cluster's common_http_protocol_options",
)
NO_TLS = Rule(
    "provider-plaintext",
    Severity.ERROR,
    "A paid API is called without TLS",
    "It refuses that, or the key and every prompt cross the internet in the clear.",
    _TLS,
)
NO_SNI = Rule(
    "provider-sni",
    Severity.ERROR,
    "TLS to the provider doesn't say whom it wants to talk to",
    "Without SNI, providers behind a CDN end the handshake or show another certificate.",
    _TLS,
)
NO_CA = Rule(
    "provider-ca",
    Severity.ERROR,
    "The provider's certificate isn't checked",
    "By default Envoy trusts any certificate: whoever answers at that address gets the key and the "
    "prompts.",
    _TLS,
)
NO_SAN = Rule(
    "provider-san",
    Severity.WARNING,
    "The name in the provider's certificate isn't checked",
    "Any certificate of a trusted authority will do, whatever it is for.",
    _TLS,
)

RULES = (
    MISSING,
    NO_ENDPOINTS,
    HTTP1,
    BREAKERS,
    PROCESSOR_DURATION,
    HEALTH,
    BALANCING,
    SHARED_ADDRESS,
    PLAINTEXT,
    PROVIDER_BREAKERS,
    PROVIDER_DURATION,
    NO_TLS,
    NO_SNI,
    NO_CA,
    NO_SAN,
)

LOW_BREAKER = 1024
_BREAKER_NAMES = ("max_connections", "max_pending_requests", "max_requests")


def check_clusters(
    gateway: Gateway, attachment: Attachment, expected: Expectations
) -> Iterator[Finding]:
    """The clusters on both sides of us, as far as they are known."""
    missing: dict[str, str] = {}
    for attached in attachment.filters:
        missing.setdefault(attached.cluster, attached.where)
    for _, route in attachment.governed:
        missing.setdefault(route.cluster, route.where)
    if gateway.clusters_known:
        for name, where in missing.items():
            if name and name not in gateway.clusters:
                yield MISSING.at(where, name)
    for name in sorted(attachment.processors & gateway.clusters.keys()):
        yield from _processor(name, gateway.clusters[name], expected)
    for name in sorted(attachment.providers & gateway.clusters.keys()):
        yield from _provider(gateway, name, expected)


def _processor(name: str, cluster: Tree, expected: Expectations) -> Iterator[Finding]:
    where = f"cluster {name}"
    addresses = addresses_of(cluster)
    discovered = text(cluster, "type") in ("EDS", "ORIGINAL_DST") or bool(
        found(cluster, "cluster_type")
    )
    if not addresses and not discovered:
        yield NO_ENDPOINTS.at(where)
    if not _is_http2(cluster):
        yield HTTP1.at(where)
    # HTTP/2: requests share connections, and only their number counts.
    if (most := breaker(cluster, "max_requests")) <= LOW_BREAKER:
        yield BREAKERS.at(where, f"max_requests {most}")
    longest = _max_duration(cluster)
    if 0 < longest < expected.longest_answer_s:
        yield PROCESSOR_DURATION.at(where, f"{longest:g}s")
    if not entries(cluster, "health_checks") and not discovered:
        yield HEALTH.at(where)
    if len(set(addresses)) < len(addresses):
        yield SHARED_ADDRESS.at(where)
    policy = text(cluster, "lb_policy") or "ROUND_ROBIN"
    chosen = policy == "LEAST_REQUEST" or bool(section(cluster, "load_balancing_policy"))
    if len(addresses) > 1 and not chosen:
        yield BALANCING.at(where, policy)
    encrypted = section(cluster, "transport_socket") or entries(cluster, "transport_socket_matches")
    if not encrypted and not all(is_local(address) for address in addresses):
        yield PLAINTEXT.at(where, next(a for a in addresses if not is_local(a)))


def _provider(gateway: Gateway, name: str, expected: Expectations) -> Iterator[Finding]:
    where = f"cluster {name}"
    cluster = gateway.clusters[name]
    low = [f"{n} {v}" for n in _BREAKER_NAMES if (v := breaker(cluster, n)) <= LOW_BREAKER]
    if low:
        yield PROVIDER_BREAKERS.at(where, ", ".join(low))
    longest = _max_duration(cluster)
    if 0 < longest < expected.longest_answer_s:
        yield PROVIDER_DURATION.at(where, f"{longest:g}s")
    if entries(cluster, "transport_socket_matches"):
        return
    socket = section(cluster, "transport_socket")
    if not socket:
        ports = {a.rpartition(":")[2] for a in gateway.addresses(name)}
        if is_paid(gateway, name, cluster) or "443" in ports:
            yield NO_TLS.at(where)
        return
    yield from _provider_tls(where, cluster, section(socket, "typed_config"))


def _provider_tls(where: str, cluster: Tree, context: Tree) -> Iterator[Finding]:
    if "UpstreamTlsContext" not in text(context, "@type"):
        return
    automatic = section(http_options(cluster), "upstream_http_protocol_options")
    names = [a.rpartition(":")[0] for a in addresses_of(cluster)]
    named = text(context, "sni") or flag(automatic, "auto_sni") or flag(context, "auto_host_sni")
    if not named and not _all_literal(names):
        yield NO_SNI.at(where)
    common = section(context, "common_tls_context")
    by_secret = section(common, "validation_context_sds_secret_config")
    combined = section(common, "combined_validation_context")
    validation = section(common, "validation_context") or section(
        combined, "default_validation_context"
    )
    trusted = (
        by_secret or combined or "trusted_ca" in validation or "system_root_certs" in validation
    )
    pinned = any(
        name in validation for name in ("verify_certificate_spki", "verify_certificate_hash")
    )
    custom = "custom_validator_config" in validation
    if not (trusted or pinned or custom):
        yield NO_CA.at(where)
        return
    checked = any(
        entries(validation, field)
        for field in ("match_typed_subject_alt_names", "match_subject_alt_names")
    )
    automatic_san = flag(automatic, "auto_san_validation") or flag(
        context, "auto_sni_san_validation"
    )
    if not (checked or automatic_san or by_secret or pinned or custom):
        yield NO_SAN.at(where)


def _is_http2(cluster: Tree) -> bool:
    options = http_options(cluster)
    if options:
        # By ALPN, so only over TLS; Envoy refuses it otherwise.
        agreed = found(options, "auto_config") is not None and section(cluster, "transport_socket")
        explicit = found(options, "explicit_http_config.http2_protocol_options")
        return explicit is not None or bool(agreed)
    return found(cluster, "http2_protocol_options") is not None


def _max_duration(cluster: Tree) -> float:
    for holder in (http_options(cluster), cluster):
        longest = seconds(holder, "common_http_protocol_options.max_stream_duration")
        if longest is not None:
            return longest
    return 0.0


def _all_literal(hosts: list[str]) -> bool:
    return bool(hosts) and all(map(is_literal, hosts))
