"""A whole static Envoy bootstrap: listener, the ext_proc filter, router, the two clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta

from sentinel_extproc.envoyconf.address import HostPort, check_host, parse_address, to_envoy
from sentinel_extproc.envoyconf.api import (
    accesslog,
    bootstrap,
    core,
    downstream_connections,
    hcm,
    listener,
    overload,
    protobuf,
    route,
    router,
    stream_log,
)
from sentinel_extproc.envoyconf.clusters import (
    PROCESSOR_CLUSTER,
    PROVIDER_CLUSTER,
    processor_cluster,
    provider_cluster,
)
from sentinel_extproc.envoyconf.filter import ext_proc_filter
from sentinel_extproc.envoyconf.local_reply import local_replies
from sentinel_extproc.envoyconf.names import (
    FILTER_NAME,
    GRACEFUL_CLOSE_FLAG,
    METADATA_NAMESPACE,
)

OLDEST_ENVOY = (1, 36)
LISTENER_NAME = "gateway"

# The provider has no business with our clients' addresses.
_CLIENT_ADDRESS_HEADERS = ("x-forwarded-for", "x-envoy-external-address", "x-envoy-internal")

_ACCESS_LOG_FIELDS = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "upstream": "%UPSTREAM_HOST%",
    "sentinel": f"%DYNAMIC_METADATA({METADATA_NAMESPACE})%",
}


def static_bootstrap(
    *,
    processors: Sequence[str],
    provider_host: str = "api.openai.com",
    provider_port: int = 443,
    provider_tls: bool = True,
    provider_ca_file: str = "/etc/ssl/certs/ca-certificates.crt",
    listener_address: str = "0.0.0.0",  # noqa: S104 - a gateway is there to be reached
    listener_port: int = 8080,
    admin: str | None = None,
    message_timeout_s: float = 2.0,
    buffer_limit_bytes: int = 16 * 2**20,
    connection_buffer_bytes: int = 2**20,
    max_concurrent: int = 100_000,
    stream_idle_timeout_s: float = 300.0,
    health_check_interval_s: float = 5.0,
    envoy_version: tuple[int, int] = (1, 40),
    forward_namespaces: Sequence[str] = (),
) -> bootstrap.Bootstrap:
    """Everything Envoy needs to be a governed gateway in front of one provider.

    Args:
        processors: the sidecar's workers, ``unix:/path`` or ``host:port`` each.
        provider_host: DNS name or IP literal; sent as Host, checked in the certificate.
        listener_port: 0 lets the kernel choose; the admin interface then tells which.
        admin: ``unix:/path`` or ``host:port`` of the admin interface; None turns it off. It is
            unauthenticated, so never an address that others reach.
        message_timeout_s: for one reply of the sidecar; past it the client gets a 504.
        buffer_limit_bytes: largest request body that can be read whole; more is a 413.
        connection_buffer_bytes: what Envoy holds for a client that reads slowly; set apart from
            the bodies' bound, so that raising that doesn't make every slow stream cost as much.
        max_concurrent: circuit breakers of both clusters, and client connections at once.
        stream_idle_timeout_s: longest silence within a response; models that think before they
            answer need minutes.
        health_check_interval_s: seconds between gRPC health checks of each worker; 0 for none.
        envoy_version: ``(major, minor)`` of the target.
        forward_namespaces: dynamic metadata of earlier filters that the sidecar gets.

    Raises:
        ValueError: an impossible value, naming the parameter.
    """
    _check_range("provider_port", provider_port, 1, 65535)
    _check_range("listener_port", listener_port, 0, 65535)
    _check_range("message_timeout_s", message_timeout_s, 0.001, 3600)
    _check_range("buffer_limit_bytes", buffer_limit_bytes, 16 * 2**10, 2**31 - 1)
    _check_range("connection_buffer_bytes", connection_buffer_bytes, 16 * 2**10, 2**31 - 1)
    _check_range("max_concurrent", max_concurrent, 1, 2**31 - 1)
    _check_range("stream_idle_timeout_s", stream_idle_timeout_s, 1, 86_400)
    _check_range("health_check_interval_s", health_check_interval_s, 0, 3600)
    check_host(provider_host, parameter="provider_host")
    check_host(listener_address, parameter="listener_address")
    if envoy_version < OLDEST_ENVOY:
        raise ValueError(f"envoy_version: {envoy_version} is older than {OLDEST_ENVOY}")
    if provider_tls and not provider_ca_file.startswith("/"):
        raise ValueError(f"provider_ca_file: {provider_ca_file!r} must be an absolute path")
    addresses = [parse_address(text, parameter="processors") for text in processors]
    provider = HostPort(provider_host, provider_port)
    manager = _connection_manager(
        provider_authority=_authority(provider, default_port=443 if provider_tls else 80),
        message_timeout_s=message_timeout_s,
        buffer_limit_bytes=buffer_limit_bytes,
        stream_idle_timeout=timedelta(seconds=stream_idle_timeout_s),
        envoy_version=envoy_version,
        forward_namespaces=forward_namespaces,
    )
    return bootstrap.Bootstrap(
        admin=_admin(admin),
        static_resources=bootstrap.BootstrapStaticResources(
            listeners=[
                listener.Listener(
                    name=LISTENER_NAME,
                    address=core.Address(
                        socket_address=core.SocketAddress(
                            address=listener_address, port_value=listener_port
                        )
                    ),
                    per_connection_buffer_limit_bytes=connection_buffer_bytes,
                    filter_chains=[
                        listener.FilterChain(
                            filters=[
                                listener.Filter(
                                    name="envoy.filters.network.http_connection_manager",
                                    typed_config=protobuf.Any.pack(manager),
                                )
                            ]
                        )
                    ],
                )
            ],
            clusters=[
                processor_cluster(
                    addresses,
                    max_concurrent=max_concurrent,
                    buffer_limit_bytes=buffer_limit_bytes,
                    health_check_interval_s=health_check_interval_s,
                ),
                provider_cluster(
                    provider,
                    use_tls=provider_tls,
                    ca_file=provider_ca_file,
                    max_concurrent=max_concurrent,
                ),
            ],
        ),
        layered_runtime=bootstrap.LayeredRuntime(
            layers=[
                bootstrap.RuntimeLayer(
                    name="sentinel",
                    static_layer=protobuf.Struct.from_dict({GRACEFUL_CLOSE_FLAG: True}),
                )
            ]
        ),
        overload_manager=_connection_bound(max_concurrent),
    )


def _connection_manager(
    *,
    provider_authority: str,
    message_timeout_s: float,
    buffer_limit_bytes: int,
    stream_idle_timeout: timedelta,
    envoy_version: tuple[int, int],
    forward_namespaces: Sequence[str],
) -> hcm.HttpConnectionManager:
    processor = ext_proc_filter(
        cluster=PROCESSOR_CLUSTER,
        message_timeout_s=message_timeout_s,
        envoy_version=envoy_version,
        forward_namespaces=forward_namespaces,
    )
    return hcm.HttpConnectionManager(
        stat_prefix=LISTENER_NAME,
        use_remote_address=True,
        skip_xff_append=True,
        # What is metered must not depend on how a path is spelt.
        normalize_path=True,
        merge_slashes=True,
        request_headers_timeout=timedelta(seconds=10),
        stream_idle_timeout=stream_idle_timeout,
        access_log=[_access_log()],
        local_reply_config=local_replies(),
        http_filters=[
            hcm.HttpFilter(name=FILTER_NAME, typed_config=protobuf.Any.pack(processor)),
            hcm.HttpFilter(
                name="envoy.filters.http.router",
                typed_config=protobuf.Any.pack(router.Router(suppress_envoy_headers=True)),
            ),
        ],
        route_config=route.RouteConfiguration(
            name=LISTENER_NAME,
            virtual_hosts=[
                route.VirtualHost(
                    name=PROVIDER_CLUSTER,
                    domains=["*"],
                    routes=[
                        route.Route(
                            match=route.RouteMatch(prefix="/"),
                            route=route.RouteAction(
                                cluster=PROVIDER_CLUSTER,
                                host_rewrite_literal=provider_authority,
                                # The default of 15 s would cut long generations.
                                timeout=timedelta(0),
                                idle_timeout=stream_idle_timeout,
                                # For realtime sessions; the sidecar refuses it everywhere else.
                                upgrade_configs=[
                                    route.RouteActionUpgradeConfig(upgrade_type="websocket")
                                ],
                            ),
                            request_body_buffer_limit=buffer_limit_bytes,
                            request_headers_to_remove=list(_CLIENT_ADDRESS_HEADERS),
                        )
                    ],
                )
            ],
        ),
    )


def _authority(address: HostPort, *, default_port: int) -> str:
    """The Host header's value; RFC 9110 section 7.2 leaves out the scheme's own port."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return host if address.port == default_port else f"{host}:{address.port}"


def _access_log() -> accesslog.AccessLog:
    return accesslog.AccessLog(
        name="envoy.access_loggers.stdout",
        typed_config=protobuf.Any.pack(
            stream_log.StdoutAccessLog(
                log_format=core.SubstitutionFormatString(
                    json_format=protobuf.Struct.from_dict(_ACCESS_LOG_FIELDS)
                )
            )
        ),
    )


def _admin(address: str | None) -> bootstrap.Admin | None:
    if address is None:
        return None
    return bootstrap.Admin(address=to_envoy(parse_address(address, parameter="admin")))


def _connection_bound(max_connections: int) -> overload.OverloadManager:
    config = downstream_connections.DownstreamConnectionsConfig(
        max_active_downstream_connections=max_connections
    )
    return overload.OverloadManager(
        resource_monitors=[
            overload.ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=protobuf.Any.pack(config),
            )
        ]
    )


def _check_range(parameter: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{parameter}: {value!r} is not between {low:g} and {high:g}")
