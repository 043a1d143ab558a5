"""A whole static Envoy bootstrap: listener, the ext_proc filter, router, the two clusters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sentinel_extproc.envoyconf.access_log import access_log
from sentinel_extproc.envoyconf.address import check_host, parse_address, to_envoy
from sentinel_extproc.envoyconf.api import (
    bootstrap,
    cluster,
    core,
    downstream_connections,
    hcm,
    listener,
    overload,
    protobuf,
    route,
    router,
)
from sentinel_extproc.envoyconf.attachment import (
    HEADERS_TIMEOUT_S,
    Attachment,
    SidecarTls,
    check_range,
)
from sentinel_extproc.envoyconf.clusters import (
    PROVIDER_CLUSTER,
    processor_cluster,
    provider_cluster,
)
from sentinel_extproc.envoyconf.filter import attached_filter
from sentinel_extproc.envoyconf.local_reply import local_replies
from sentinel_extproc.envoyconf.routes import CLIENT_ADDRESS_HEADERS, provider_routes
from sentinel_extproc.envoyconf.runtime import graceful_close_layer
from sentinel_extproc.envoyconf.several import provider_clusters, provider_hosts
from sentinel_extproc.envoyconf.versions import NEWEST, Version

LISTENER_NAME = "gateway"


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
    request_timeout_s: float = 600.0,
    health_check_interval_s: float = 5.0,
    envoy_version: Version = NEWEST,
    forward_namespaces: Sequence[str] = (),
    unmetered: Sequence[str] = (),
    sidecar_tls: SidecarTls | None = None,
) -> bootstrap.Bootstrap:
    """Everything Envoy needs to be a governed gateway in front of one provider.

    The same as ``gateway_bootstrap``, value by value; see ``Attachment`` for what they are.

    Raises:
        ValueError: an impossible value, naming the parameter.
    """
    attachment = Attachment(
        processors=tuple(processors),
        provider_host=provider_host,
        provider_port=provider_port,
        provider_tls=provider_tls,
        provider_ca_file=provider_ca_file,
        message_timeout_s=message_timeout_s,
        buffer_limit_bytes=buffer_limit_bytes,
        connection_buffer_bytes=connection_buffer_bytes,
        max_concurrent=max_concurrent,
        stream_idle_timeout_s=stream_idle_timeout_s,
        request_timeout_s=request_timeout_s,
        health_check_interval_s=health_check_interval_s,
        envoy_version=envoy_version,
        forward_namespaces=tuple(forward_namespaces),
        unmetered=tuple(unmetered),
        sidecar_tls=sidecar_tls,
    )
    return gateway_bootstrap(
        attachment, listener_address=listener_address, listener_port=listener_port, admin=admin
    )


def gateway_bootstrap(
    attachment: Attachment,
    *,
    listener_address: str = "0.0.0.0",  # noqa: S104 - a gateway is there to be reached
    listener_port: int = 8080,
    admin: str | None = None,
) -> bootstrap.Bootstrap:
    """A gateway with that attachment and nothing else.

    Args:
        listener_port: 0 lets the kernel choose; the admin interface then tells which.
        admin: ``unix:/path`` or ``host:port`` of the admin interface; None turns it off. It is
            unauthenticated, so never an address that others reach.

    Raises:
        ValueError: an impossible value, naming the parameter.
    """
    check_range("listener_port", listener_port, 0, 65535)
    check_host(listener_address, parameter="listener_address")
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
                    per_connection_buffer_limit_bytes=attachment.connection_buffer_bytes,
                    filter_chains=[
                        listener.FilterChain(
                            filters=[
                                listener.Filter(
                                    name="envoy.filters.network.http_connection_manager",
                                    typed_config=protobuf.Any.pack(_connection_manager(attachment)),
                                )
                            ]
                        )
                    ],
                )
            ],
            clusters=[
                processor_cluster(
                    attachment.addresses,
                    max_concurrent=attachment.max_concurrent,
                    buffer_limit_bytes=attachment.buffer_limit_bytes,
                    health_check_interval_s=attachment.health_check_interval_s,
                    sidecar_tls=attachment.sidecar_tls,
                ),
                *_provider_clusters(attachment),
            ],
        ),
        layered_runtime=bootstrap.LayeredRuntime(layers=[graceful_close_layer()]),
        overload_manager=_connection_bound(attachment.max_concurrent),
    )


def _connection_manager(attachment: Attachment) -> hcm.HttpConnectionManager:
    return hcm.HttpConnectionManager(
        stat_prefix=LISTENER_NAME,
        use_remote_address=True,
        skip_xff_append=True,
        # What is metered must not depend on how a path is spelt.
        normalize_path=True,
        merge_slashes=True,
        request_headers_timeout=timedelta(seconds=HEADERS_TIMEOUT_S),
        request_timeout=attachment.request_timeout,
        stream_idle_timeout=attachment.stream_idle_timeout,
        access_log=[access_log()],
        local_reply_config=local_replies(),
        http_filters=[
            attached_filter(attachment),
            hcm.HttpFilter(
                name="envoy.filters.http.router",
                typed_config=protobuf.Any.pack(router.Router(suppress_envoy_headers=True)),
            ),
        ],
        route_config=route.RouteConfiguration(
            name=LISTENER_NAME,
            virtual_hosts=_virtual_hosts(attachment),
        ),
    )


def _provider_clusters(attachment: Attachment) -> list[cluster.Cluster]:
    ca_file, max_concurrent = attachment.provider_ca_file, attachment.max_concurrent
    if attachment.providers:
        return provider_clusters(
            attachment.providers, ca_file=ca_file, max_concurrent=max_concurrent
        )
    return [
        provider_cluster(
            attachment.provider,
            use_tls=attachment.provider_tls,
            ca_file=ca_file,
            max_concurrent=max_concurrent,
        )
    ]


def _virtual_hosts(attachment: Attachment) -> list[route.VirtualHost]:
    if attachment.providers:
        return provider_hosts(
            attachment.providers,
            idle_timeout=attachment.stream_idle_timeout,
            buffer_limit_bytes=attachment.buffer_limit_bytes,
            headers_to_remove=CLIENT_ADDRESS_HEADERS,
        )
    routes = provider_routes(attachment)
    return [route.VirtualHost(name=PROVIDER_CLUSTER, domains=["*"], routes=routes)]


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
