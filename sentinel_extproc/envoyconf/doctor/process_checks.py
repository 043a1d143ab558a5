"""What holds for the whole Envoy, and what couldn't be looked at. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sentinel_extproc.envoyconf.doctor.attachment import Attachment
from sentinel_extproc.envoyconf.doctor.gateway import Gateway
from sentinel_extproc.envoyconf.doctor.reading import Tree, entries, found, section, text
from sentinel_extproc.envoyconf.doctor.rules import Finding, Rule, Severity
from sentinel_extproc.envoyconf.names import GRACEFUL_CLOSE_FLAG
from sentinel_extproc.envoyconf.versions import OLDEST

GRACEFUL_CLOSE = Rule(
    "graceful-close",
    Severity.WARNING,
    "Envoy breaks off its streams to the sidecar instead of closing them",
    "The end of an exchange looks like an interruption. The sidecar settles all the same, but "
    "can't tell a client that went away from an ordinary end.",
    "layered_runtime:\n"
    "  layers:\n"
    "  - name: sentinel\n"
    "    static_layer:\n"
    f"      {GRACEFUL_CLOSE_FLAG}: true",
)
OVERLOAD = Rule(
    "connections-unbounded",
    Severity.NOTE,
    "The number of client connections isn't bounded",
    "Enough of them, with bodies that are buffered, use up Envoy's memory.",
    "overload_manager:\n"
    "  resource_monitors:\n"
    "  - name: envoy.resource_monitors.global_downstream_max_connections\n"
    "    typed_config:\n"
    '      "@type": type.googleapis.com/envoy.extensions.resource_monitors'
    ".downstream_connections.v3.DownstreamConnectionsConfig\n"
    "      max_active_downstream_connections: 100000",
)
ADMIN = Rule(
    "admin-exposed",
    Severity.WARNING,
    "Envoy's admin interface can be reached from other machines",
    "It has no authentication: whoever reaches it can read the configuration and stop Envoy.",
    "admin:\n  address:\n    socket_address: {address: 127.0.0.1, port_value: 9901}",
)
NO_LISTENERS = Rule(
    "listeners-unknown",
    Severity.ERROR,
    "There is no HTTP listener to check",
    "The file has none; a control plane may send them.",
    "# sentinel-extproc doctor --admin http://127.0.0.1:9901, on the running Envoy",
)
ELSEWHERE = Rule(
    "partly-unknown",
    Severity.WARNING,
    "Part of the configuration isn't in the file",
    "A control plane sends it; it wasn't checked.",
    "# sentinel-extproc doctor --admin http://127.0.0.1:9901, on the running Envoy",
)
TOO_OLD = Rule(
    "envoy-too-old",
    Severity.ERROR,
    "This Envoy is older than 1.36",
    "Fields that the sidecar depends on don't exist in it, and it isn't tested.",
    "# use Envoy 1.36 or newer",
)
NOT_LIVE = Rule(
    "envoy-not-live",
    Severity.WARNING,
    "Envoy isn't serving",
    "It is starting or draining; what was read may be incomplete.",
    "# look again when /ready says LIVE",
)

RULES = (GRACEFUL_CLOSE, OVERLOAD, ADMIN, NO_LISTENERS, ELSEWHERE, TOO_OLD, NOT_LIVE)

_EVERYWHERE = ("0.0.0.0", "::", "[::]")  # noqa: S104 - looked for, not bound


def check_process(gateway: Gateway, attachment: Attachment) -> Iterator[Finding]:
    """Bootstrap fields, and gaps."""
    config = gateway.config
    if attachment.places:
        layers = entries(config, "layered_runtime.layers")
        values = [value for layer in layers if (value := _runtime(layer)) is not None]
        if not values or values[-1] not in (True, "true"):
            yield GRACEFUL_CLOSE.at("layered_runtime")
        monitors = [text(m, "name") for m in entries(config, "overload_manager.resource_monitors")]
        old_way = any(
            "overload.global_downstream_max_connections" in section(layer, "static_layer")
            for layer in layers
        )
        if not old_way and not any("downstream_max_connections" in name for name in monitors):
            yield OVERLOAD.at("overload_manager")
    if text(config, "admin.address.socket_address.address") in _EVERYWHERE:
        yield ADMIN.at("admin")
    yield from _gaps(gateway)


def _runtime(layer: Tree) -> object:
    """The flag in a layer, whose keys may be dotted or nested."""
    values = section(layer, "static_layer")
    dotted = values.get(GRACEFUL_CLOSE_FLAG)
    return found(values, GRACEFUL_CLOSE_FLAG) if dotted is None else dotted


def _gaps(gateway: Gateway) -> Iterator[Finding]:
    if not gateway.managers:
        yield NO_LISTENERS.at("the whole configuration")
    elif not gateway.listeners_known:
        yield ELSEWHERE.at("dynamic_resources", "listeners")
    if gateway.managers and not gateway.clusters_known:
        yield ELSEWHERE.at("dynamic_resources", "clusters")
    for manager in gateway.managers:
        if not manager.routes_known:
            name = text(manager.config, "rds.route_config_name") or "scoped"
            yield ELSEWHERE.at(manager.where, f"routes {name}")
        for entry in entries(manager.config, "http_filters"):
            if found(entry, "config_discovery") is not None and not section(entry, "typed_config"):
                yield ELSEWHERE.at(manager.where, f"filter {text(entry, 'name')}")


def check_server(version: tuple[int, int] | None, state: str) -> Iterator[Finding]:
    """What /server_info says."""
    if version is not None and version < OLDEST:
        yield TOO_OLD.at("server", f"{version[0]}.{version[1]}")
    if state and state != "LIVE":
        yield NOT_LIVE.at("server", state)
