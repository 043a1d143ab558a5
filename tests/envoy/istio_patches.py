"""What Istio's control plane does with an EnvoyFilter, as far as ours need it.

Applied to plain values, as istiod does it to its own configuration: so the patches' values are
proven on the real Envoy, and the matches on a gateway shaped like Istio's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

_MANAGER = "envoy.filters.network.http_connection_manager"


def patched(bootstrap: Mapping[str, Any], patches: list[dict[str, Any]]) -> dict[str, Any]:
    """The bootstrap of a gateway with all patches applied, in their order.

    Raises:
        AssertionError: a patch that finds nothing to change.
    """
    config = copy.deepcopy(dict(bootstrap))
    for patch in patches:
        context = patch.get("match", {}).get("context", "ANY")
        assert context in ("ANY", "GATEWAY"), context
        changed = _APPLY[patch["applyTo"]](config, patch.get("match", {}), patch["patch"])
        assert changed, f"nothing matches: {patch['applyTo']} {patch.get('match')}"
    return config


def _cluster(config: dict[str, Any], _match: Mapping[str, Any], patch: Mapping[str, Any]) -> int:
    assert patch["operation"] == "ADD"
    config["static_resources"]["clusters"].append(copy.deepcopy(patch["value"]))
    return 1


def _bootstrap(config: dict[str, Any], _match: Mapping[str, Any], patch: Mapping[str, Any]) -> int:
    assert patch["operation"] == "MERGE"
    _merge(config, patch["value"])
    return 1


def _listener(config: dict[str, Any], match: Mapping[str, Any], patch: Mapping[str, Any]) -> int:
    assert patch["operation"] == "MERGE"
    found = list(_listeners(config, match))
    for listener in found:
        _merge(listener, patch["value"])
    return len(found)


def _network_filter(
    config: dict[str, Any], match: Mapping[str, Any], patch: Mapping[str, Any]
) -> int:
    assert patch["operation"] == "MERGE"
    assert match["listener"]["filterChain"]["filter"]["name"] == _MANAGER
    found = [f for listener in _listeners(config, match) for f in _managers(listener)]
    for network_filter in found:
        _merge(network_filter, patch["value"])
    return len(found)


def _http_filter(config: dict[str, Any], match: Mapping[str, Any], patch: Mapping[str, Any]) -> int:
    assert patch["operation"] == "INSERT_BEFORE"
    wanted = match["listener"]["filterChain"]["filter"]
    assert wanted["name"] == _MANAGER
    done = 0
    for listener in _listeners(config, match):
        for network_filter in _managers(listener):
            filters = network_filter["typed_config"]["http_filters"]
            names = [f["name"] for f in filters]
            if wanted["subFilter"]["name"] in names:
                place = names.index(wanted["subFilter"]["name"])
                filters.insert(place, copy.deepcopy(patch["value"]))
                done += 1
    return done


def _http_route(config: dict[str, Any], match: Mapping[str, Any], patch: Mapping[str, Any]) -> int:
    assert patch["operation"] == "MERGE"
    wanted = match["routeConfiguration"]["vhost"]["route"]
    done = 0
    for listener in _listeners(config, {"listener": match["routeConfiguration"]}):
        for network_filter in _managers(listener):
            for host in network_filter["typed_config"]["route_config"]["virtual_hosts"]:
                for route in host["routes"]:
                    by_name = wanted.get("name", route["name"]) == route["name"]
                    by_action = wanted.get("action", "ANY") != "ROUTE" or "route" in route
                    if by_name and by_action:
                        _merge(route, patch["value"])
                        done += 1
    return done


def _listeners(config: Mapping[str, Any], match: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    port = match.get("listener", {}).get("portNumber")
    for listener in config["static_resources"]["listeners"]:
        # Istio knows a listener by the port of its Gateway, which its name tells.
        if port is None or listener["name"].endswith(f"_{port}"):
            yield listener


def _managers(listener: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for chain in listener["filter_chains"]:
        yield from (f for f in chain["filters"] if f["name"] == _MANAGER)


def _merge(into: dict[str, Any], value: Mapping[str, Any]) -> None:
    """Protobuf's merge: messages field by field, lists appended, everything else replaced."""
    for key, item in value.items():
        if isinstance(item, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], item)
        elif isinstance(item, list) and isinstance(into.get(key), list):
            into[key] = [*into[key], *copy.deepcopy(item)]
        else:
            into[key] = copy.deepcopy(item)


_APPLY = {
    "CLUSTER": _cluster,
    "BOOTSTRAP": _bootstrap,
    "LISTENER": _listener,
    "NETWORK_FILTER": _network_filter,
    "HTTP_FILTER": _http_filter,
    "HTTP_ROUTE": _http_route,
}
