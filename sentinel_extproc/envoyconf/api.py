"""The parts of ``envoy-data-plane`` that we build with, under short names.

The package's generated modules use a pydantic form that warns when a module is imported. That is
theirs to mend and says nothing about our configuration, so it is silenced here, once.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
    from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap
    from envoy_data_plane.envoy.config.cluster import v3 as cluster
    from envoy_data_plane.envoy.config.core import v3 as core
    from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
    from envoy_data_plane.envoy.config.listener import v3 as listener
    from envoy_data_plane.envoy.config.overload import v3 as overload
    from envoy_data_plane.envoy.config.route import v3 as route
    from envoy_data_plane.envoy.data.accesslog import v3 as access_log_data
    from envoy_data_plane.envoy.extensions.access_loggers.filters.cel import v3 as cel
    from envoy_data_plane.envoy.extensions.access_loggers.stream import v3 as stream_log
    from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc
    from envoy_data_plane.envoy.extensions.filters.http.jwt_authn import v3 as jwt_authn
    from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
    from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
    from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections import (
        v3 as downstream_connections,
    )
    from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
    from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream_http
    from envoy_data_plane.envoy.service.accesslog import v3 as access_log_service
    from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc_service
    from envoy_data_plane.envoy.type import v3 as types
    from envoy_data_plane.envoy.type.matcher import v3 as matcher
    from envoy_data_plane.google import protobuf

__all__ = [
    "access_log_data",
    "access_log_service",
    "accesslog",
    "bootstrap",
    "cel",
    "cluster",
    "core",
    "downstream_connections",
    "endpoint",
    "ext_proc",
    "ext_proc_service",
    "hcm",
    "jwt_authn",
    "listener",
    "matcher",
    "overload",
    "protobuf",
    "route",
    "router",
    "stream_log",
    "tls",
    "types",
    "upstream_http",
]
