"""Several providers: from the table to virtual hosts and clusters. Pure.

Each route is named after its provider, and the sidecar is told that name with each request: so the
key goes where the request goes, whatever the path says.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sentinel_extproc.envoyconf.api import cluster, route
from sentinel_extproc.envoyconf.clusters import provider_cluster
from sentinel_extproc.envoyconf.provider_way import ProviderWay


def provider_clusters(
    ways: Sequence[ProviderWay], *, ca_file: str, max_concurrent: int
) -> list[cluster.Cluster]:
    """A cluster for each."""
    return [
        provider_cluster(
            way.address,
            name=way.cluster,
            use_tls=way.tls,
            ca_file=ca_file,
            max_concurrent=max_concurrent,
        )
        for way in ways
    ]


def provider_hosts(
    ways: Sequence[ProviderWay],
    *,
    idle_timeout: timedelta,
    buffer_limit_bytes: int,
    headers_to_remove: Sequence[str],
) -> list[route.VirtualHost]:
    """A virtual host for each host that is listed, and one for the rest if anything is for it.

    Longest prefix first, since Envoy takes the first route that matches.
    """
    by_host: dict[str, list[ProviderWay]] = {}
    for way in sorted(ways, key=lambda way: len(way.path_prefix), reverse=True):
        for host in way.hosts or ("*",):
            by_host.setdefault(host, []).append(way)
    return [
        route.VirtualHost(
            name=f"provider-{host}",
            domains=[host],
            routes=[
                route.Route(
                    name=way.name,
                    match=route.RouteMatch(prefix=way.path_prefix),
                    route=_action(way, idle_timeout),
                    request_body_buffer_limit=buffer_limit_bytes,
                    request_headers_to_remove=list(headers_to_remove),
                )
                for way in listed
            ],
        )
        for host, listed in by_host.items()
    ]


def _action(way: ProviderWay, idle_timeout: timedelta) -> route.RouteAction:
    instead = f"{way.base_path}/"
    return route.RouteAction(
        cluster=way.cluster,
        host_rewrite_literal=way.authority,
        prefix_rewrite="" if instead == way.path_prefix else instead,
        # The default of 15 s would cut long generations.
        timeout=timedelta(0),
        idle_timeout=idle_timeout,
        # For realtime sessions; the sidecar refuses it everywhere else.
        upgrade_configs=[route.RouteActionUpgradeConfig(upgrade_type="websocket")],
    )
