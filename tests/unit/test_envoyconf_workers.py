"""Gateways are told of every worker, where they can be."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from sentinel_extproc.config.load import only
from sentinel_extproc.envoyconf.targets import TARGETS, Options


def rendered(target: str, *, with_envoy: bool = False, **server: Any) -> Any:
    settings = only({"server": server, "zion": {"url": "https://zion.example.com"}})
    return yaml.safe_load(TARGETS[target](settings, Options(with_envoy=with_envoy)))


def endpoints(bootstrap: dict[str, Any]) -> list[Any]:
    clusters = bootstrap["static_resources"]["clusters"]
    (sidecar,) = [one for one in clusters if one["name"] == "sentinel"]
    assert sidecar["lb_policy"] == "LEAST_REQUEST"
    assert sidecar["health_checks"]
    places = sidecar["load_assignment"]["endpoints"][0]["lb_endpoints"]
    return [one["endpoint"]["address"] for one in places]


def test_each_socket_is_an_endpoint() -> None:
    assert [one["pipe"]["path"] for one in endpoints(rendered("envoy", workers=3))] == [
        "/run/sentinel/sentinel.sock",
        "/run/sentinel/sentinel-1.sock",
        "/run/sentinel/sentinel-2.sock",
    ]


def test_each_port_is_an_endpoint() -> None:
    found = endpoints(rendered("envoy", workers=2, listen="0.0.0.0:50051"))
    assert [one["socket_address"]["port_value"] for one in found] == [50051, 50052]
    assert {one["socket_address"]["address"] for one in found} == {"127.0.0.1"}


def test_pods_with_an_envoy_have_them_too() -> None:
    values = rendered("helm-values", with_envoy=True, workers=2)
    assert values["settings"]["server"] == {"workers": 2}
    assert len(endpoints(yaml.safe_load(values["envoy"]["config"]))) == 2


def test_composed_sidecars_are_told_how_many_they_are() -> None:
    services = rendered("compose", workers=2)["services"]
    assert services["sidecar"]["environment"]["SENTINEL_SERVER__WORKERS"] == "2"


@pytest.mark.parametrize("target", ["istio", "envoy-gateway", "helm-values"])
def test_behind_a_service_there_is_one(target: str) -> None:
    with pytest.raises(ValueError, match=r"server\.workers"):
        rendered(target, workers=2)


@pytest.mark.parametrize("target", ["envoy", "compose"])
def test_the_cpus_of_another_machine_are_not_known_here(target: str) -> None:
    with pytest.raises(ValueError, match=r"server\.workers: auto"):
        rendered(target, workers="auto")
