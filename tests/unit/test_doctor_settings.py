"""Envoy against the sidecar's settings: each mismatch is one finding, and what fits is none."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from sentinel_extproc.cli import main
from sentinel_extproc.config.load import only
from sentinel_extproc.envoyconf.attachment import SidecarTls
from sentinel_extproc.envoyconf.doctor.attachment import Expectations, expected_by
from sentinel_extproc.envoyconf.doctor.diagnose import RULES, diagnose
from sentinel_extproc.envoyconf.doctor.meant import meant_by
from sentinel_extproc.envoyconf.doctor.places import is_local, place
from sentinel_extproc.envoyconf.doctor.snapshot import from_document
from sentinel_extproc.envoyconf.from_settings import Choices
from sentinel_extproc.envoyconf.targets import Options, render_envoy

Config = dict[str, Any]
Values = dict[str, Any]
Break = Callable[[Config], object]

TLS_FILES = {
    "tls_cert_file": "/s.crt",
    "tls_key_file": "/s.key",
    "client_ca_file": "/ca.pem",
}
SIDECAR_TLS = SidecarTls("sentinel.example.com", "/ca.pem", "/e.crt", "/e.key")
SEVERAL = [
    {"name": "openai", "url": "https://api.openai.com", "api_key": "k1"},
    {
        "name": "azure",
        "kind": "azure",
        "url": "https://x.openai.azure.com",
        "path_prefix": "/azure/",
        "api_key": "k2",
    },
]


def rendered(values: Values, **choices: Any) -> Config:
    """What is rendered for these settings."""
    text = render_envoy(only(values), Options(choices=Choices(**choices)))
    return yaml.safe_load(text)  # type: ignore[no-any-return]


def found(config: Config, values: Values | None) -> list[str]:
    expected = Expectations()
    if values is not None:
        expected = expected_by(meant_by(only(values)), expected)
    return [finding.rule.id for finding in diagnose(from_document(config), expected)]


def manager(c: Config) -> Config:
    chain = c["static_resources"]["listeners"][0]["filter_chains"][0]
    return chain["filters"][0]["typed_config"]  # type: ignore[no-any-return]


def ours(c: Config) -> Config:
    filters = manager(c)["http_filters"]
    return next(f for f in filters if "ext_proc" in f["name"])["typed_config"]  # type: ignore[no-any-return]


def routes(c: Config) -> list[Config]:
    return [
        route for host in manager(c)["route_config"]["virtual_hosts"] for route in host["routes"]
    ]


def sidecar(c: Config) -> Config:
    return c["static_resources"]["clusters"][0]  # type: ignore[no-any-return]


def provider(c: Config) -> Config:
    return c["static_resources"]["clusters"][1]  # type: ignore[no-any-return]


def endpoints(cluster: Config) -> list[Config]:
    return cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]  # type: ignore[no-any-return]


def at(address: str) -> Config:
    if address.startswith("/"):
        return {"endpoint": {"address": {"pipe": {"path": address}}}}
    host, _, port = address.rpartition(":")
    inside = {"address": host, "port_value": int(port)}
    return {"endpoint": {"address": {"socket_address": inside}}}


def calls(*addresses: str) -> Break:
    return lambda c: endpoints(sidecar(c)).__setitem__(slice(None), map(at, addresses))


def leads_to(host: str, port: int = 443) -> Break:
    def change(c: Config) -> None:
        endpoints(provider(c))[:] = [at(f"{host}:{port}")]
        context = provider(c)["transport_socket"]["typed_config"]
        context["sni"] = host

    return change


def drop_filter(kind: str) -> Break:
    def change(c: Config) -> None:
        manager(c)["http_filters"] = [
            f for f in manager(c)["http_filters"] if kind not in f["name"]
        ]

    return change


def match(**wanted: Any) -> Break:
    return lambda c: routes(c)[0].update(match=wanted)


def more_routes(*added: Config) -> Break:
    def change(c: Config) -> None:
        last = routes(c)[-1]
        hosts = manager(c)["route_config"]["virtual_hosts"]
        hosts[-1]["routes"][:0] = [{**copy.deepcopy(last), **one} for one in added]

    return change


NONE: Values = {}
WORKERS: Values = {"server": {"workers": 3}}
SHADOW: Values = {"server": {"mode": "shadow"}}
NATIVE: Values = {"server": {"metering": "native"}}
TLS: Values = {"server": {"listen": "10.0.0.5:50051", **TLS_FILES}}
TLS_HERE: Values = {"server": {"listen": "127.0.0.1:50051", **TLS_FILES}}
AUTO: Values = {"server": {"workers": "auto"}}
JWT: Values = {"identity": {"source": "envoy_jwt"}}
PROVIDERS: Values = {"providers": SEVERAL}
TCP: Values = {"server": {"listen": "0.0.0.0:50051"}}

CASES: dict[str, list[tuple[Values, Break]]] = {
    "settings-address": [
        (NONE, calls("/run/other.sock")),
        (NONE, calls("/run/sentinel/sentinel.sock", "/run/sentinel/sentinel-1.sock")),
        (NONE, calls("127.0.0.1:50051")),
        (TCP, calls("127.0.0.1:50052")),
        (TCP, calls("/run/sentinel/sentinel.sock")),
        (AUTO, calls("/run/sentinel/sentinel.sock", "/run/x-1.sock")),
    ],
    "settings-workers": [
        (WORKERS, calls("/run/sentinel/sentinel.sock")),
        (WORKERS, calls("/run/sentinel/sentinel.sock", "/run/sentinel/sentinel-2.sock")),
        ({"server": {**TCP["server"], "workers": 2}}, calls("[::1]:50051")),
    ],
    "settings-tls": [
        (NONE, lambda c: sidecar(c).update(transport_socket=provider(c)["transport_socket"])),
        (TLS_HERE, lambda c: sidecar(c).pop("transport_socket")),
    ],
    "settings-client-certificate": [
        (
            TLS,
            lambda c: sidecar(c)["transport_socket"]["typed_config"]["common_tls_context"].pop(
                "tls_certificates"
            ),
        )
    ],
    "settings-breakers": [
        (NONE, lambda c: sidecar(c)["circuit_breakers"]["thresholds"][0].update(max_requests=2000)),
        (
            {"overload": {"max_exchanges": 6000}},
            lambda c: sidecar(c)["circuit_breakers"]["thresholds"][0].update(max_requests=5999),
        ),
    ],
    "settings-shadow-waits": [
        (SHADOW, lambda c: manager(c).update(http_filters=manager(rendered(NONE))["http_filters"]))
    ],
    "settings-shadow-fails-closed": [(SHADOW, lambda c: ours(c).pop("failure_mode_allow"))],
    "settings-shadow-modes": [
        (SHADOW, lambda c: ours(c)["processing_mode"].pop("response_trailer_mode")),
        (SHADOW, lambda c: ours(c)["processing_mode"].update(request_body_mode="BUFFERED")),
        (SHADOW, lambda c: ours(c)["processing_mode"].update(response_header_mode="SKIP")),
    ],
    "settings-native": [
        (NATIVE, drop_filter("ai_protocol_manager")),
        (NATIVE, lambda c: ours(c)["metadata_options"]["forwarding_namespaces"].pop("typed")),
        (NATIVE, lambda c: [route.pop("typed_per_filter_config", None) for route in routes(c)]),
        (NATIVE, lambda c: manager(c)["access_log"].pop()),
    ],
    "settings-native-unused": [
        (
            NONE,
            lambda c: manager(c).update(http_filters=manager(rendered(NATIVE))["http_filters"]),
        )
    ],
    "settings-jwt": [(JWT, lambda c: ours(c)["metadata_options"].pop("forwarding_namespaces"))],
    "settings-route-name": [(PROVIDERS, lambda c: ours(c).pop("request_attributes"))],
    "settings-body-limit": [
        (NONE, lambda c: routes(c)[0].update(request_body_buffer_limit=8 << 20))
    ],
    "settings-prefix": [
        (NONE, match(prefix="/llm/")),
        ({"endpoints": {"prefix": "/llm/"}}, match(path_separated_prefix="/v1")),
    ],
    "settings-outside-prefix": [
        (NONE, more_routes({"match": {"prefix": "/shop"}})),
        (NONE, more_routes({"match": {"path": "/shop"}})),
        (NONE, more_routes({"match": {"path_separated_prefix": "/v1x"}})),
    ],
    "settings-provider": [
        (NONE, leads_to("api.example.com")),
        ({"provider": {"url": "https://llm.example.com"}}, leads_to("api.openai.com")),
        (
            PROVIDERS,
            lambda c: routes(c)[0]["route"].update(cluster=routes(c)[1]["route"]["cluster"]),
        ),
    ],
    "settings-provider-unreached": [
        (PROVIDERS, lambda c: manager(c)["route_config"]["virtual_hosts"][0]["routes"].pop(0))
    ],
    "settings-route-unknown": [(PROVIDERS, more_routes({"name": "shop"}))],
}


def choices(values: Values) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if values is TLS or values is TLS_HERE:
        made["sidecar_tls"] = SIDECAR_TLS
    if values is AUTO:
        made["workers"] = ("unix:/run/sentinel/sentinel.sock",)
    return made


@pytest.mark.parametrize(
    ("rule", "values", "change"),
    [
        pytest.param(rule, values, change, id=f"{rule}-{n}")
        for rule, ways in CASES.items()
        for n, (values, change) in enumerate(ways)
    ],
)
def test_a_mismatch_is_one_finding_and_none_where_it_fits_or_nothing_is_known(
    rule: str, values: Values, change: Break
) -> None:
    config = rendered(values, **choices(values))
    assert found(config, values) == []
    change(config)
    assert found(config, values) == [rule]
    assert not [one for one in found(config, None) if one.startswith("settings-")]


def test_every_rule_has_a_case_here() -> None:
    assert CASES.keys() == {rule for rule in RULES if rule.startswith("settings-")}


@pytest.mark.parametrize(
    ("values", "change"),
    [
        # Elsewhere: behind a Service, or other replicas.
        (NONE, calls("sentinel.llm.svc:50051")),
        (TLS, calls("10.0.0.5:50051", "10.0.0.6:50051")),
        (TCP, calls("localhost:50051")),
        (AUTO, calls("/run/sentinel/sentinel.sock")),
        (AUTO, calls("/run/sentinel/sentinel.sock", "/run/sentinel/sentinel-5.sock")),
        # A mesh's own TLS in front of a sidecar that serves none.
        (
            NONE,
            lambda c: (
                calls("10.1.2.3:50051")(c),
                sidecar(c).update(transport_socket_matches=[{"name": "mesh"}]),
            ),
        ),
        # A name that somebody resolved.
        (NONE, lambda c: endpoints(provider(c)).__setitem__(slice(None), [at("104.18.7.192:443")])),
        (NONE, match(prefix="/v1/chat/")),
        (NONE, match(safe_regex={"regex": "/v[12]/.*"})),
    ],
)
def test_what_cannot_be_compared_is_passed_over(values: Values, change: Break) -> None:
    config = rendered(values, **choices(values))
    change(config)
    assert [one for one in found(config, values) if one.startswith("settings-")] == []


def test_what_settings_say_counts_in_place_of_what_most_have() -> None:
    config = rendered(NONE)
    assert found(config, NONE) == []
    slow = {"server": {"decision_timeout_seconds": 2.5}}
    assert found(config, slow) == ["message-timeout"]
    small = {"server": {"max_message_bytes": 8 << 20}, "endpoints": {"max_body_bytes": 4 << 20}}
    assert found(config, small) == ["body-limit-above-sidecar"]
    tiny = {"endpoints": {"max_body_bytes": 1 << 20}}
    assert found(rendered(tiny, buffer_limit_bytes=1 << 20), tiny) == []
    assert found(rendered(tiny, buffer_limit_bytes=1 << 20), None) == ["body-limit"]


def test_an_observing_filter_is_a_fault_unless_settings_mean_it() -> None:
    config = rendered(SHADOW)
    assert found(config, SHADOW) == []
    assert {"observability-mode", "failure-mode-allow"} <= set(found(config, NONE))
    assert {"observability-mode", "failure-mode-allow"} <= set(found(config, None))


def test_a_way_around_is_one_around_the_prefix_that_is_set() -> None:
    values: Values = {"endpoints": {"prefix": "/llm/"}}
    config = rendered(values, unmetered=("/v1",))
    assert found(config, values) == []
    assert found(config, None) == ["route-bypass"]


@pytest.mark.parametrize(
    ("address", "where", "local"),
    [
        ("127.0.0.1:5", "loopback:5", True),
        ("::1:5", "loopback:5", True),
        ("localhost:5", "loopback:5", True),
        ("10.0.0.1:5", "10.0.0.1:5", False),
        ("Sentinel.svc:5", "sentinel.svc:5", False),
        ("/run/s.sock", "/run/s.sock", True),
        ("///run/s.sock", "/run/s.sock", True),
        ("@abstract", "@abstract", True),
    ],
)
def test_places(address: str, where: str, *, local: bool) -> None:
    assert (place(address), is_local(address)) == (where, local)


def test_a_listener_on_the_last_port_has_no_workers_behind_it() -> None:
    meant = meant_by(only({"server": {"listen": "127.0.0.1:65535", "workers": "auto"}}))
    assert meant.workers == ("loopback:65535",)


# The command


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    for name in list(os.environ):
        if name.startswith(("SENTINEL_", "OPENAI_", "ZION_")):
            monkeypatch.delenv(name)
    envoy = tmp_path / "envoy.yaml"
    envoy.write_text(yaml.safe_dump(rendered(NONE)))
    return str(envoy), tmp_path / "sentinel.yaml"


def doctor(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["doctor", "--envoy-config", *arguments], env=environ)


def test_it_says_what_it_was_compared_with(files: tuple[str, Path]) -> None:
    envoy, settings = files
    settings.write_text("server: {listen: 'unix:/other.sock'}\n")
    for given in ({"SENTINEL_CONFIG": str(settings)}, {}):
        more = [] if given else ["--config", str(settings)]
        compared = doctor(envoy, *more, **given)
        assert compared.exit_code == 1
        assert "ERROR    settings-address" in compared.output
        assert f"Compared with the sidecar's settings, from {settings}." in compared.output
    around = doctor(envoy, SENTINEL_SERVER__LISTEN="unix:/other.sock")
    assert around.exit_code == 1
    assert "from the environment." in around.output
    as_json = json.loads(doctor(envoy, "--json", "--config", str(settings)).output)
    assert as_json["settings"] == {"compared": True, "from": str(settings)}
    assert [one["id"] for one in as_json["findings"]] == ["settings-address"]


@pytest.mark.parametrize(
    ("more", "environ"),
    [
        ([], {}),
        # What operators' shells have for other reasons.
        ([], {"SENTINEL_ADMIN__TOKEN": "x" * 24, "OPENAI_API_KEY": "k"}),
        (["--without-settings"], {"SENTINEL_SERVER__LISTEN": "unix:/other.sock"}),
    ],
)
def test_it_says_that_it_was_not_compared(
    files: tuple[str, Path], more: list[str], environ: dict[str, str]
) -> None:
    alone = doctor(files[0], *more, **environ)
    assert alone.exit_code == 0, alone.output
    assert "Not compared with the sidecar's settings" in alone.output
    as_json = json.loads(doctor(files[0], "--json", *more, **environ).output)
    assert as_json["settings"] == {"compared": False, "from": None}


def test_settings_that_cannot_be_used_are_told_and_not_passed_over(
    files: tuple[str, Path],
) -> None:
    envoy, settings = files
    settings.write_text("server: {listen: nowhere, workers: 0}\n")
    refused = doctor(envoy, "--config", str(settings))
    assert refused.exit_code == 2
    assert "server.listen" in refused.output
    assert "server.workers" in refused.output
    as_json = doctor(envoy, "--json", "--config", str(settings))
    assert json.loads(as_json.output)["error"]["code"] == "faulty_settings"
    both = doctor(envoy, "--without-settings", "--config", str(settings))
    assert both.exit_code == 2
