"""The two clusters of an attachment: the sidecar's workers, and the provider."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sentinel_extproc.envoyconf.address import HostPort, SocketPath, to_envoy
from sentinel_extproc.envoyconf.api import (
    cluster,
    core,
    endpoint,
    matcher,
    protobuf,
    tls,
    types,
    upstream_http,
)
from sentinel_extproc.envoyconf.attachment import SidecarTls

PROCESSOR_CLUSTER = "sentinel"
PROVIDER_CLUSTER = "provider"

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TLS_SOCKET = "envoy.transport_sockets.tls"
_CONNECT_TIMEOUT = timedelta(seconds=5)
_REFUSALS = 2
_PANIC_PERCENT = 1.0


def processor_cluster(
    addresses: Sequence[SocketPath | HostPort],
    *,
    max_concurrent: int,
    buffer_limit_bytes: int,
    health_check_interval_s: float,
    sidecar_tls: SidecarTls | None = None,
) -> cluster.Cluster:
    """The sidecar, one endpoint per worker.

    Envoy keeps one HTTP/2 connection per endpoint and thread, so workers behind one shared
    address would get all of a thread's requests or none; LEAST_REQUEST over one address each
    spreads them evenly.
    """
    needs_dns = any(isinstance(a, HostPort) and not a.is_literal for a in addresses)
    # With a single endpoint there is nobody else to go to. A name may be many.
    several = needs_dns or len(addresses) > 1
    checks = []
    if health_check_interval_s > 0:
        interval = timedelta(seconds=health_check_interval_s)
        checks = [
            core.HealthCheck(
                timeout=timedelta(seconds=2),
                interval=interval,
                # The default of 60 s without traffic would send the first request after a
                # restart to a worker that is gone.
                no_traffic_interval=interval,
                unhealthy_threshold=2,
                healthy_threshold=1,
                grpc_health_check=core.HealthCheckGrpcHealthCheck(),
            )
        ]
    discovery, lookup = cluster.ClusterDiscoveryType, cluster.ClusterDnsLookupFamily
    return cluster.Cluster(
        name=PROCESSOR_CLUSTER,
        type=discovery.STRICT_DNS if needs_dns else discovery.STATIC,
        # By itself Envoy takes IPv6 alone where a name has both, as localhost mostly does.
        dns_lookup_family=lookup.V4_PREFERRED if needs_dns else lookup.AUTO,
        connect_timeout=timedelta(seconds=1),
        per_connection_buffer_limit_bytes=buffer_limit_bytes,
        lb_policy=cluster.ClusterLbPolicy.LEAST_REQUEST,
        load_assignment=_assignment(PROCESSOR_CLUSTER, addresses),
        health_checks=checks,
        outlier_detection=_leave_out() if several else None,
        common_lb_config=cluster.ClusterCommonLbConfig(
            # By default Envoy ignores all of this once less than half are well. A worker that is
            # left out is gone or hangs: any other is better. Only without any others all are tried.
            healthy_panic_threshold=types.Percent(value=_PANIC_PERCENT),
            # By default what changes within a second of another change waits for its end.
            update_merge_window=timedelta(0),
        ),
        circuit_breakers=_breakers(max_concurrent),
        transport_socket=None if sidecar_tls is None else _sidecar_tls(sidecar_tls),
        typed_extension_protocol_options={
            _HTTP_OPTIONS: protobuf.Any.pack(
                upstream_http.HttpProtocolOptions(
                    explicit_http_config=upstream_http.HttpProtocolOptionsExplicitHttpConfig(
                        http2_protocol_options=core.Http2ProtocolOptions()
                    )
                )
            )
        },
    )


def _leave_out() -> cluster.OutlierDetection:
    """Leave out a worker that can't be connected to, for a second, then a second longer each time.

    Refused connections end at once, so that by LEAST_REQUEST alone such a worker would be sent
    nearly everything until health checks notice. What a worker answers never counts, nor do
    message time-outs and full circuit breakers. Envoy counts failures in a row, over all its
    threads, and begins anew at every stream that finds a connection: streams that a busy worker
    resets count only if none begins in between. A successful health check ends an ejection.
    """
    return cluster.OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=_REFUSALS,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_consecutive_5xx=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_success_rate=0,
        enforcing_local_origin_success_rate=0,
        enforcing_failure_percentage=0,
        enforcing_failure_percentage_local_origin=0,
        interval=timedelta(seconds=1),
        base_ejection_time=timedelta(seconds=1),
        max_ejection_time=timedelta(seconds=5),
        # Of up to a hundred, all but one.
        max_ejection_percent=99,
    )


def provider_cluster(
    address: HostPort,
    *,
    use_tls: bool,
    ca_file: str,
    max_concurrent: int,
    name: str = PROVIDER_CLUSTER,
) -> cluster.Cluster:
    """The paid API: TLS with SNI and a check that the certificate is for that very name."""
    discovery = cluster.ClusterDiscoveryType
    http1 = core.Http1ProtocolOptions()
    if use_tls:
        protocol = upstream_http.HttpProtocolOptions(
            auto_config=upstream_http.HttpProtocolOptionsAutoHttpConfig(
                http_protocol_options=http1,
                http2_protocol_options=core.Http2ProtocolOptions(),
            )
        )
    else:
        protocol = upstream_http.HttpProtocolOptions(
            explicit_http_config=upstream_http.HttpProtocolOptionsExplicitHttpConfig(
                http_protocol_options=http1
            )
        )
    return cluster.Cluster(
        name=name,
        type=discovery.STATIC if address.is_literal else discovery.LOGICAL_DNS,
        dns_lookup_family=cluster.ClusterDnsLookupFamily.V4_PREFERRED,
        connect_timeout=_CONNECT_TIMEOUT,
        load_assignment=_assignment(name, [address]),
        circuit_breakers=_breakers(max_concurrent),
        transport_socket=_provider_tls(address, ca_file) if use_tls else None,
        typed_extension_protocol_options={_HTTP_OPTIONS: protobuf.Any.pack(protocol)},
    )


def _provider_tls(address: HostPort, ca_file: str) -> core.TransportSocket:
    return _tls(
        tls.UpstreamTlsContext(
            # RFC 6066 section 3: no IP literals in SNI.
            sni="" if address.is_literal else address.host,
            common_tls_context=tls.CommonTlsContext(
                validation_context=_named(address.host, ca_file, literal=address.is_literal)
            ),
        )
    )


def _sidecar_tls(sidecar: SidecarTls) -> core.TransportSocket:
    literal = HostPort(sidecar.server_name, 0).is_literal
    certificates = []
    if sidecar.cert_file is not None and sidecar.key_file is not None:
        certificates = [
            tls.TlsCertificate(
                certificate_chain=core.DataSource(filename=sidecar.cert_file),
                private_key=core.DataSource(filename=sidecar.key_file),
            )
        ]
    return _tls(
        tls.UpstreamTlsContext(
            sni="" if literal else sidecar.server_name,
            common_tls_context=tls.CommonTlsContext(
                alpn_protocols=["h2"],
                tls_certificates=certificates,
                validation_context=_named(sidecar.server_name, sidecar.ca_file, literal=literal),
            ),
        )
    )


def _named(host: str, ca_file: str, *, literal: bool) -> tls.CertificateValidationContext:
    """Trust ``ca_file``, and only for a certificate that is for ``host``."""
    san = tls.SubjectAltNameMatcherSanType
    return tls.CertificateValidationContext(
        trusted_ca=core.DataSource(filename=ca_file),
        match_typed_subject_alt_names=[
            tls.SubjectAltNameMatcher(
                san_type=san.IP_ADDRESS if literal else san.DNS,
                matcher=matcher.StringMatcher(exact=host),
            )
        ],
    )


def _tls(context: tls.UpstreamTlsContext) -> core.TransportSocket:
    return core.TransportSocket(name=_TLS_SOCKET, typed_config=protobuf.Any.pack(context))


def _assignment(
    name: str, addresses: Sequence[SocketPath | HostPort]
) -> endpoint.ClusterLoadAssignment:
    return endpoint.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            endpoint.LocalityLbEndpoints(
                lb_endpoints=[
                    endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=to_envoy(address)))
                    for address in addresses
                ]
            )
        ],
    )


def _breakers(max_concurrent: int) -> cluster.CircuitBreakers:
    # The default of 1024 counts ext_proc streams, which live as long as the response does.
    return cluster.CircuitBreakers(
        thresholds=[
            cluster.CircuitBreakersThresholds(
                max_connections=max_concurrent,
                max_pending_requests=max_concurrent,
                max_requests=max_concurrent,
                track_remaining=True,
            )
        ]
    )
