"""Native metering: Envoy reads the usage of streamed answers itself. Alpha, in Envoy and here.

Three things are added to a bootstrap as we render it: Envoy's filter that reads the usage, behind
ours, so that ours gets what it found; leave for it to reach us; and Envoy's access log by gRPC, for
how long a cut answer was. As plain values: the typed library doesn't know the filter's fields yet.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from sentinel_extproc.envoyconf.clusters import PROCESSOR_CLUSTER
from sentinel_extproc.envoyconf.names import FILTER_NAME, USAGE_NAMESPACE, USAGE_READER
from sentinel_extproc.envoyconf.versions import Version, shown
from sentinel_extproc.exchange.native import HEADER

NATIVE_SINCE: Version = (1, 40)
_READER_TYPE = (
    "type.googleapis.com/envoy.extensions.filters.http.ai_protocol_manager.v3.AiProtocolManager"
)
_PROTOCOL = "OPENAI_CHAT_COMPLETIONS"
_MANAGER = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_LOG_EVERY = "0.1s"
"""Envoy's default of a second is how long the bill of a cut answer would wait."""


def with_native_metering(
    bootstrap: Mapping[str, Any],
    *,
    envoy_version: Version,
    cluster: str = PROCESSOR_CLUSTER,
    path: str = "/v1/chat/completions",
) -> dict[str, Any]:
    """A rendered bootstrap (field names as in Envoy's documentation), with native metering.

    Args:
        path: of chat completions, which are what Envoy can read.

    Raises:
        ValueError: the target is too old, or our filter is nowhere in it.
    """
    if envoy_version < NATIVE_SINCE:
        raise ValueError(
            f"envoy_version: native metering needs {shown(NATIVE_SINCE)},"
            f" and {shown(envoy_version)} is older"
        )
    changed: dict[str, Any] = copy.deepcopy(dict(bootstrap))
    found = False
    for manager in _managers(changed):
        filters = manager["http_filters"]
        for place, one in enumerate(filters):
            if one.get("name") == FILTER_NAME:
                # By default the route is chosen anew when we ask for it, and only then.
                one["typed_config"].pop("route_cache_action", None)
                options = one["typed_config"].setdefault("metadata_options", {})
                forwarded = options.setdefault("forwarding_namespaces", {})
                forwarded["typed"] = [*forwarded.get("typed", []), USAGE_NAMESPACE]
                filters.insert(place + 1, _reader())
                _read_chats(manager, path)
                logs = manager.setdefault("access_log", [])
                logs += [_access_log(one) for one in _hearers(changed, cluster)]
                found = True
                break
    if not found:
        raise ValueError(f"no {FILTER_NAME} in this configuration")
    return changed


def _managers(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if str(value.get("@type", "")).endswith(_MANAGER):
            yield value
        for inner in value.values():
            yield from _managers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _managers(inner)


def _read_chats(manager: dict[str, Any], path: str) -> None:
    """A route of its own for streamed chats in front of each that would take ``path``.

    The reader reads only where a route says so, and the sidecar sends only streams there.
    """
    name, text = HEADER
    for host in manager.get("route_config", {}).get("virtual_hosts", []):
        routes = host["routes"]
        for place, route in reversed(list(enumerate(routes))):
            prefix = route.get("match", {}).get("prefix")
            ours = FILTER_NAME not in route.get("typed_per_filter_config", {})
            if prefix is not None and path.startswith(prefix) and "route" in route and ours:
                chats = copy.deepcopy(route)
                del chats["match"]["prefix"]
                chats["match"]["path"] = path
                chats["match"].setdefault("headers", []).append(
                    {"name": name, "string_match": {"exact": text.decode()}}
                )
                if instead := chats["route"].get("prefix_rewrite"):
                    # It stands for all that was matched, which is the whole path now.
                    chats["route"]["prefix_rewrite"] = instead + path[len(prefix) :]
                chats.setdefault("request_headers_to_remove", []).append(name)
                chats.setdefault("typed_per_filter_config", {})[USAGE_READER] = {
                    "@type": f"{_READER_TYPE}PerRoute",
                    "response": {"llm_protocol": _PROTOCOL},
                }
                routes.insert(place, chats)


def _hearers(config: dict[str, Any], cluster: str) -> list[str]:
    """Clusters with one worker each, made where ``cluster`` has several.

    Envoy sends a log to one endpoint of a cluster, and only the worker that had the exchange can do
    anything with it: so each is told everything.
    """
    clusters = config["static_resources"]["clusters"]
    ours = next(one for one in clusters if one["name"] == cluster)
    made = [
        {
            **copy.deepcopy(ours),
            "name": f"{cluster}-{n}",
            "load_assignment": {
                "cluster_name": f"{cluster}-{n}",
                "endpoints": [{"lb_endpoints": [worker]}],
            },
        }
        for n, worker in enumerate(
            worker
            for place in ours["load_assignment"]["endpoints"]
            for worker in place["lb_endpoints"]
        )
    ]
    names = [one["name"] for one in made]
    if len(made) == 1:
        return [cluster]
    if not {one["name"] for one in clusters} & set(names):  # one manager made them for all
        clusters += made
    return names


def _reader() -> dict[str, Any]:
    return {
        "name": USAGE_READER,
        "typed_config": {
            "@type": _READER_TYPE,
            "response_handling": {
                "token_usage": {
                    "default_llm_protocol": _PROTOCOL,
                    "metadata_namespace": USAGE_NAMESPACE,
                    "usage_signal": "SYNTHESIZE_TRAILERS",
                }
            },
        },
    }


def _access_log(cluster: str) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.http_grpc",
        "typed_config": {
            "@type": "type.googleapis.com/"
            "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            "common_config": {
                "log_name": "sentinel",
                "transport_api_version": "V3",
                "buffer_flush_interval": _LOG_EVERY,
                "grpc_service": {"envoy_grpc": {"cluster_name": cluster}},
            },
        },
    }
