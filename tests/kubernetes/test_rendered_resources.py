"""Rendered resources against the projects' own schemas."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from sentinel_extproc.cli import main
from sentinel_extproc.envoyconf.examples import examples
from tests.kubernetes.crds import Crds, find_crds, schema_faults

GATEWAY = "gateway.envoyproxy.io/v1alpha1"


@pytest.fixture(scope="module")
def crds() -> Crds:
    return find_crds()


@cache
def _examples() -> dict[str, str]:
    return examples()


def resources(name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(_examples()[name]) if document]


def of_kind(name: str, kind: str) -> dict[str, Any]:
    (found,) = (r for r in resources(name) if r["kind"] == kind)
    return found


@pytest.mark.parametrize(
    ("name", "checked"),
    [
        ("istio/gateway.yaml", {"EnvoyFilter"}),
        ("istio/mesh-tls.yaml", {"EnvoyFilter"}),
        (
            "envoy-gateway/gateway.yaml",
            {"EnvoyExtensionPolicy", "ClientTrafficPolicy", "Backend"},
        ),
        (
            "envoy-gateway/mutual-tls.yaml",
            {"EnvoyExtensionPolicy", "ClientTrafficPolicy", "Backend"},
        ),
    ],
)
def test_an_api_server_takes_them(crds: Crds, name: str, checked: set[str]) -> None:
    known = [resource for resource in resources(name) if crds.knows(resource)]
    assert {resource["kind"] for resource in known} == checked
    for resource in known:
        assert crds.faults(resource) == []


@pytest.mark.parametrize("target", ["istio", "envoy-gateway"])
def test_an_api_server_takes_what_only_observes(crds: Crds, target: str) -> None:
    arguments = ["render", "--target", target, "--mode", "shadow"]
    made = yaml.safe_load_all(CliRunner().invoke(main, arguments).output)
    known = [resource for resource in made if resource and crds.knows(resource)]
    assert known
    for resource in known:
        assert crds.faults(resource) == []


@pytest.mark.parametrize("name", ["envoy-gateway/gateway.yaml", "envoy-gateway/mutual-tls.yaml"])
def test_the_backend_policy_has_the_cluster_settings_of_the_published_type(
    crds: Crds, name: str
) -> None:
    """BackendTrafficPolicy takes them inline; EnvoyExtensionPolicy, under ``backendSettings``."""
    spec = crds.schema(GATEWAY, "EnvoyExtensionPolicy")["properties"]["spec"]["properties"]
    settings = spec["extProc"]["items"]["properties"]["backendSettings"]
    policy = of_kind(name, "BackendTrafficPolicy")["spec"]
    inline = {key: value for key, value in policy.items() if key != "targetRefs"}
    assert inline
    assert schema_faults(settings, inline) == []


def _misspell(spec: dict[str, Any]) -> None:
    spec["extProc"][0]["failopen"] = True


def _no_target(spec: dict[str, Any]) -> None:
    del spec["targetRefs"]


def _foreign_namespace(spec: dict[str, Any]) -> None:
    spec["extProc"][0]["metadata"]["writableNamespaces"] = ["envoy.filters.http.rbac"]


def _wrong_mode(spec: dict[str, Any]) -> None:
    spec["extProc"][0]["processingMode"]["request"]["body"] = "STREAMED"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_misspell, "failopen"),
        (_no_target, "targetRef"),
        (_foreign_namespace, "well-known"),
        (_wrong_mode, "STREAMED"),
    ],
)
def test_the_check_sees_what_is_wrong(
    crds: Crds, spoil: Callable[[dict[str, Any]], None], says: str
) -> None:
    policy = copy.deepcopy(of_kind("envoy-gateway/gateway.yaml", "EnvoyExtensionPolicy"))
    spoil(policy["spec"])
    faults = crds.faults(policy)
    assert faults
    assert any(says in fault for fault in faults)


def test_envoy_gateway_fails_closed_and_waits_long_enough() -> None:
    (processor,) = of_kind("envoy-gateway/gateway.yaml", "EnvoyExtensionPolicy")["spec"]["extProc"]
    assert processor["failOpen"] is False
    assert processor["statusOnError"] == 503
    assert processor["messageTimeout"] == "2s"
    assert processor["processingMode"] == {
        "allowModeOverride": True,
        "request": {"body": "Streamed"},
        "response": {"body": "Streamed"},
    }
    assert processor["metadata"]["writableNamespaces"] == ["sentinel"]
    client = of_kind("envoy-gateway/gateway.yaml", "ClientTrafficPolicy")["spec"]
    assert client["connection"]["bufferLimit"] == 16 * 2**20


def test_across_namespaces_the_policy_is_let_in_and_by_tls_it_has_a_backend() -> None:
    grant = of_kind("envoy-gateway/gateway.yaml", "ReferenceGrant")
    policy = of_kind("envoy-gateway/gateway.yaml", "EnvoyExtensionPolicy")
    (reference,) = policy["spec"]["extProc"][0]["backendRefs"]
    assert grant["metadata"]["namespace"] == reference["namespace"]
    assert grant["spec"]["from"][0]["namespace"] == policy["metadata"]["namespace"]
    assert grant["spec"]["to"] == [{"group": "", "kind": "Service", "name": reference["name"]}]

    mutual = "envoy-gateway/mutual-tls.yaml"
    (reference,) = of_kind(mutual, "EnvoyExtensionPolicy")["spec"]["extProc"][0]["backendRefs"]
    backend = of_kind(mutual, "Backend")
    assert (reference["kind"], reference["name"]) == ("Backend", backend["metadata"]["name"])
    assert backend["spec"]["tls"]["clientCertificateRef"]["name"] == "gateway-tls"
    policy = of_kind(mutual, "BackendTLSPolicy")
    assert policy["spec"]["validation"]["hostname"] == "sentinel.example.com"


def test_istio_reaches_sidecars_of_the_mesh_by_its_own_cluster() -> None:
    patches = of_kind("istio/mesh-tls.yaml", "EnvoyFilter")["spec"]["configPatches"]
    (inserted,) = (p["patch"]["value"] for p in patches if p["applyTo"] == "HTTP_FILTER")
    cluster = inserted["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
    rules = [r for r in resources("istio/mesh-tls.yaml") if r["kind"] == "DestinationRule"]
    (rule,) = (r for r in rules if r["spec"]["trafficPolicy"]["tls"]["mode"] == "ISTIO_MUTUAL")
    assert cluster == f"outbound|50051||{rule['spec']['host']}"
    assert not [p for p in patches if p["applyTo"] == "CLUSTER"]
    # Rendered for an older Envoy, which would refuse the whole filter.
    assert "allow_content_length_header" not in inserted["typed_config"]


def test_the_provider_is_called_by_tls_for_its_very_name() -> None:
    rules = [r for r in resources("istio/gateway.yaml") if r["kind"] == "DestinationRule"]
    (rule,) = rules
    tls = rule["spec"]["trafficPolicy"]["tls"]
    assert tls["mode"] == "SIMPLE"
    assert tls["sni"] == rule["spec"]["host"] == "api.openai.com"
    assert tls["subjectAltNames"] == ["api.openai.com"]
    entry = of_kind("istio/gateway.yaml", "ServiceEntry")["spec"]
    assert entry["hosts"] == ["api.openai.com"]
    assert entry["ports"][0]["targetPort"] == 443
