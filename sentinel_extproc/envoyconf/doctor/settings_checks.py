"""Our filter and our cluster against the sidecar's own settings, where these are at hand. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sentinel_extproc.envoyconf.doctor.attachment import Attached, Attachment
from sentinel_extproc.envoyconf.doctor.cluster_checks import LOW_BREAKER
from sentinel_extproc.envoyconf.doctor.gateway import Gateway, Manager, addresses_of, breaker
from sentinel_extproc.envoyconf.doctor.meant import Meant
from sentinel_extproc.envoyconf.doctor.places import is_local, place
from sentinel_extproc.envoyconf.doctor.reading import Tree, entries, flag, section, text, texts
from sentinel_extproc.envoyconf.doctor.rules import Finding, Rule, Severity
from sentinel_extproc.envoyconf.names import (
    JWT_NAMESPACE,
    ROUTE_NAME_ATTRIBUTE,
    USAGE_NAMESPACE,
    USAGE_READER,
)

ADDRESS = Rule(
    "settings-address",
    Severity.ERROR,
    "Envoy calls the sidecar where it doesn't listen",
    "Requests that go there fail with 503. Compared with server.listen and server.workers. A "
    "socket that a container sees under another path is no fault: --ignore settings-address.",
    "# one endpoint for each address of server.listen and server.workers, as render makes them\n"
    "endpoint: {address: {pipe: {path: /run/sentinel/sentinel.sock}}}",
)
WORKERS = Rule(
    "settings-workers",
    Severity.WARNING,
    "Envoy doesn't know all workers",
    "Those that are missing stand idle, and the others carry their load.",
    "# one endpoint for each worker: sentinel.sock, sentinel-1.sock, ..., or the next ports",
)
TLS = Rule(
    "settings-tls",
    Severity.ERROR,
    "One end speaks TLS and the other doesn't",
    "No connection to the sidecar comes about: every request fails. Compared with "
    "server.tls_cert_file.",
    "# render with --sidecar-name and --sidecar-ca, or unset server.tls_cert_file",
)
CERTIFICATE = Rule(
    "settings-client-certificate",
    Severity.ERROR,
    "Envoy has no certificate to show to the sidecar",
    "The sidecar serves only whom server.client_ca_file vouches for: every request fails.",
    "# render with --sidecar-cert and --sidecar-key, or unset server.client_ca_file",
)
BREAKERS = Rule(
    "settings-breakers",
    Severity.WARNING,
    "Envoy stops requests that the sidecar would still take",
    "Before the sidecar sheds by itself, evenly over users and with Retry-After, Envoy's circuit "
    "breaker answers 503 to anybody. Compared with overload.max_exchanges, or half of "
    "server.max_streams, of all workers.",
    "circuit_breakers: {thresholds: [{max_requests: 100000}]}  # or lower overload.max_exchanges",
)
SHADOW_WAITS = Rule(
    "settings-shadow-waits",
    Severity.NOTE,
    "The sidecar only observes, and Envoy waits for it all the same",
    "With server.mode: shadow nothing is refused; but while the sidecar is away, everything is, "
    "with 503. Meant for the last day before enforcing.",
    "# render --mode shadow, or server.mode: enforce",
)
SHADOW_FAILS = Rule(
    "settings-shadow-fails-closed",
    Severity.ERROR,
    "Traffic depends on a sidecar that is only to observe",
    "When the sidecar fails, answers are cut, although nothing waits for its word.",
    "failure_mode_allow: true  # beside observability_mode: true",
)
SHADOW_MODES = Rule(
    "settings-shadow-modes",
    Severity.WARNING,
    "The sidecar isn't shown everything that it is to observe",
    "It can't ask for more, as nobody listens to it here: what it doesn't see isn't in the report.",
    "processing_mode:\n"
    "  request_header_mode: SEND\n"
    "  response_header_mode: SEND\n"
    "  request_body_mode: STREAMED\n"
    "  response_body_mode: STREAMED\n"
    "  request_trailer_mode: SEND\n"
    "  response_trailer_mode: SEND",
)
NATIVE = Rule(
    "settings-native",
    Severity.ERROR,
    "The sidecar leaves metering to Envoy, and Envoy doesn't do it",
    "With server.metering: native nobody reads the usage of streamed chats: they are billed by "
    "their length, or as reserved.",
    "# render --target envoy with server.metering: native, or server.metering: stream",
)
NATIVE_UNUSED = Rule(
    "settings-native-unused",
    Severity.NOTE,
    "Envoy meters, and the sidecar does it itself",
    "Its filter costs a little and nobody reads what it finds. Compared with server.metering.",
    "# remove ai_protocol_manager, or server.metering: native",
)
JWT = Rule(
    "settings-jwt",
    Severity.ERROR,
    "The sidecar isn't told what Envoy found in the caller's JWT",
    "With identity.source: envoy_jwt that is all that it goes by: everybody gets 401.",
    f"metadata_options:\n  forwarding_namespaces:\n    untyped: [{JWT_NAMESPACE}]",
)
ROUTE_NAME = Rule(
    "settings-route-name",
    Severity.WARNING,
    "The sidecar isn't told which route, and so which provider, a request takes",
    "With several providers it then goes by host and path alone. Where Envoy's routes differ from "
    "that, requests get 404, or carry the key of another provider.",
    f"request_attributes: [{ROUTE_NAME_ATTRIBUTE}]",
)

RULES = (
    ADDRESS,
    WORKERS,
    TLS,
    CERTIFICATE,
    BREAKERS,
    SHADOW_WAITS,
    SHADOW_FAILS,
    SHADOW_MODES,
    NATIVE,
    NATIVE_UNUSED,
    JWT,
    ROUTE_NAME,
)

_READER_KIND = USAGE_READER.rpartition(".")[2]


def check_settings(gateway: Gateway, attachment: Attachment, meant: Meant) -> Iterator[Finding]:
    """The sidecar's clusters, every form of its filter, and what stands beside it."""
    for name in sorted(attachment.processors & gateway.clusters.keys()):
        where, cluster = f"cluster {name}", gateway.clusters[name]
        yield from _places(where, cluster, meant)
        yield from _encryption(where, cluster, meant)
        # Below that it is told in any case.
        if LOW_BREAKER < (most := breaker(cluster, "max_requests")) < meant.at_once:
            yield BREAKERS.at(where, f"max_requests {most}, the sidecar {meant.at_once}")
    for attached in attachment.filters:
        yield from _shadow(attached, meant)
        spaces = texts(attached.config, "metadata_options.forwarding_namespaces.untyped")
        if meant.jwt and JWT_NAMESPACE not in spaces:
            yield JWT.at(attached.where)
        attributes = texts(attached.config, "request_attributes")
        if meant.several_providers and ROUTE_NAME_ATTRIBUTE not in attributes:
            yield ROUTE_NAME.at(attached.where)
    for manager, ours in attachment.places:
        yield from _metering(manager, ours, meant)


def _places(where: str, cluster: Tree, meant: Meant) -> Iterator[Finding]:
    """Only what is on Envoy's own machine, or just where the settings say, can be compared."""
    addresses = addresses_of(cluster)
    strange = [
        address for address in addresses if is_local(address) and not _possible(address, meant)
    ]
    if strange:
        yield ADDRESS.at(where, f"{strange[0]}; the sidecar is at {', '.join(meant.workers[:3])}")
        return
    known = {place(address) for address in addresses if _possible(address, meant)}
    missing = [worker for worker in meant.workers if worker not in known]
    if known and missing:
        yield WORKERS.at(where, f"missing: {', '.join(missing[:3])}")


def _possible(address: str, meant: Meant) -> bool:
    return place(address) in meant.possible


def _encryption(where: str, cluster: Tree, meant: Meant) -> Iterator[Finding]:
    socket = section(cluster, "transport_socket")
    chosen = bool(entries(cluster, "transport_socket_matches"))
    context = section(socket, "typed_config")
    encrypted = chosen or (bool(socket) and "RawBuffer" not in text(context, "@type"))
    addresses = addresses_of(cluster)
    if meant.serves_tls and not encrypted:
        yield TLS.at(where, "the sidecar serves TLS")
    elif encrypted and not meant.serves_tls and addresses and all(map(is_local, addresses)):
        # Elsewhere a mesh's proxy may take the TLS off in front of the sidecar.
        yield TLS.at(where, "Envoy uses TLS")
    elif meant.wants_certificate and "UpstreamTlsContext" in text(context, "@type"):
        common = section(context, "common_tls_context")
        given = [name for name in common if name.startswith("tls_certificate")]
        if not given and not section(common, "custom_tls_certificate_selector"):
            yield CERTIFICATE.at(where)


def _shadow(attached: Attached, meant: Meant) -> Iterator[Finding]:
    if not meant.shadow:
        return
    if not flag(attached.config, "observability_mode"):
        yield SHADOW_WAITS.at(attached.where)
        return
    if not flag(attached.config, "failure_mode_allow"):
        yield SHADOW_FAILS.at(attached.where)
    mode = section(attached.config, "processing_mode")
    wanted = {
        # Headers are sent unless it says otherwise, trailers and bodies aren't.
        "request_header_mode": ("", "DEFAULT", "SEND"),
        "response_header_mode": ("", "DEFAULT", "SEND"),
        "request_body_mode": ("STREAMED",),
        "response_body_mode": ("STREAMED",),
        "request_trailer_mode": ("SEND",),
        "response_trailer_mode": ("SEND",),
    }
    hidden = [name for name, good in wanted.items() if text(mode, name) not in good]
    if hidden:
        yield SHADOW_MODES.at(attached.where, ", ".join(hidden))


def _metering(manager: Manager, ours: tuple[int, ...], meant: Meant) -> Iterator[Finding]:
    behind = manager.filters[min(ours) + 1 :]
    readers = [entry for entry in behind if entry.kind == _READER_KIND]
    if not meant.native:
        for entry in readers:
            said = text(entry.config, "response_handling.token_usage.metadata_namespace")
            if said == USAGE_NAMESPACE:
                yield NATIVE_UNUSED.at(f"{manager.where} / filter {entry.name}")
        return
    missing = []
    if not readers:
        missing.append("the filter ai_protocol_manager behind the sidecar's")
    spaces = "metadata_options.forwarding_namespaces.typed"
    if not all(USAGE_NAMESPACE in texts(manager.filters[at].config, spaces) for at in ours):
        missing.append(f"{USAGE_NAMESPACE} in forwarding_namespaces.typed")
    names = {entry.name for entry in readers} or {USAGE_READER}
    routes = [level for route in manager.routes for level in route.per_filter]
    if manager.routes_known and not any(names & level.keys() for level in routes):
        missing.append("a route that turns it on")
    logs = [text(log, "typed_config.@type") for log in entries(manager.config, "access_log")]
    if not any("HttpGrpcAccessLogConfig" in kind for kind in logs):
        missing.append("the access log by gRPC")
    if missing:
        yield NATIVE.at(manager.where, f"missing: {', '.join(missing)}")
