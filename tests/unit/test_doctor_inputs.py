"""What the doctor is given: files of all kinds, config dumps, an admin interface, options."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from click.testing import CliRunner, Result

from sentinel_extproc.cli import main
from sentinel_extproc.envoyconf.doctor import admin as doctor_admin
from sentinel_extproc.envoyconf.doctor import load as doctor_load
from sentinel_extproc.envoyconf.doctor.attachment import Expectations
from sentinel_extproc.envoyconf.doctor.diagnose import diagnose
from sentinel_extproc.envoyconf.doctor.load import load_file, load_text
from sentinel_extproc.envoyconf.doctor.reading import Unreadable, normal
from sentinel_extproc.envoyconf.doctor.report import as_json, as_text
from sentinel_extproc.envoyconf.doctor.snapshot import from_document, read_stats, read_version
from sentinel_extproc.envoyconf.examples import envoy_examples

GOOD = yaml.safe_load(envoy_examples()["envoy.yaml"])
TYPES = "type.googleapis.com/envoy"
EXT_PROC = f"{TYPES}.extensions.filters.http.ext_proc.v3"


def found(text: str | bytes) -> list[str]:
    content = text.encode() if isinstance(text, str) else text
    return [f.rule.id for f in diagnose(load_text(content), Expectations())]


def dump_of(config: dict[str, Any]) -> dict[str, Any]:
    """The config dump of an Envoy whose control plane sent everything, as a mesh's does."""
    config = copy.deepcopy(config)
    resources = config.pop("static_resources")
    routes = []
    for listener in resources["listeners"]:
        for chain in listener["filter_chains"]:
            manager = chain["filters"][0]["typed_config"]
            routes.append(manager.pop("route_config"))
            manager["rds"] = {"route_config_name": routes[-1]["name"], "config_source": {"ads": {}}}
    endpoints = []
    for cluster in resources["clusters"]:
        endpoints.append(cluster.pop("load_assignment", {"cluster_name": cluster["name"]}))
        cluster["type"] = "EDS"
    config["dynamic_resources"] = {"lds_config": {"ads": {}}, "cds_config": {"ads": {}}}
    kind = f"{TYPES}.admin.v3."
    return {
        "configs": [
            {"@type": f"{kind}BootstrapConfigDump", "bootstrap": config},
            {
                "@type": f"{kind}ClustersConfigDump",
                "dynamic_active_clusters": [{"cluster": c} for c in resources["clusters"]],
            },
            {
                "@type": f"{kind}EndpointsConfigDump",
                "dynamic_endpoint_configs": [{"endpoint_config": e} for e in endpoints],
            },
            {
                "@type": f"{kind}ListenersConfigDump",
                "dynamic_listeners": [
                    {"name": n["name"], "active_state": {"listener": n}}
                    for n in resources["listeners"]
                ],
            },
            {
                "@type": f"{kind}RoutesConfigDump",
                "dynamic_route_configs": [{"route_config": r} for r in routes],
            },
            {"@type": f"{kind}SomethingNewConfigDump", "things": [1, None, "x"]},
        ]
    }


def test_yaml_and_json_are_read(tmp_path: Path) -> None:
    for name, text in (("e.yaml", yaml.safe_dump(GOOD)), ("e.json", json.dumps(GOOD))):
        (tmp_path / name).write_text(text)
        assert diagnose(load_file(tmp_path / name), Expectations()) == []


def test_anchors_and_merge_keys_are_followed() -> None:
    text = envoy_examples()["envoy.yaml"]
    breakers = "    circuit_breakers:\n      thresholds:"
    first, second, third = text.split(breakers)
    shared = f"{first}    circuit_breakers: &b\n      thresholds:{second}    circuit_breakers: *b\n"
    rest = third.split("    typed_extension_protocol_options", 1)[1]
    assert found(f"{shared}    typed_extension_protocol_options{rest}") == []


def test_anchors_that_multiply_cost_nothing() -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    text = "\n".join([*lines, yaml.safe_dump(GOOD)])
    assert found(text) == []


def test_an_anchor_that_contains_itself_ends() -> None:
    assert found(f"{yaml.safe_dump(GOOD)}\nself: &s\n  again: *s\n  list: [*s]\n") == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"---\n---\n", "empty"),
        (b"a: [", "not YAML"),
        (b"{", "not YAML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"- 1\n- 2\n", "not a bootstrap"),
        (b"just text", "not a bootstrap"),
        (b"a: 1\n", "no static_resources"),
        (b"a: 1\n---\nb: 2\n", "2 documents"),
        (b"apiVersion: v1\nkind: EnvoyFilter\n", "Kubernetes object .EnvoyFilter."),
        (b"kind: A\n---\nkind: B\n", "Kubernetes objects: A, B"),
        (b"static_resources: !!python/object:os.system {}\n", "not YAML"),
        (b"static_resources: 2001-99-99\n", "not YAML"),
        (b"? [a]\n: 1\n", "not YAML"),
        (b'{"static_resources": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
        (b"static_resources: " + b"[" * 400 + b"]" * 400, "nested"),
    ],
)
def test_what_is_no_configuration_is_told(content: bytes, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        load_text(content)


def test_a_file_that_is_not_there_or_too_large_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        load_file(tmp_path / "none.yaml")
    (tmp_path / "large.yaml").write_text("static_resources: {}" + " " * 100)
    monkeypatch.setattr(doctor_load, "MAX_FILE_BYTES", 64)
    with pytest.raises(Unreadable, match="larger than"):
        load_file(tmp_path / "large.yaml")


def test_a_config_dump_says_the_same_as_the_file() -> None:
    assert found(json.dumps(dump_of(GOOD))) == []
    broken = copy.deepcopy(GOOD)
    chain = broken["static_resources"]["listeners"][0]["filter_chains"][0]
    manager = chain["filters"][0]["typed_config"]
    manager["http_filters"][0]["typed_config"]["failure_mode_allow"] = True
    del manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["timeout"]
    broken["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0][
        "lb_endpoints"
    ].append(
        {"endpoint": {"address": {"socket_address": {"address": "10.0.0.9", "port_value": 9}}}}
    )
    assert found(json.dumps(dump_of(broken))) == [
        "failure-mode-allow",
        "route-timeout",
        "cluster-plaintext",
    ]


def test_a_static_dump_is_read_from_its_bootstrap() -> None:
    dump = {"configs": [{"@type": f"{TYPES}.admin.v3.BootstrapConfigDump", "bootstrap": GOOD}]}
    assert found(json.dumps(dump)) == []


def test_filters_that_were_sent_by_themselves_are_put_into_place() -> None:
    dump = dump_of(GOOD)
    manager = dump["configs"][3]["dynamic_listeners"][0]["active_state"]["listener"][
        "filter_chains"
    ][0]["filters"][0]["typed_config"]
    processor = manager["http_filters"][0]
    manager["http_filters"][0] = {"name": processor["name"], "config_discovery": {"a": 1}}
    dump["configs"].append(
        {
            "@type": f"{TYPES}.admin.v3.EcdsConfigDump",
            "ecds_filters": [{"ecds_filter": processor}],
        }
    )
    assert found(json.dumps(dump)) == []


def envoy_gateway_dump() -> dict[str, Any]:
    """As Envoy Gateway does it: a filter per policy, off, and turned on by the policy's routes."""
    config = copy.deepcopy(GOOD)
    name = "envoy.filters.http.ext_proc/envoyextensionpolicy/default/sentinel/extproc/0"
    cluster = "envoyextensionpolicy/default/sentinel/extproc/0"
    resources = config["static_resources"]
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    processor = manager["http_filters"][0]
    processor.update(name=name, disabled=True)
    processor["typed_config"]["grpc_service"] = {"envoy_grpc": {"cluster_name": cluster}}
    del processor["typed_config"]["stat_prefix"]
    resources["clusters"][0]["name"] = cluster
    resources["clusters"][0]["load_assignment"]["cluster_name"] = cluster
    host = manager["route_config"]["virtual_hosts"][0]
    host["routes"][0]["typed_per_filter_config"] = {
        name: {"@type": f"{TYPES}.config.route.v3.FilterConfig", "config": {}}
    }
    host["routes"].append(
        {"match": {"prefix": "/shop"}, "route": {"cluster": "httproute/default/shop/rule/0"}}
    )
    resources["clusters"].append({"name": "httproute/default/shop/rule/0", "type": "EDS"})
    return dump_of(config)


def test_envoy_gateways_dump_is_understood() -> None:
    dump = envoy_gateway_dump()
    assert found(json.dumps(dump)) == []
    host = dump["configs"][4]["dynamic_route_configs"][0]["route_config"]["virtual_hosts"][0]
    del host["routes"][0]["typed_per_filter_config"]
    assert found(json.dumps(dump)) == ["route-bypass"]


def istio_dump() -> dict[str, Any]:
    """As Istio does it: names with bars, routes by RDS, a listener that is only virtual."""
    config = copy.deepcopy(GOOD)
    resources = config["static_resources"]
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    ours, theirs = "outbound|50051||sentinel.ai.svc.cluster.local", "outbound|443||api.openai.com"
    manager["http_filters"][0]["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = ours
    for number, kind in enumerate(("istio_authn", "istio.alpn", "grpc_stats", "rbac", "cors")):
        manager["http_filters"].insert(number, {"name": f"envoy.filters.http.{kind}"})
    manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = theirs
    for cluster, name in zip(resources["clusters"], (ours, theirs), strict=True):
        cluster["name"] = cluster["load_assignment"]["cluster_name"] = name
    resources["clusters"].append({"name": "BlackHoleCluster", "type": "STATIC"})
    resources["clusters"].append({"name": "agent", "type": "STATIC"})
    return dump_of(config)


def test_istios_dump_is_understood() -> None:
    dump = istio_dump()
    assert found(json.dumps(dump)) == []
    cluster = dump["configs"][1]["dynamic_active_clusters"][0]["cluster"]
    cluster["circuit_breakers"]["thresholds"][0]["max_requests"] = 1024
    assert found(json.dumps(dump)) == ["cluster-breakers"]


def test_thousands_of_routes_are_looked_at_quickly_and_told_briefly() -> None:
    config = copy.deepcopy(GOOD)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
    (route,) = host["routes"]
    host["routes"] = [
        {
            **route,
            "match": {"prefix": f"/{n}/"},
            "route": {k: v for k, v in route["route"].items() if k != "timeout"},
            "typed_per_filter_config": {"other": {"n": n}},
        }
        for n in range(5000)
    ]
    findings = diagnose(from_document(config), Expectations())
    assert len(findings) == 5000
    shown = as_text(findings)
    assert "4995 more" in shown
    assert len(shown.splitlines()) < 30
    assert as_json(findings)["summary"] == {"error": 5000, "warning": 0, "note": 0}


def test_names_from_a_file_cannot_steer_the_terminal() -> None:
    config = copy.deepcopy(GOOD)
    config["static_resources"]["clusters"][0]["name"] = "sentinel\x1b[2J\r"
    assert "\x1b" not in as_text(diagnose(from_document(config), Expectations()))


def test_field_names_of_the_user_are_left_alone() -> None:
    tree = normal({"typedPerFilterConfig": {"myFilter": {"maxBody": 1}}, "aB": [{"cD": 1}]})
    assert tree == {
        "typed_per_filter_config": {"myFilter": {"max_body": 1}},
        "a_b": [{"c_d": 1}],
    }


def test_versions_and_counters_are_read() -> None:
    info = {"version": "9e55/1.40.0/Clean/RELEASE/BoringSSL", "state": "LIVE"}
    assert read_version(info) == ((1, 40), "LIVE")
    assert read_version({"version": "abc/1.37.1-dev/Modified/DEBUG/x"}) == ((1, 37), "")
    assert read_version({"version": "nonsense"}) == (None, "")
    lines = "a.b: 3\nc: P0(nan,1)\nd|e::f: 4\nh: No recorded values\n: 1\n"
    assert read_stats(lines) == {"a.b": 3, "d|e::f": 4}


class Admin(BaseHTTPRequestHandler):
    """An admin interface that answers what a test wants."""

    answers: ClassVar[dict[str, tuple[int, bytes]]] = {}
    trickle: ClassVar[bool] = False

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path.partition("?")[0], (404, b""))
        self.send_response(status)
        self.end_headers()
        if not self.trickle:
            self.wfile.write(body)
            return
        try:
            for _ in range(200):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.02)
        except OSError:
            pass

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def envoy_admin(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(
        Admin,
        "answers",
        {
            "/config_dump": (200, json.dumps(dump_of(GOOD)).encode()),
            "/server_info": (200, b'{"version": "x/1.40.0/Clean", "state": "LIVE"}'),
            "/stats": (200, b"http.gateway.ext_proc.sentinel.message_timeouts: 7\n"),
            "/clusters": (200, b'{"cluster_statuses": []}'),
        },
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), Admin)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(10)
    server.server_close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


def test_a_running_envoy_is_asked_for_its_counters_too(envoy_admin: str) -> None:
    result = run("--admin", envoy_admin, "--json")
    (finding,) = json.loads(result.output)["findings"]
    assert (finding["id"], finding["seen"]) == ("seen-message-timeouts", "message_timeouts 7")
    assert result.exit_code == 0
    assert run("--admin", envoy_admin, "--strict").exit_code == 1
    assert run("--admin", envoy_admin, "--strict", "--ignore", finding["id"]).exit_code == 0


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/config_dump", (200, b"{}")),
        ("/config_dump", (200, b"<html>")),
        ("/config_dump", (200, b"[1]")),
        ("/config_dump", (403, b"no")),
        ("/server_info", (200, b"not json")),
        ("/stats", (500, b"")),
    ],
)
def test_what_is_no_admin_interface_is_told(
    envoy_admin: str, path: str, answer: tuple[int, bytes]
) -> None:
    Admin.answers[path] = answer
    result = run("--admin", envoy_admin)
    assert result.exit_code == 3
    assert "can't be reached" in result.output


def test_too_much_and_too_slow_are_given_up(
    envoy_admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Admin, "trickle", True)
    with pytest.raises(doctor_admin.Unreachable, match="too long"):
        doctor_admin.load_admin(envoy_admin, timeout_s=0.1)
    monkeypatch.setattr(Admin, "trickle", False)
    monkeypatch.setattr(doctor_admin, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(doctor_admin.Unreachable, match="far too much"):
        doctor_admin.load_admin(envoy_admin)


def test_nobody_there_is_told(tmp_path: Path) -> None:
    result = run("--admin", f"unix:{tmp_path}/no.sock", "--json")
    assert result.exit_code == 3
    assert json.loads(result.output)["error"]["code"] == "unreachable"
    assert run("--admin", "http://127.0.0.1:1").exit_code == 3


def test_exit_codes_are_for_ci(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(envoy_examples()["envoy.yaml"])
    assert (result := run("--envoy-config", str(good), "--strict")).exit_code == 0
    assert result.output.startswith("Nothing found.\nNot compared with the sidecar's settings")
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        envoy_examples()["envoy.yaml"].replace("message_timeout: 2s", "message_timeout: 0.2s")
    )
    result = run("--envoy-config", str(bad))
    assert result.exit_code == 1
    assert "ERROR    message-timeout" in result.output
    assert (
        "at   listener gateway / filter envoy.filters.http.ext_proc  (0.2s, the sidecar"
        in result.output
    )
    assert run("--envoy-config", str(bad), "--ignore", "message-timeout").exit_code == 0
    ignored = "message-timeout@listener gateway"
    assert run("--envoy-config", str(bad), "--ignore", ignored).exit_code == 0
    assert run("--envoy-config", str(bad), "--ignore", "message-timeout@other").exit_code == 1
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    assert run("--envoy-config", str(empty)).exit_code == 2


def test_a_file_is_read_as_the_envoy_of_the_given_version_would(tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    text = envoy_examples()["envoy.yaml"]
    old.write_text(text.replace("allow_content_length_header: true", ""))
    assert run("--envoy-config", str(old), "--strict").exit_code == 1
    assert run("--envoy-config", str(old), "--strict", "--envoy-version", "1.37").exit_code == 0
    assert run("--envoy-config", str(old), "--envoy-version", "1.35.2").exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--envoy-config", "a", "--envoy-version", "new"),
        ("--envoy-config", "a", "--admin", "b"),
        ("--envoy-config", "a", "--ignore", "no-such-finding"),
        ("--admin", "ftp://x"),
        ("--admin", "http://[::1"),
    ],
)
def test_wrong_usage_is_told(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2
