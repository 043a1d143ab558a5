"""Envoy Gateway: an EnvoyExtensionPolicy and the policies around it that its defaults make needed.

EnvoyExtensionPolicy, ClientTrafficPolicy and Backend are checked against the project's schemas by
tests. Others (BackendTrafficPolicy, EnvoyProxy, and the Gateway API's own) are by their references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sentinel_extproc.envoyconf.access_log import FIELDS
from sentinel_extproc.envoyconf.api import bootstrap
from sentinel_extproc.envoyconf.attachment import Attachment
from sentinel_extproc.envoyconf.kubernetes import (
    DEFAULT_SERVICE,
    Service,
    check_name,
    check_namespace,
    resource,
)
from sentinel_extproc.envoyconf.names import METADATA_NAMESPACE
from sentinel_extproc.envoyconf.render import to_dict
from sentinel_extproc.envoyconf.runtime import graceful_close_layer

_OURS = "gateway.envoyproxy.io"
_GATEWAY_API = "gateway.networking.k8s.io"
_NAME = "sentinel"
_PROVIDER = "provider"

_BODIES = {"request": {"body": "Streamed"}, "response": {"body": "Streamed"}}
_GOVERNING = {
    "failOpen": False,
    "statusOnError": 503,
    "processingMode": {"allowModeOverride": True, **_BODIES},
}
_OBSERVING = {"shadowMode": True, "failOpen": True, "processingMode": _BODIES}

ENVOY_GATEWAY_NOTES = {
    "extProc.backendRefs": "The Service of the sidecars.",
    "extProc.messageTimeout": (
        "The default of 200 ms would answer 504 while the user service is asked."
    ),
    "extProc.failOpen": "When the sidecar is away, nothing passes ungoverned.",
    "extProc.statusOnError": "Otherwise clients get a 500 when the sidecar fails.",
    "extProc.processingMode": (
        "The reply to a request's headers asks for whole bodies where they count."
    ),
    "metadata.writableNamespaces": (
        "Without it, user, model and tokens are missing from the access log."
    ),
    "circuitBreaker.maxParallelRequests": (
        "A stream to the sidecar lives as long as the answer: the default of 1024 is soon reached."
    ),
    "connection.bufferLimit": "With the default of 32 KiB, larger bodies get 413.",
    "http.requestReceivedTimeout": (
        "For a whole request to arrive, on every route of this Gateway: who sends a byte now and"
        " then would keep it open for ever."
    ),
    "http.requestTimeout": "Long generations aren't cut.",
    "http.streamIdleTimeout": "The longest silence within an answer.",
    "validation.hostname": "Sent as SNI, and what the certificate must be for.",
    "spec.bootstrap": (
        "Lets the sidecar finish after its last reply. Name this EnvoyProxy in the Gateway's"
        " infrastructure.parametersRef or the GatewayClass's parametersRef, or merge it into yours."
    ),
    "json.sentinel": "User, model, tokens, decision; an object.",
    "filters.urlRewrite": "The provider expects its own name.",
}


@dataclass(frozen=True, slots=True)
class GatewayTls:
    """Mutual TLS to the sidecars.

    Attributes:
        server_name: in the sidecar's certificate.
        ca: ConfigMap with ``ca.crt``.
        client: Secret with Envoy's own certificate, ``tls.crt`` and ``tls.key``; None: none.
    """

    server_name: str
    ca: str
    client: str | None = None


@dataclass(frozen=True, slots=True)
class EnvoyGateway:
    """Which Gateway, and which of its routes.

    Attributes:
        namespace: of the Gateway and its routes; what is rendered goes there.
        gateway: name of the Gateway.
        routes: HTTPRoutes that are governed; without any, one is made that leads to the provider.
        service: of the sidecars.
        tls: to the sidecars; None: cleartext, for a mesh or a network that is trusted.

    Raises:
        ValueError: an impossible value, naming the attribute.
    """

    namespace: str = "default"
    gateway: str = "gateway"
    routes: tuple[str, ...] = ()
    service: Service = DEFAULT_SERVICE
    tls: GatewayTls | None = None

    def __post_init__(self) -> None:
        check_namespace(self.namespace, parameter="namespace")
        check_name(self.gateway, parameter="gateway")
        for name in self.routes:
            check_name(name, parameter="routes")


def envoy_gateway_resources(attachment: Attachment, gateway: EnvoyGateway) -> list[dict[str, Any]]:
    """Everything to apply, in this order.

    Raises:
        ValueError: unmetered paths, which are routes of their own here.
    """
    if attachment.unmetered:
        raise ValueError("unmetered: make it an HTTPRoute of its own, and name only the others")
    made = [] if gateway.routes else [*_provider(attachment, gateway), _route(attachment, gateway)]
    return [
        *_sidecars(gateway),
        *made,
        _extension_policy(attachment, gateway),
        _client_policy(attachment, gateway),
        _backend_policy(attachment, gateway),
        _proxy(gateway),
    ]


def _routes(gateway: EnvoyGateway) -> Sequence[str]:
    return gateway.routes or (_PROVIDER,)


def _target_routes(gateway: EnvoyGateway) -> list[dict[str, str]]:
    return [{"group": _GATEWAY_API, "kind": "HTTPRoute", "name": n} for n in _routes(gateway)]


def _extension_policy(attachment: Attachment, gateway: EnvoyGateway) -> dict[str, Any]:
    metadata: dict[str, Any] = {"writableNamespaces": [METADATA_NAMESPACE]}
    if attachment.forward_namespaces:
        metadata["accessibleNamespaces"] = list(attachment.forward_namespaces)
    processor = {
        "backendRefs": [_sidecar_ref(gateway)],
        "messageTimeout": _seconds(attachment.message_timeout_s),
        **(_OBSERVING if attachment.shadow else _GOVERNING),
        "metadata": metadata,
        "backendSettings": {
            "circuitBreaker": _breakers(attachment),
            "connection": {"bufferLimit": attachment.buffer_limit_bytes},
            "loadBalancer": {"type": "LeastRequest"},
            **_health_check(attachment),
            "timeout": {"tcp": {"connectTimeout": "1s"}},
        },
    }
    return resource(
        f"{_OURS}/v1alpha1",
        "EnvoyExtensionPolicy",
        _NAME,
        gateway.namespace,
        {"targetRefs": _target_routes(gateway), "extProc": [processor]},
    )


def _sidecar_ref(gateway: EnvoyGateway) -> dict[str, Any]:
    if gateway.tls is not None:
        return {"group": _OURS, "kind": "Backend", "name": _NAME}
    return {
        "name": gateway.service.name,
        "namespace": gateway.service.namespace,
        "port": gateway.service.port,
    }


def _sidecars(gateway: EnvoyGateway) -> list[dict[str, Any]]:
    """What lets the policy name the sidecars from another namespace, or reach them by TLS."""
    if gateway.tls is not None:
        return _sidecar_backend(gateway, gateway.tls)
    if gateway.service.namespace == gateway.namespace:
        return []
    grant = {
        "from": [{"group": _OURS, "kind": "EnvoyExtensionPolicy", "namespace": gateway.namespace}],
        "to": [{"group": "", "kind": "Service", "name": gateway.service.name}],
    }
    space = gateway.service.namespace
    return [resource(f"{_GATEWAY_API}/v1beta1", "ReferenceGrant", _NAME, space, grant)]


def _sidecar_backend(gateway: EnvoyGateway, tls: GatewayTls) -> list[dict[str, Any]]:
    service = gateway.service
    backend: dict[str, Any] = {
        "endpoints": [{"fqdn": {"hostname": service.host, "port": service.port}}],
    }
    if tls.client is not None:
        client = {"kind": "Secret", "name": tls.client}
        backend["tls"] = {"clientCertificateRef": client}
    authorities = [{"group": "", "kind": "ConfigMap", "name": tls.ca}]
    return [
        resource(f"{_OURS}/v1alpha1", "Backend", _NAME, gateway.namespace, backend),
        _tls_policy(
            _NAME,
            gateway.namespace,
            {"hostname": tls.server_name, "caCertificateRefs": authorities},
        ),
    ]


def _provider(attachment: Attachment, gateway: EnvoyGateway) -> list[dict[str, Any]]:
    address = attachment.provider
    if address.is_literal:
        endpoint = {"ip": {"address": address.host, "port": address.port}}
    else:
        endpoint = {"fqdn": {"hostname": address.host, "port": address.port}}
    backend = resource(
        f"{_OURS}/v1alpha1", "Backend", _PROVIDER, gateway.namespace, {"endpoints": [endpoint]}
    )
    if not attachment.provider_tls:
        return [backend]
    validation = {"hostname": address.host, "wellKnownCACertificates": "System"}
    return [backend, _tls_policy(_PROVIDER, gateway.namespace, validation)]


def _tls_policy(backend: str, namespace: str, validation: dict[str, Any]) -> dict[str, Any]:
    target = {"group": _OURS, "kind": "Backend", "name": backend}
    return resource(
        f"{_GATEWAY_API}/v1",
        "BackendTLSPolicy",
        backend,
        namespace,
        {"targetRefs": [target], "validation": validation},
    )


def _route(attachment: Attachment, gateway: EnvoyGateway) -> dict[str, Any]:
    rewrite = {"type": "URLRewrite", "urlRewrite": {"hostname": attachment.provider_host}}
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "filters": [rewrite],
        "backendRefs": [{"group": _OURS, "kind": "Backend", "name": _PROVIDER}],
    }
    return resource(
        f"{_GATEWAY_API}/v1",
        "HTTPRoute",
        _PROVIDER,
        gateway.namespace,
        {"parentRefs": [{"name": gateway.gateway}], "rules": [rule]},
    )


def _client_policy(attachment: Attachment, gateway: EnvoyGateway) -> dict[str, Any]:
    target = {"group": _GATEWAY_API, "kind": "Gateway", "name": gateway.gateway}
    spec = {
        "targetRefs": [target],
        "connection": {"bufferLimit": attachment.buffer_limit_bytes},
        **_received_within(attachment),
    }
    return resource(f"{_OURS}/v1alpha1", "ClientTrafficPolicy", _NAME, gateway.namespace, spec)


def _received_within(attachment: Attachment) -> dict[str, Any]:
    # Whom we only observe, nothing of ours may cut.
    if attachment.shadow or not attachment.request_timeout_s:
        return {}
    within = _seconds(attachment.request_timeout_s)
    return {"timeout": {"http": {"requestReceivedTimeout": within}}}


def _backend_policy(attachment: Attachment, gateway: EnvoyGateway) -> dict[str, Any]:
    idle = _seconds(attachment.stream_idle_timeout_s)
    spec = {
        "targetRefs": _target_routes(gateway),
        "circuitBreaker": _breakers(attachment),
        "timeout": {
            "tcp": {"connectTimeout": "5s"},
            "http": {"requestTimeout": "0s", "streamIdleTimeout": idle},
        },
    }
    return resource(f"{_OURS}/v1alpha1", "BackendTrafficPolicy", _NAME, gateway.namespace, spec)


def _proxy(gateway: EnvoyGateway) -> dict[str, Any]:
    flags = bootstrap.Bootstrap(
        layered_runtime=bootstrap.LayeredRuntime(layers=[graceful_close_layer()])
    )
    log = {
        "format": {"type": "JSON", "json": FIELDS},
        "sinks": [{"type": "File", "file": {"path": "/dev/stdout"}}],
    }
    spec = {
        "bootstrap": {"type": "Merge", "value": yaml.safe_dump(to_dict(flags), sort_keys=False)},
        "telemetry": {"accessLog": {"settings": [log]}},
    }
    return resource(f"{_OURS}/v1alpha1", "EnvoyProxy", _NAME, gateway.namespace, spec)


def _breakers(attachment: Attachment) -> dict[str, int]:
    most = attachment.max_concurrent
    return {"maxConnections": most, "maxPendingRequests": most, "maxParallelRequests": most}


def _health_check(attachment: Attachment) -> dict[str, Any]:
    if attachment.health_check_interval_s <= 0:
        return {}
    check = {
        "type": "GRPC",
        "interval": _seconds(attachment.health_check_interval_s),
        "timeout": "2s",
        "unhealthyThreshold": 2,
        "healthyThreshold": 1,
    }
    return {"healthCheck": {"active": check}}


def _seconds(value: float) -> str:
    """In the Gateway API's notation, which has no fractions."""
    whole, rest = divmod(round(value * 1000), 1000)
    return f"{whole}s{rest}ms" if rest and whole else f"{rest}ms" if rest else f"{whole}s"
