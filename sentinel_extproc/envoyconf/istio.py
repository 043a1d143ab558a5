"""An Istio gateway: an EnvoyFilter, and how the mesh reaches the sidecars and the provider."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sentinel_extproc.envoyconf.access_log import access_log
from sentinel_extproc.envoyconf.api import bootstrap, hcm, listener, protobuf, route
from sentinel_extproc.envoyconf.attachment import HEADERS_TIMEOUT_S, Attachment
from sentinel_extproc.envoyconf.clusters import PROCESSOR_CLUSTER, processor_cluster
from sentinel_extproc.envoyconf.filter import attached_filter, not_here
from sentinel_extproc.envoyconf.kubernetes import Service, check_name, check_namespace, resource
from sentinel_extproc.envoyconf.local_reply import local_replies
from sentinel_extproc.envoyconf.names import FILTER_NAME
from sentinel_extproc.envoyconf.render import to_dict
from sentinel_extproc.envoyconf.runtime import graceful_close_layer

_MANAGER = "envoy.filters.network.http_connection_manager"
_ROUTER = "envoy.filters.http.router"
_NAME = "sentinel"
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

ISTIO_NOTES = {
    "spec.workloadSelector": "The pods of the gateway.",
    "spec.targetRefs": "The Gateway (gateway.networking.k8s.io).",
    "value.layered_runtime": (
        "Read when a proxy starts: restart the gateway's pods once after applying this."
    ),
    "typed_config.access_log": "Beside the mesh's own; only what the sidecar was asked about.",
    "value.typed_per_filter_config": (
        "The sidecar isn't asked about this route, and clients' credentials stay on its requests: "
        "it must not lead to the provider. See docs/attach/istio.md."
    ),
    "typed_config.local_reply_config": (
        "Envoy's own 408, 413, 503 and 504 in OpenAI's error shape, for all routes of this gateway."
    ),
    "typed_config.request_timeout": (
        "For a whole request to arrive, on every route of these listeners."
    ),
    "targetPort": "Routes lead to port 80 of this host; the DestinationRule puts TLS around it.",
    "subjectAltNames": "The certificate must be for this very name.",
    "loadBalancer.simple": "Spreads streams evenly, which connections alone don't.",
    "http2MaxRequests": "A stream to the sidecar lives as long as the answer.",
}


@dataclass(frozen=True, slots=True)
class IstioGateway:
    """Which gateway, and what of it.

    Attributes:
        namespace: of the gateway's pods; what is rendered goes there.
        selector: labels of the pods; else ``gateway``.
        gateway: name of a Gateway of the Kubernetes Gateway API, instead of labels.
        port: of the one listener that is governed; None: all.
        unmetered_routes: names of VirtualService routes that the sidecar isn't asked about.
        mesh_service: the sidecars' Service, reached by the mesh's own mutual TLS, instead of the
            attachment's addresses.
        local_replies: rewrite Envoy's own 408, 413, 503 and 504, of all routes.

    Raises:
        ValueError: an impossible value, naming the attribute.
    """

    namespace: str = "istio-ingress"
    selector: tuple[tuple[str, str], ...] = (("istio", "ingressgateway"),)
    gateway: str | None = None
    port: int | None = None
    unmetered_routes: tuple[str, ...] = ()
    mesh_service: Service | None = None
    local_replies: bool = False

    def __post_init__(self) -> None:
        check_namespace(self.namespace, parameter="namespace")
        if self.gateway is not None:
            check_name(self.gateway, parameter="gateway")
        elif not self.selector:
            raise ValueError("selector: without labels, every gateway of the mesh is changed")
        for key, value in self.selector:
            if not key or _LABEL_VALUE.fullmatch(value) is None:
                raise ValueError(f"selector: {key}={value!r} is not a label")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"port: {self.port} is not a port from 1 to 65535")
        for name in self.unmetered_routes:
            if not name or not name.isprintable() or " " in name:
                raise ValueError(f"unmetered_routes: {name!r} is not a route's name")

    @property
    def cluster(self) -> str:
        """The cluster that the filter names."""
        if self.mesh_service is None:
            return PROCESSOR_CLUSTER
        return f"outbound|{self.mesh_service.port}||{self.mesh_service.host}"


def istio_resources(attachment: Attachment, gateway: IstioGateway) -> list[dict[str, Any]]:
    """Everything to apply, in this order.

    Raises:
        ValueError: unmetered paths, which Istio can't tell from others; name routes instead.
    """
    if attachment.unmetered:
        raise ValueError("unmetered: Istio knows routes by name; see unmetered_routes")
    return [
        *([] if gateway.mesh_service is None else [_mesh_rule(attachment, gateway.mesh_service)]),
        *_provider(attachment, gateway.namespace),
        _envoy_filter(attachment, gateway),
    ]


def _envoy_filter(attachment: Attachment, gateway: IstioGateway) -> dict[str, Any]:
    whom: dict[str, Any]
    if gateway.gateway is None:
        whom = {"workloadSelector": {"labels": dict(gateway.selector)}}
    else:
        group = "gateway.networking.k8s.io"
        whom = {"targetRefs": [{"group": group, "kind": "Gateway", "name": gateway.gateway}]}
    patches = [
        *([] if gateway.mesh_service is not None else [_processors(attachment)]),
        _insert(attachment, gateway),
        _manager(attachment, gateway),
        *_buffers(attachment, gateway),
        *[_exempt(name, gateway) for name in gateway.unmetered_routes],
        _graceful_close(),
    ]
    return resource(
        "networking.istio.io/v1alpha3",
        "EnvoyFilter",
        _NAME,
        gateway.namespace,
        {**whom, "configPatches": patches},
    )


def _processors(attachment: Attachment) -> dict[str, Any]:
    cluster = processor_cluster(
        attachment.addresses,
        max_concurrent=attachment.max_concurrent,
        buffer_limit_bytes=attachment.buffer_limit_bytes,
        health_check_interval_s=attachment.health_check_interval_s,
        sidecar_tls=attachment.sidecar_tls,
    )
    return _patch("CLUSTER", {"context": "GATEWAY"}, "ADD", to_dict(cluster))


def _insert(attachment: Attachment, gateway: IstioGateway) -> dict[str, Any]:
    added = attached_filter(attachment, cluster=gateway.cluster)
    match = _listener(gateway, {"name": _MANAGER, "subFilter": {"name": _ROUTER}})
    return _patch("HTTP_FILTER", match, "INSERT_BEFORE", to_dict(added))


def _manager(attachment: Attachment, gateway: IstioGateway) -> dict[str, Any]:
    # Whom we only observe, nothing of ours may cut.
    bounded = not attachment.shadow and attachment.request_timeout is not None
    manager = hcm.HttpConnectionManager(
        access_log=[access_log(only_asked=True)],
        local_reply_config=local_replies() if gateway.local_replies else None,
        # What is metered must not depend on how a path is spelt.
        normalize_path=True,
        merge_slashes=True,
        request_headers_timeout=timedelta(seconds=HEADERS_TIMEOUT_S) if bounded else None,
        request_timeout=attachment.request_timeout if bounded else None,
    )
    changed = listener.Filter(name=_MANAGER, typed_config=protobuf.Any.pack(manager))
    return _patch(
        "NETWORK_FILTER", _listener(gateway, {"name": _MANAGER}), "MERGE", to_dict(changed)
    )


def _buffers(attachment: Attachment, gateway: IstioGateway) -> list[dict[str, Any]]:
    slow = listener.Listener(per_connection_buffer_limit_bytes=attachment.connection_buffer_bytes)
    whole = route.Route(request_body_buffer_limit=attachment.buffer_limit_bytes)
    return [
        _patch("LISTENER", _listener(gateway), "MERGE", to_dict(slow)),
        _patch("HTTP_ROUTE", _routes(gateway, {"action": "ROUTE"}), "MERGE", to_dict(whole)),
    ]


def _exempt(name: str, gateway: IstioGateway) -> dict[str, Any]:
    override = route.Route(
        typed_per_filter_config={FILTER_NAME: protobuf.Any.pack(not_here())},
    )
    return _patch("HTTP_ROUTE", _routes(gateway, {"name": name}), "MERGE", to_dict(override))


def _graceful_close() -> dict[str, Any]:
    flags = bootstrap.Bootstrap(
        layered_runtime=bootstrap.LayeredRuntime(layers=[graceful_close_layer()])
    )
    return _patch("BOOTSTRAP", {"context": "GATEWAY"}, "MERGE", to_dict(flags))


def _listener(gateway: IstioGateway, named: Mapping[str, Any] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if gateway.port is not None:
        found["portNumber"] = gateway.port
    if named is not None:
        found["filterChain"] = {"filter": dict(named)}
    return {"context": "GATEWAY", **({"listener": found} if found else {})}


def _routes(gateway: IstioGateway, which: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"vhost": {"route": dict(which)}}
    if gateway.port is not None:
        found = {"portNumber": gateway.port, **found}
    return {"context": "GATEWAY", "routeConfiguration": found}


def _patch(
    apply_to: str, match: Mapping[str, Any], operation: str, value: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "applyTo": apply_to,
        "match": dict(match),
        "patch": {"operation": operation, "value": dict(value)},
    }


def _mesh_rule(attachment: Attachment, service: Service) -> dict[str, Any]:
    spec = {
        "host": service.host,
        "trafficPolicy": {
            "tls": {"mode": "ISTIO_MUTUAL"},
            "loadBalancer": {"simple": "LEAST_REQUEST"},
            "connectionPool": _pool(attachment, connect_timeout="1s"),
        },
    }
    return resource(
        "networking.istio.io/v1", "DestinationRule", service.name, service.namespace, spec
    )


def _provider(attachment: Attachment, namespace: str) -> list[dict[str, Any]]:
    """The provider as a host of the mesh, with TLS that starts at the gateway."""
    if attachment.provider.is_literal or not attachment.provider_tls:
        return []  # a service inside, which the mesh knows already
    host = attachment.provider_host
    entry = {
        "hosts": [host],
        "exportTo": ["."],
        "location": "MESH_EXTERNAL",
        "resolution": "DNS",
        "ports": [
            {
                "number": 80,
                "name": "http",
                "protocol": "HTTP",
                "targetPort": attachment.provider_port,
            }
        ],
    }
    rule = {
        "host": host,
        "exportTo": ["."],
        "trafficPolicy": {
            "tls": {
                "mode": "SIMPLE",
                "sni": host,
                "subjectAltNames": [host],
                "caCertificates": attachment.provider_ca_file,
            },
            "connectionPool": _pool(attachment, connect_timeout="5s"),
        },
    }
    return [
        resource("networking.istio.io/v1", "ServiceEntry", "provider", namespace, entry),
        resource("networking.istio.io/v1", "DestinationRule", "provider", namespace, rule),
    ]


def _pool(attachment: Attachment, *, connect_timeout: str) -> dict[str, Any]:
    most = attachment.max_concurrent
    return {
        "tcp": {"maxConnections": most, "connectTimeout": connect_timeout},
        "http": {"http1MaxPendingRequests": most, "http2MaxRequests": most},
    }
