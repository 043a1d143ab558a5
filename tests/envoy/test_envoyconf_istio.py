"""The rendered EnvoyFilters, applied to a gateway on the real Envoy: it serves, governed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.stack import Stack, provider_address
from sentinel_extproc.envoyconf.doctor.attachment import Expectations
from sentinel_extproc.envoyconf.doctor.diagnose import diagnose
from sentinel_extproc.envoyconf.doctor.rules import Severity
from sentinel_extproc.envoyconf.doctor.snapshot import from_document
from tests.envoy.gateways import (
    assert_governed,
    kept,
    lead_to,
    serving,
    url_of,
)
from tests.envoy.istio_patches import patched

ISTIO_ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}


CORS = {
    "name": "envoy.filters.http.cors",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"},
}


def istio_gateway(stack: Stack, other: str) -> dict[str, Any]:
    """A gateway as istiod configures one: named routes, filters of its own, flags of its own."""
    host, port, _ = provider_address(stack.services.openai_url)

    def cluster(name: str, address: str) -> dict[str, Any]:
        made: dict[str, Any] = {"name": name, "type": "STATIC", "load_assignment": {}}
        made["load_assignment"] = {"cluster_name": name}
        config = {"static_resources": {"clusters": [made]}}
        lead_to(config, name, address)
        return made

    routes = [
        {
            "name": "status",
            "match": {"prefix": "/status"},
            "route": {"cluster": "outbound|80||other", "timeout": "0s"},
        },
        {"name": "moved", "match": {"prefix": "/moved"}, "redirect": {"path_redirect": "/v1"}},
        {
            "name": "llm",
            "match": {"prefix": "/"},
            "route": {"cluster": "outbound|80||provider", "timeout": "0s"},
        },
    ]
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager"
        ".v3.HttpConnectionManager",
        "stat_prefix": "outbound_0.0.0.0_443",
        "route_config": {
            "name": "http.443",
            "virtual_hosts": [{"name": "*:443", "domains": ["*"], "routes": routes}],
        },
        "http_filters": [CORS, ISTIO_ROUTER],
        "use_remote_address": True,
    }
    network_filter = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }
    return {
        "layered_runtime": {"layers": [{"name": "global config", "static_layer": {"a.flag": "1"}}]},
        "static_resources": {
            "listeners": [
                {
                    "name": "0.0.0.0_443",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                    "filter_chains": [{"filters": [network_filter]}],
                }
            ],
            "clusters": [
                cluster("outbound|80||provider", f"{host}:{port}"),
                cluster("outbound|80||other", other),
            ],
        },
    }


def patches_of(name: str) -> list[dict[str, Any]]:
    (envoy_filter,) = (r for r in kept(name) if r["kind"] == "EnvoyFilter")
    found: list[dict[str, Any]] = envoy_filter["spec"]["configPatches"]
    return found


@pytest.fixture
def other_service() -> Iterator[str]:
    """A service of somebody else behind the same gateway."""

    async def hello(request: Request) -> Response:
        return PlainTextResponse(request.headers.get("authorization", ""))

    with serve_app(Starlette(routes=[Route("/{rest:path}", hello)]), name="other") as hosted:
        yield f"127.0.0.1:{hosted.port}"


@pytest.mark.parametrize("name", ["istio/gateway.yaml", "istio/mesh-tls.yaml"])
def test_a_patched_istio_gateway_serves(name: str, stack: Stack, other_service: str) -> None:
    gateway = istio_gateway(stack, other_service)
    patches = patches_of(name)
    if name == "istio/mesh-tls.yaml":
        # The cluster that istiod makes of the Service by itself; with h2, for its port is grpc.
        (rule,) = (
            r
            for r in kept(name)
            if r["kind"] == "DestinationRule" and r["metadata"]["name"] == "sentinel-extproc"
        )
        (added,) = (p for p in patches_of("istio/gateway.yaml") if p["applyTo"] == "CLUSTER")
        made = copy.deepcopy(added["patch"]["value"])
        made["name"] = f"outbound|50051||{rule['spec']['host']}"
        gateway["static_resources"]["clusters"].append(made)
    config = patched(gateway, patches)
    (inserted,) = (p["patch"]["value"] for p in patches if p["applyTo"] == "HTTP_FILTER")
    named = inserted["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
    (sentinel,) = (c for c in config["static_resources"]["clusters"] if c["name"] == named)
    sentinel["type"] = "STATIC"
    lead_to(config, sentinel["name"], stack.sidecar.address)
    with serving(config) as envoy:
        assert_governed(envoy, stack)
        runtime = json.loads(envoy.admin("/runtime"))["entries"]
        flag = "envoy.reloadable_features.ext_proc_graceful_grpc_close"
        assert runtime[flag]["final_value"] == "true"
        assert runtime["a.flag"]["final_value"] == "1"
        # A route that is named unmetered goes to whom it belongs to, untouched.
        answer = httpx.get(
            f"{url_of(envoy)}/status", headers={"authorization": "Bearer theirs"}, trust_env=False
        )
        if name == "istio/mesh-tls.yaml":
            assert (answer.status_code, answer.text) == (200, "Bearer theirs")
        else:
            assert answer.headers["x-sentinel-error"]


@pytest.mark.parametrize("name", ["istio/gateway.yaml", "istio/mesh-tls.yaml"])
def test_the_doctor_has_nothing_against_what_is_patched_in(
    name: str, stack: Stack, other_service: str
) -> None:
    config = patched(istio_gateway(stack, other_service), patches_of(name))
    errors = {
        finding.rule.id
        for finding in diagnose(from_document(config), Expectations())
        if finding.rule.severity is Severity.ERROR
    }
    # The mesh's own cluster isn't in the gateway that the test makes.
    assert errors == ({"cluster-missing"} if name == "istio/mesh-tls.yaml" else set())


def test_a_patch_that_would_change_nothing_is_seen(stack: Stack, other_service: str) -> None:
    patches = [p for p in patches_of("istio/mesh-tls.yaml") if p["applyTo"] == "HTTP_ROUTE"]
    gateway = istio_gateway(stack, other_service)
    gateway["static_resources"]["listeners"][0]["name"] = "0.0.0.0_8080"
    with pytest.raises(AssertionError, match="nothing matches"):
        patched(gateway, patches)
