"""The additions that native metering makes to a rendered configuration."""

from __future__ import annotations

from typing import Any

import pytest

from sentinel_extproc.envoyconf.attachment import Attachment
from sentinel_extproc.envoyconf.names import FILTER_NAME, USAGE_NAMESPACE, USAGE_READER
from sentinel_extproc.envoyconf.native import with_native_metering
from sentinel_extproc.envoyconf.provider_way import ProviderWay
from sentinel_extproc.envoyconf.render import to_dict
from sentinel_extproc.envoyconf.static import gateway_bootstrap, static_bootstrap


def bootstrap(**options: Any) -> dict[str, Any]:
    return to_dict(static_bootstrap(processors=["unix:/run/s.sock"], **options))


def manager(config: dict[str, Any]) -> dict[str, Any]:
    listener = config["static_resources"]["listeners"][0]
    made: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return made


def test_the_reader_is_behind_us_and_tells_us() -> None:
    before = bootstrap()
    after = with_native_metering(before, envoy_version=(1, 40))
    names = [one["name"] for one in manager(after)["http_filters"]]
    assert names == [FILTER_NAME, USAGE_READER, "envoy.filters.http.router"]
    ours = manager(after)["http_filters"][0]["typed_config"]["metadata_options"]
    assert ours["forwarding_namespaces"]["typed"] == [USAGE_NAMESPACE]
    assert ours["receiving_namespaces"], "as it was"
    assert "http_grpc" in manager(after)["access_log"][-1]["name"]
    assert before == bootstrap(), "the argument is left alone"


def test_it_reads_chats_only() -> None:
    after = with_native_metering(bootstrap(unmetered=["/health"]), envoy_version=(1, 40))
    routes = manager(after)["route_config"]["virtual_hosts"][0]["routes"]
    on = [
        route["match"]
        for route in routes
        if USAGE_READER in route.get("typed_per_filter_config", {})
    ]
    by = {"name": "x-sentinel-meter", "string_match": {"exact": "stream"}}
    assert on == [{"path": "/v1/chat/completions", "headers": [by]}]
    assert routes[-1]["match"] == {"prefix": "/"}
    assert "x-sentinel-meter" in routes[-2]["request_headers_to_remove"]
    reader = manager(after)["http_filters"][1]["typed_config"]["response_handling"]
    assert "include_unconfigured_routes" not in reader["token_usage"]
    assert "route_cache_action" not in manager(after)["http_filters"][0]["typed_config"]


def test_older_envoys_and_foreign_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs 1\.40"):
        with_native_metering(bootstrap(), envoy_version=(1, 39))
    with pytest.raises(ValueError, match="no envoy"):
        with_native_metering({"static_resources": {}}, envoy_version=(1, 40))


def test_a_rewritten_prefix_stays_what_it_was() -> None:
    way = ProviderWay("c", "llm.example.com", 443, base_path="/compat")
    config = to_dict(gateway_bootstrap(Attachment(processors=("unix:/s",), providers=(way,))))
    after = with_native_metering(config, envoy_version=(1, 40))
    chats, rest = manager(after)["route_config"]["virtual_hosts"][0]["routes"]
    assert chats["match"]["path"] == "/v1/chat/completions"
    assert chats["route"]["prefix_rewrite"] == "/compat/v1/chat/completions"
    assert rest["route"]["prefix_rewrite"] == "/compat/"


def test_every_worker_hears_of_every_answer() -> None:
    workers = [f"unix:/run/{n}.sock" for n in range(3)]
    config = to_dict(static_bootstrap(processors=workers))
    after = with_native_metering(config, envoy_version=(1, 40))
    told = [
        one["typed_config"]["common_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
        for one in manager(after)["access_log"]
        if "http_grpc" in one["name"]
    ]
    assert len(told) == len(workers), "one worker only would hear a log of all of them"
    clusters = {one["name"]: one for one in after["static_resources"]["clusters"]}
    assert len(clusters) == len(after["static_resources"]["clusters"])
    heard = [clusters[name]["load_assignment"] for name in told]
    assert [one["cluster_name"] for one in heard] == told
    assert [
        f"unix:{worker['endpoint']['address']['pipe']['path']}"
        for one in heard
        for place in one["endpoints"]
        for worker in place["lb_endpoints"]
    ] == workers
