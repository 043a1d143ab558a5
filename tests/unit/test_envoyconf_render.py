"""``sentinel-extproc render``: settings and options in, configuration for each target out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from sentinel_extproc.cli import main
from sentinel_extproc.config.load import only
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.envoyconf.command import TARGET_NAMES
from sentinel_extproc.envoyconf.compose import compose_file
from sentinel_extproc.envoyconf.envoy_gateway import ENVOY_GATEWAY_NOTES
from sentinel_extproc.envoyconf.examples import examples
from sentinel_extproc.envoyconf.from_settings import Choices, attachment_of, provider_of
from sentinel_extproc.envoyconf.istio import ISTIO_NOTES
from sentinel_extproc.envoyconf.kubernetes import parse_service
from sentinel_extproc.envoyconf.render import documents
from sentinel_extproc.envoyconf.set_values import set_values
from sentinel_extproc.envoyconf.targets import TARGETS, Options
from sentinel_extproc.envoyconf.versions import envoy_of_istio, parse_version

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SENTINEL_", "ZION_", "OPENAI_", "REDIS_")) or "CACHE_TTL" in name:
            monkeypatch.delenv(name)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["render", *arguments])


def rendered(*arguments: str) -> list[Any]:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def test_every_target_is_a_choice() -> None:
    assert tuple(TARGETS) == TARGET_NAMES


@pytest.mark.parametrize("target", TARGET_NAMES)
def test_no_setting_and_no_secret_is_needed(target: str) -> None:
    assert rendered("--target", target)


def test_settings_are_what_is_rendered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_URL", "https://llm.example:8443/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-printed")
    file = tmp_path / "config.yaml"
    file.write_text(
        "server: {listen: '0.0.0.0:50055'}\n"
        "identity: {source: envoy_jwt}\n"
        "zion: {ca_file: /not/on/this/machine.pem, url: 'http://zion', api_key: z-never-printed}\n"
    )
    (config,) = rendered("--target", "envoy", "--config", str(file))
    text = yaml.safe_dump(config)
    assert "never-printed" not in text
    sentinel, provider = config["static_resources"]["clusters"]
    address = sentinel["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    assert address["socket_address"] == {"address": "127.0.0.1", "port_value": 50055}
    assert provider["transport_socket"]["typed_config"]["sni"] == "llm.example"
    assert "host_rewrite_literal: llm.example:8443" in text
    assert "envoy.filters.http.jwt_authn" in text


def test_a_file_is_written_and_nothing_on_a_fault(tmp_path: Path) -> None:
    out = tmp_path / "envoy.yaml"
    assert run("--target", "envoy", "-o", str(out)).exit_code == 0
    assert yaml.safe_load(out.read_text())["static_resources"]
    out.unlink()
    assert run("--target", "envoy", "--message-timeout", "0", "-o", str(out)).exit_code == 2
    assert not out.exists()
    nowhere = run("--target", "envoy", "-o", str(tmp_path / "no" / "file"))
    assert nowhere.exit_code == 2
    assert "No such file" in nowhere.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--target", "envoy", "--envoy-version", "1.35"), "1.36 to 1.40 are"),
        (("--target", "envoy", "--envoy-version", "2"), "not a version such as 1.40"),
        (("--target", "istio", "--istio-version", "1.27"), "1.28, 1.29"),
        (("--target", "envoy", "--message-timeout", "1.5"), "server.decision_timeout_seconds"),
        (("--target", "envoy", "--buffer-limit", "100000000"), "server.max_message_bytes"),
        (("--target", "envoy", "--worker", "nonsense"), "processors: "),
        (("--target", "envoy", "--unmetered", "/v1/models"), "unmetered: "),
        (("--target", "envoy", "--listen", "unix:/x"), "listen: "),
        (("--target", "envoy", "--sidecar-ca", "/ca.pem"), "--sidecar-name"),
        (("--target", "istio", "--selector", "x"), "key=value"),
        (("--target", "istio", "--selector", "a=b", "--gateway", "g"), "not together"),
        (("--target", "istio", "--namespace", "Big"), "namespace: "),
        (("--target", "istio", "--port", "0"), "port: "),
        (("--target", "istio", "--unmetered-route", "a b"), "unmetered_routes: "),
        (("--target", "envoy-gateway", "--service", "x"), "service: "),
        (("--target", "envoy-gateway", "--route", "A_b"), "routes: "),
    ],
)
def test_what_cannot_be_is_refused_with_code_2(arguments: tuple[str, ...], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("target", "option", "value"),
    [
        ("envoy", "--namespace", "x"),
        ("istio", "--unmetered", "/health"),
        ("istio", "--listen", "1.2.3.4:1"),
        ("envoy-gateway", "--envoy-version", "1.40"),
        ("compose", "--worker", "unix:/x"),
        ("compose", "--request-timeout", "60"),
        ("helm-values", "--gateway", "x"),
    ],
)
def test_an_option_for_another_target_is_not_passed_over(
    target: str, option: str, value: str
) -> None:
    result = run("--target", target, option, value)
    assert result.exit_code == 2
    assert f"{option} is not for --target {target}" in result.stderr


def test_faulty_settings_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_LIMITS__REQUESTS", "none")
    monkeypatch.setenv("SENTINEL_SERVER__LISTEN", "nowhere")
    result = run("--target", "envoy")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("istio", "present"), [("1.28", False), ("1.29.2", False), ("1.30", True), ("1.32", True)]
)
def test_istios_version_decides_what_its_proxies_are_sent(istio: str, present: bool) -> None:
    documents = rendered("--target", "istio", "--istio-version", istio)
    assert ("allow_content_length_header" in yaml.safe_dump(documents)) is present


def test_versions_are_read_in_every_form() -> None:
    assert (
        parse_version("v1.38.2", parameter="x") == parse_version("1.38", parameter="x") == (1, 38)
    )
    assert envoy_of_istio((1, 28)) == (1, 36)


@pytest.mark.parametrize("target", ["envoy", "istio", "envoy-gateway"])
def test_a_sidecar_that_serves_tls_is_not_called_in_clear(target: str) -> None:
    tls = {"tls_cert_file": "/c", "tls_key_file": "/k"}
    serves, wants = only({"server": tls}), only({"server": tls | {"client_ca_file": "/a"}})
    with pytest.raises(ValueError, match=r"^sidecar_tls: the sidecar serves TLS"):
        TARGETS[target](serves, Options())
    name, authority = ("--sidecar-name", "s.example"), ("--sidecar-ca", "/ca.pem")
    assert rendered("--target", target, *name, *authority)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in wants.server.model_dump(mode="json", exclude_unset=True).items():
            patch.setenv(f"SENTINEL_SERVER__{key.upper()}", value)
        result = run("--target", target, *name, *authority)
    assert "wants a certificate" in result.stderr


@pytest.mark.parametrize(
    ("listen", "worker"),
    [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("unix:/s", "unix:/s")],
)
def test_where_the_sidecar_listens_is_where_envoy_calls(listen: str, worker: str) -> None:
    made = attachment_of(only({"server": {"listen": listen}}), Choices())
    assert made.processors == (worker,)


@pytest.mark.parametrize("url", ["ftp://a", "https://a/v2", "https://a:x", "nothing"])
def test_a_provider_that_cannot_be_fronted_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^provider\.url: "):
        provider_of(url)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("a.b", "a.b.svc.cluster.local", 50051),
        ("a.b:1", "a.b.svc.cluster.local", 1),
        ("a.b.svc:2", "a.b.svc.cluster.local", 2),
        ("a.b.svc.cluster.local:3", "a.b.svc.cluster.local", 3),
    ],
)
def test_services_are_read_as_people_write_them(text: str, host: str, port: int) -> None:
    service = parse_service(text)
    assert (service.host, service.port) == (host, port)


def test_no_fewer_at_once_than_the_sidecar_takes(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("overload: {max_exchanges: 600}\nserver: {workers: 2}\n")
    given = ("--target", "envoy", "--config", str(file), "--max-concurrent")
    refused = run(*given, "1199")
    assert refused.exit_code == 2
    assert "max_concurrent: 1199 must not be below the 1200" in refused.output
    assert rendered(*given, "1200")


def test_only_what_was_set_is_written_and_no_secret() -> None:
    settings = only(
        {
            "provider": {"api_key": "sk-never", "url": "https://llm.example"},
            "zion": {"url": "http://zion", "api_key": "z-never"},
            "redis": {"url": "redis://:never@r:1/0", "prefix": "llm"},
            "admin": {"token": "never-never-never-never-never"},
            "limits": {"requests": 7},
        }
    )
    assert set_values(settings) == {
        "provider": {"url": "https://llm.example"},
        "zion": {"url": "http://zion"},
        "redis": {"prefix": "llm"},
        "limits": {"requests": 7},
    }
    for target in ("helm-values", "compose"):
        assert "never" not in TARGETS[target](settings, Options())


@pytest.mark.parametrize("target", ["helm-values", "compose"])
def test_several_keys_are_not_deployed_by_guess(target: str) -> None:
    one = {"name": "own", "url": "http://own.example", "api_key": "k"}
    with pytest.raises(ValueError, match=f"^providers: not rendered for {target}"):
        TARGETS[target](only({"providers": [one]}), Options())
    assert TARGETS[target](only({"providers": []}), Options())


def test_helm_values_are_settings_less_what_the_chart_sets(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("limits: []\n")
    settings = only(
        {
            "server": {"listen": "1.2.3.4:5", "max_streams": 9},
            "usage": {"outbox_path": "/elsewhere.db"},
            "limits": {"policy_file": str(policy)},
        }
    )
    values = yaml.safe_load(TARGETS["helm-values"](settings, Options()))
    assert values["settings"] == {"server": {"max_streams": 9}}
    assert values["policy"] == "limits: []\n"
    with pytest.raises(ValueError, match=r"^limits\.policy_file: "):
        TARGETS["helm-values"](only({"limits": {"policy_file": "/no/where"}}), Options())


def compose_services(settings: Settings) -> dict[str, Any]:
    services: dict[str, Any] = compose_file(settings, (1, 40))["services"]
    return services


def test_the_checkouts_compose_file_is_the_rendered_one_with_stand_ins() -> None:
    kept = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    made = compose_file(only({}), (1, 40))
    assert kept["name"] == made["name"]
    assert kept["volumes"] == made["volumes"]
    for name, service in made["services"].items():
        ours = {key: value for key, value in kept["services"][name].items() if key != "build"}
        assert ours == service, name
    others = set(kept["services"]) - set(made["services"])
    assert all(kept["services"][name]["profiles"] == ["standins"] for name in others)


def test_compose_mounts_the_files_that_settings_name() -> None:
    sidecar = compose_services(
        only({"limits": {"policy_file": "policy.yaml"}, "zion": {"ca_file": "/etc/ca.pem"}})
    )["sidecar"]
    assert "./policy.yaml:/etc/sentinel/policy.yaml:ro" in sidecar["volumes"]
    assert "/etc/ca.pem:/etc/ca.pem:ro" in sidecar["volumes"]
    environment = sidecar["environment"]
    assert environment["SENTINEL_LIMITS__POLICY_FILE"] == "/etc/sentinel/policy.yaml"
    assert environment["SENTINEL_ZION__CA_FILE"] == "/etc/ca.pem"


def test_compose_waits_as_long_as_a_drain_may_take() -> None:
    sidecar = compose_services(only({"server": {"drain_seconds": 3600}}))["sidecar"]
    assert sidecar["stop_grace_period"] == "61m"


def test_compose_keeps_dollar_signs_of_settings() -> None:
    sidecar = compose_services(only({"tokens": {"aliases": {"a$b": "gpt-4o"}}}))["sidecar"]
    assert sidecar["environment"]["SENTINEL_TOKENS__ALIASES"] == '{"a$$b": "gpt-4o"}'


@pytest.mark.parametrize(
    ("name", "notes"),
    [("istio/", ISTIO_NOTES), ("envoy-gateway/", ENVOY_GATEWAY_NOTES)],
)
def test_every_note_is_said_in_an_example(name: str, notes: dict[str, str]) -> None:
    text = "\n".join(value for file, value in examples().items() if file.startswith(name))
    said = " ".join(line.lstrip(" #") for line in text.splitlines() if "# " in line)
    for field, note in notes.items():
        assert note in said, field


@pytest.mark.parametrize("more", [(), ("--request-timeout", "77.5"), ("--request-timeout", "0")])
def test_a_request_must_arrive_in_time_in_every_gateway(more: tuple[str, ...]) -> None:
    wanted = {(): "600s", ("--request-timeout", "77.5"): "77.5"}.get(more, "")
    (whole,) = rendered("--target", "envoy", *more)
    chain = whole["static_resources"]["listeners"][0]["filter_chains"][0]
    manager = chain["filters"][0]["typed_config"]
    (patches,) = [
        one["spec"]["configPatches"]
        for one in rendered("--target", "istio", *more)
        if one["kind"] == "EnvoyFilter"
    ]
    (merged,) = [one for one in patches if one["applyTo"] == "NETWORK_FILTER"]
    patched = merged["patch"]["value"]["typed_config"]
    for config in (manager, patched):
        assert str(config.get("request_timeout", "")).startswith(wanted)
        assert ("request_timeout" in config) is bool(wanted)
    assert ("request_headers_timeout" in patched) is bool(wanted)
    (policy,) = [
        one
        for one in rendered("--target", "envoy-gateway", *more)
        if one["kind"] == "ClientTrafficPolicy"
    ]
    given = {"": None, "600s": "600s", "77.5": "77s500ms"}[wanted]
    assert policy["spec"].get("timeout", {}).get("http", {}).get("requestReceivedTimeout") == given


def test_a_note_on_a_lists_first_field_stands_above_the_dash() -> None:
    text = documents([{"a": [{"b": 1, "c": 2}, {"b": 3}]}], notes={"b": "why"})
    assert text == "a:\n# why\n- b: 1\n  c: 2\n- b: 3\n"
