"""What there is to look at: a bootstrap, or what a running Envoy says about itself. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sentinel_extproc.envoyconf.doctor.reading import (
    Tree,
    Unreadable,
    entries,
    found,
    normal,
    section,
    text,
)

_VERSION = re.compile(r"(?:^|/)(\d{1,3})\.(\d{1,4})\.\d{1,4}(?:/|-|$)")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is known.

    Attributes:
        config: see ``gateway.read_gateway``.
        complete: whether it has what a control plane sent.
        version: of Envoy, ``(major, minor)``; None if unknown.
        state: of the server; empty if unknown.
        stats: counters and gauges; empty for a file.
        observed_as: names of clusters in ``stats``.
    """

    config: Tree
    complete: bool = False
    version: tuple[int, int] | None = None
    state: str = ""
    stats: Mapping[str, int] = field(default_factory=dict)
    observed_as: Mapping[str, str] = field(default_factory=dict)


def from_document(document: Any) -> Snapshot:
    """Read a bootstrap or a config dump.

    Raises:
        Unreadable: it is something else.
    """
    if not isinstance(document, dict):
        raise Unreadable("it is not a bootstrap of Envoy's: that is a map with static_resources")
    if "apiVersion" in document and "kind" in document:
        raise Unreadable(
            f"it is a Kubernetes object ({str(document['kind'])[:60]}). What Envoy makes of it "
            "shows in a running one: use --admin, or a file with its /config_dump"
        )
    config = normal(document)
    if isinstance(config.get("configs"), list):
        return Snapshot(config=merged_dump(config), complete=True)
    if not any(name in config for name in ("static_resources", "dynamic_resources", "admin")):
        raise Unreadable("it is not a bootstrap of Envoy's: it has no static_resources")
    return Snapshot(config=config)


def merged_dump(dump: Tree) -> Tree:
    """What ``/config_dump`` lists by source, in the shape of one bootstrap.

    Each listener and cluster is there once, as it is active; route configurations that were sent
    by RDS are under ``route_configs``, endpoints by EDS in their clusters.
    """
    parts = [(text(part, "@type").rpartition(".")[2], part) for part in entries(dump, "configs")]
    bootstrap: Tree = {}
    listeners: dict[str, Tree] = {}
    clusters: dict[str, Tree] = {}
    routes: Tree = {}
    endpoints: dict[str, list[Tree]] = {}
    filters: Tree = {}
    for kind, part in parts:
        match kind:
            case "BootstrapConfigDump":
                bootstrap = section(part, "bootstrap")
            case "ListenersConfigDump":
                _collect(listeners, part, "listener", "static_listeners", "dynamic_listeners")
            case "ClustersConfigDump":
                _collect(clusters, part, "cluster", "static_clusters", "dynamic_active_clusters")
            case "RoutesConfigDump":
                _collect(
                    routes, part, "route_config", "static_route_configs", "dynamic_route_configs"
                )
            case "EndpointsConfigDump":
                _collect_endpoints(endpoints, part)
            case "EcdsConfigDump":
                _collect(filters, part, "ecds_filter", "ecds_filters")
            case _:
                pass
    resources = section(bootstrap, "static_resources")
    return {
        **bootstrap,
        "static_resources": {
            "listeners": [
                _with_discovered(listener, filters)
                for listener in listeners.values() or entries(resources, "listeners")
            ],
            "clusters": [
                _with_endpoints(cluster, endpoints)
                for cluster in clusters.values() or entries(resources, "clusters")
            ],
        },
        "route_configs": routes,
    }


def _collect(into: dict[str, Any], part: Tree, field_name: str, *lists: str) -> None:
    for name in lists:
        for number, entry in enumerate(entries(part, name)):
            # Dynamic listeners are one level deeper; a warming one doesn't serve yet.
            value = section(entry, f"active_state.{field_name}") or section(entry, field_name)
            if value:
                into[text(value, "name") or f"{name} {number}"] = value


def _collect_endpoints(into: dict[str, list[Tree]], part: Tree) -> None:
    for name in ("static_endpoint_configs", "dynamic_endpoint_configs"):
        for entry in entries(part, name):
            config = section(entry, "endpoint_config")
            if localities := entries(config, "endpoints"):
                into[text(config, "cluster_name")] = localities


def _with_endpoints(cluster: Tree, endpoints: dict[str, list[Tree]]) -> Tree:
    names = (text(cluster, "eds_cluster_config.service_name"), text(cluster, "name"))
    known = next((endpoints[name] for name in names if name in endpoints), None)
    if known is None or entries(cluster, "load_assignment.endpoints"):
        return cluster
    return {**cluster, "load_assignment": {"endpoints": known}}


def _with_discovered(listener: Tree, filters: Tree) -> Tree:
    """The listener, with filters that were sent by themselves (ECDS) put into their places."""
    if not filters:
        return listener
    return section({"of": _filled(listener, filters, 12)}, "of")


def _filled(value: Any, filters: Tree, depth: int) -> Any:
    if depth and isinstance(value, list):
        return [_filled(item, filters, depth) for item in value]
    if not depth or not isinstance(value, dict):
        return value
    if found(value, "config_discovery") is not None and text(value, "name") in filters:
        return {**value, **filters[text(value, "name")]}
    inside = {"filter_chains", "default_filter_chain", "filters", "typed_config", "http_filters"}
    return {
        name: _filled(item, filters, depth - 1) if name in inside else item
        for name, item in value.items()
    }


def read_version(server_info: Any) -> tuple[tuple[int, int] | None, str]:
    """Version and state from /server_info."""
    match = _VERSION.search(text(server_info, "version"))
    version = (int(match[1]), int(match[2])) if match else None
    return version, text(server_info, "state")


def read_stats(lines: str) -> dict[str, int]:
    """Counters and gauges from the text of /stats."""
    stats = {}
    for line in lines.splitlines():
        name, _, value = line.rpartition(": ")
        if name and value.isascii() and value.isdigit() and len(value) < 20:
            stats[name] = int(value)
    return stats


def read_observed_names(clusters: Any) -> dict[str, str]:
    """How clusters are called in counters, from /clusters?format=json."""
    return {
        text(status, "name"): observed
        for status in entries(clusters, "cluster_statuses")
        if (observed := text(status, "observability_name"))
    }
