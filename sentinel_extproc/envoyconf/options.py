"""Options as they were typed, to what targets take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sentinel_extproc.envoyconf.address import HostPort, parse_address
from sentinel_extproc.envoyconf.attachment import SidecarTls
from sentinel_extproc.envoyconf.envoy_gateway import EnvoyGateway, GatewayTls
from sentinel_extproc.envoyconf.from_settings import Choices
from sentinel_extproc.envoyconf.istio import IstioGateway
from sentinel_extproc.envoyconf.kubernetes import DEFAULT_SERVICE, Service, parse_service
from sentinel_extproc.envoyconf.targets import Options
from sentinel_extproc.envoyconf.versions import (
    NEWEST,
    Version,
    check_envoy,
    envoy_of_istio,
    parse_version,
)


def options_from(target: str, given: Mapping[str, Any]) -> Options:
    """All options, by the names of the command's parameters.

    Raises:
        ValueError: what can't be, naming the option.
    """
    service = parse_service(given["service"]) if given["service"] else DEFAULT_SERVICE
    by_name = target == "envoy-gateway"
    listen = parse_address(given["listen"], parameter="listen")
    if not isinstance(listen, HostPort):
        raise ValueError("listen: must be host:port")  # noqa: TRY004 - as for every other option
    return Options(
        choices=Choices(
            workers=tuple(given["workers"]),
            message_timeout_s=given["message_timeout"],
            buffer_limit_bytes=given["buffer_limit"],
            max_concurrent=given["max_concurrent"],
            stream_idle_timeout_s=given["idle_timeout"],
            request_timeout_s=given["request_timeout"],
            provider_ca_file=given["provider_ca"],
            envoy_version=_version(given),
            unmetered=tuple(given["unmetered"]),
            sidecar_tls=None if by_name else _tls_files(given),
        ),
        listen=(listen.host, listen.port),
        admin=given["admin"],
        service=service,
        istio=_istio(given, service),
        envoy_gateway=_envoy_gateway(given),
        gateway_tls=_tls_names(given) if by_name else None,
        with_envoy=given["with_envoy"],
    )


def _version(given: Mapping[str, Any]) -> Version:
    if given["envoy_version"] is not None:
        version = parse_version(given["envoy_version"], parameter="envoy_version")
        check_envoy(version)
        return version
    if given["istio_version"] is not None:
        return envoy_of_istio(parse_version(given["istio_version"], parameter="istio_version"))
    return NEWEST


def _istio(given: Mapping[str, Any], service: Service) -> IstioGateway:
    labels = [tuple(text.split("=", 1)) for text in given["selector"]]
    if bad := [label for label in labels if len(label) != 2]:
        raise ValueError(f"selector: {bad[0][0]!r} is not key=value")
    if given["selector"] and given["gateway"]:
        raise ValueError("selector: not together with gateway")
    return IstioGateway(
        namespace=given["namespace"] or IstioGateway().namespace,
        selector=tuple((key, value) for key, value in labels) or IstioGateway().selector,
        gateway=given["gateway"],
        port=given["port"],
        unmetered_routes=tuple(given["unmetered_routes"]),
        mesh_service=service if given["mesh_tls"] else None,
        local_replies=given["local_replies"],
    )


def _envoy_gateway(given: Mapping[str, Any]) -> EnvoyGateway:
    return EnvoyGateway(
        namespace=given["namespace"] or EnvoyGateway().namespace,
        gateway=given["gateway"] or EnvoyGateway().gateway,
        routes=tuple(given["routes"]),
    )


def _tls_files(given: Mapping[str, Any]) -> SidecarTls | None:
    if not _any_tls(given):
        return None
    return SidecarTls(
        given["sidecar_name"], given["sidecar_ca"], given["sidecar_cert"], given["sidecar_key"]
    )


def _tls_names(given: Mapping[str, Any]) -> GatewayTls | None:
    if not _any_tls(given):
        return None
    return GatewayTls(given["sidecar_name"], given["sidecar_ca"], given["sidecar_cert"])


def _any_tls(given: Mapping[str, Any]) -> bool:
    names = ("sidecar_name", "sidecar_ca", "sidecar_cert", "sidecar_key")
    if not any(given[name] for name in names):
        return False
    if not given["sidecar_name"] or not given["sidecar_ca"]:
        raise ValueError("sidecar_tls: needs both --sidecar-name and --sidecar-ca")
    return True
