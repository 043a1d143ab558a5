"""A bootstrap, seen as a gateway: who listens, which filters run, where each route leads. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sentinel_extproc.envoyconf.doctor.reading import (
    Tree,
    Unreadable,
    covers,
    entries,
    flag,
    found,
    integer,
    kind,
    section,
    text,
)

MAX_ROUTES = 1_000_000
"""More can only come from anchors that multiply each other."""


@dataclass(frozen=True, slots=True)
class HttpFilter:
    """One of a connection manager's filters."""

    name: str
    kind: str
    config: Tree
    disabled: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A way through a connection manager to one cluster.

    Attributes:
        cluster: where it leads; empty when a header or a plugin decides.
        action: its ``route``; a weighted cluster's own fields are in ``target``.
        per_filter: overrides by filter name, least specific level first.
    """

    where: str
    cluster: str
    config: Tree
    action: Tree
    target: Tree
    virtual_host: Tree
    per_filter: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Manager:
    """An HTTP connection manager, with all its routes.

    Attributes:
        routes_known: whether its routes are in this configuration at all.
    """

    where: str
    config: Tree
    listener: Tree
    filters: tuple[HttpFilter, ...]
    routes: tuple[Route, ...]
    routes_known: bool


@dataclass(frozen=True, slots=True)
class TcpRoute:
    """A TCP proxy: bytes to a cluster, whatever they are."""

    where: str
    cluster: str


@dataclass(frozen=True, slots=True)
class Gateway:
    """All of it.

    Attributes:
        clusters_known: False when some come from a control plane that this file only names.
    """

    config: Tree
    managers: tuple[Manager, ...]
    tcp: tuple[TcpRoute, ...]
    clusters: dict[str, Tree] = field(default_factory=dict)
    clusters_known: bool = True
    listeners_known: bool = True

    def addresses(self, cluster: str) -> frozenset[str]:
        """The endpoints of a cluster as text, ``host:port`` or a socket's path."""
        return frozenset(addresses_of(self.clusters.get(cluster, {})))


def read_gateway(config: Tree, *, complete: bool = False) -> Gateway:
    """Take a bootstrap apart.

    Args:
        config: see ``reading.normal``. Beside what a bootstrap has, ``route_configs`` may hold
            route configurations by name, for connection managers that get them by RDS.
        complete: whether what a control plane sent is in it.

    Raises:
        Unreadable: more routes than there can be.
    """
    managers: list[Manager] = []
    tcp: list[TcpRoute] = []
    shared = section(config, "route_configs")
    left = MAX_ROUTES
    for listener, chain_place, chain in _chains(config):
        for network in entries(chain, "filters"):
            match kind(network):
                case "http_connection_manager":
                    manager = _manager(network, listener, chain_place, shared, left)
                    left -= len(manager.routes)
                    managers.append(manager)
                case "tcp_proxy":
                    tcp += _tcp_routes(section(network, "typed_config"), chain_place)
    clusters = {
        text(cluster, "name"): cluster for cluster in entries(config, "static_resources.clusters")
    }
    dynamic = section(config, "dynamic_resources")
    return Gateway(
        config=config,
        managers=tuple(managers),
        tcp=tuple(tcp),
        clusters=clusters,
        clusters_known=complete or not dynamic.get("cds_config"),
        listeners_known=complete or not dynamic.get("lds_config"),
    )


def _chains(config: Tree) -> Iterator[tuple[Tree, str, Tree]]:
    for number, listener in enumerate(entries(config, "static_resources.listeners")):
        place = f"listener {text(listener, 'name') or number}"
        chains = entries(listener, "filter_chains")
        default = section(listener, "default_filter_chain")
        for index, chain in enumerate(chains):
            name = text(chain, "name") or str(index)
            yield listener, place if len(chains) == 1 else f"{place} / chain {name}", chain
        if default:
            yield listener, f"{place} / default chain", default
        # Of internal and API listeners, the latter has its manager elsewhere.
        api = section(listener, "api_listener.api_listener")
        if api:
            yield listener, f"{place} / API", {"filters": [{"typed_config": api}]}


def _manager(network: Tree, listener: Tree, place: str, shared: Tree, left: int) -> Manager:
    config = section(network, "typed_config")
    route_config = section(config, "route_config")
    name = text(config, "rds.route_config_name")
    if not route_config and name:
        route_config = section({"of": shared.get(name)}, "of")
    scoped = bool(config.get("scoped_routes")) and not route_config
    routes: list[Route] = []
    for route in _routes(route_config, place):
        routes.append(route)
        if len(routes) > left:
            raise Unreadable(f"it has more than {MAX_ROUTES} routes")
    return Manager(
        where=place,
        config=config,
        listener=listener,
        filters=tuple(
            HttpFilter(
                name=text(entry, "name"),
                kind=kind(entry),
                config=section(entry, "typed_config"),
                disabled=flag(entry, "disabled"),
            )
            for entry in entries(config, "http_filters")
        ),
        routes=tuple(routes),
        routes_known=bool(route_config) or not (name or scoped),
    )


def _routes(route_config: Tree, place: str) -> Iterator[Route]:
    for number, host in enumerate(entries(route_config, "virtual_hosts")):
        host_place = f"{place} / virtual host {text(host, 'name') or number}"
        plain = entries(host, "routes") + list(_matched(host))
        for index, config in enumerate(plain):
            where = f"{host_place} / {route_name(config, index)}"
            levels = [route_config, host, config]
            action = section(config, "route")
            if not action:
                continue  # a redirect or an answer of Envoy's own: it leads nowhere
            weighted = entries(action, "weighted_clusters.clusters")
            for target in weighted or [{}]:
                yield Route(
                    where=where,
                    cluster=text(target, "name") or text(action, "cluster"),
                    config=config,
                    action=action,
                    target=target,
                    virtual_host=host,
                    per_filter=tuple(
                        found_map
                        for level in [*levels, target]
                        if (found_map := section(level, "typed_per_filter_config"))
                    ),
                )


def _matched(host: Tree) -> Iterator[Tree]:
    """Routes inside a matcher tree, wherever they are in it."""
    stack: list[object] = [host.get("matcher")]
    seen: set[int] = set()
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            if str(value.get("@type", "")).endswith("route.v3.Route"):
                yield value
            else:
                stack += value.values()
        elif isinstance(value, list):
            stack += value


def route_name(config: Tree, index: int) -> str:
    """A route by what it matches, for people."""
    match = section(config, "match")
    for form in ("prefix", "path", "path_separated_prefix"):
        if text(match, form):
            return f"route {index} ({form} {text(match, form)})"
    if pattern := text(match, "safe_regex.regex"):
        return f"route {index} (regex {pattern})"
    return f"route {index}" + (f" ({text(config, 'name')})" if text(config, "name") else "")


def matches(match: Tree, path: str) -> bool | None:
    """Whether a route's match takes a path; None if it can't be told."""
    if match.get("case_sensitive") is False:
        path = path.lower()
    if "prefix" in match:
        return path.startswith(text(match, "prefix"))
    if prefix := text(match, "path_separated_prefix"):
        return path == prefix or path.startswith(f"{prefix}/")
    if "path" in match:
        return path == text(match, "path")
    if pattern := text(match, "safe_regex.regex"):
        return covers(pattern, path)
    return None


def _tcp_routes(config: Tree, place: str) -> list[TcpRoute]:
    names = [text(config, "cluster")]
    names += [text(entry, "name") for entry in entries(config, "weighted_clusters.clusters")]
    return [TcpRoute(where=f"{place} / TCP proxy", cluster=name) for name in names if name]


def addresses_of(cluster: Tree) -> list[str]:
    """Every endpoint's address, in order, twice where it is listed twice."""
    addresses = []
    for locality in entries(cluster, "load_assignment.endpoints"):
        for endpoint in entries(locality, "lb_endpoints"):
            address = section(endpoint, "endpoint.address")
            port = found(address, "socket_address.port_value")
            if pipe := text(address, "pipe.path"):
                addresses.append(pipe)
            elif host := text(address, "socket_address.address"):
                addresses.append(f"{host}:{port}")
    return addresses


def http_options(cluster: Tree) -> Tree:
    """A cluster's HttpProtocolOptions, wherever they are."""
    options = section(cluster, "typed_extension_protocol_options")
    for value in options.values():
        if isinstance(value, dict) and "HttpProtocolOptions" in str(value.get("@type", "")):
            return value
    return section(
        {"of": options.get("envoy.extensions.upstreams.http.v3.HttpProtocolOptions")}, "of"
    )


def breaker(cluster: Tree, name: str) -> int:
    """A circuit breaker of the default priority; 1024 unless it says otherwise."""
    for threshold in entries(cluster, "circuit_breakers.thresholds"):
        if text(threshold, "priority") in ("", "DEFAULT"):
            value = integer(threshold, name)
            return 1024 if value is None else value
    return 1024
