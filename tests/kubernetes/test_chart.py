"""The Helm chart and the kustomize base, by their kept output; by the tools themselves where they
are installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from starlette.routing import Route

from scripts import render_chart
from sentinel_extproc import __version__
from sentinel_extproc.config.load import only
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.envoyconf.address import HostPort, SocketPath, parse_address
from sentinel_extproc.envoyconf.kubernetes import DEFAULT_SERVICE
from sentinel_extproc.envoyconf.set_values import grace_seconds
from sentinel_extproc.envoyconf.versions import NEWEST, shown

CASES = {path.name.split(".")[0]: path for path in render_chart.CASES.glob("*.values.yaml")}
EXAMPLES = sorted((render_chart.ROOT / "envoy" / "helm").glob("*.yaml"))
SHARED = sorted(set(CASES) - {"sidecar"})
HOW = "run `make examples` with helm (go install helm.sh/helm/v3/cmd/helm@v3.19.0) on the PATH"

needs_helm = pytest.mark.skipif(shutil.which("helm") is None, reason="no helm on the PATH")


def kept_text(case: str) -> str:
    return (render_chart.CASES / f"{case}.rendered.yaml").read_text("utf-8")


@cache
def kept(case: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(kept_text(case)) if document]


def of_kind(case: str, kind: str) -> list[dict[str, Any]]:
    return [document for document in kept(case) if document["kind"] == kind]


def workload(case: str) -> dict[str, Any]:
    (found,) = (d for d in kept(case) if d["kind"] in ("StatefulSet", "Deployment"))
    return found


def pod(case: str) -> dict[str, Any]:
    spec: dict[str, Any] = workload(case)["spec"]["template"]["spec"]
    return spec


def containers(case: str) -> dict[str, dict[str, Any]]:
    both = [*pod(case).get("initContainers", []), *pod(case)["containers"]]
    return {container["name"]: container for container in both}


def settings_of(case: str) -> Settings:
    (config,) = (d for d in of_kind(case, "ConfigMap") if "config.yaml" in d["data"])
    return only(yaml.safe_load(config["data"]["config.yaml"]))


def values_schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((render_chart.CHART / "values.schema.json").read_text())
    return loaded


@pytest.mark.parametrize("case", CASES)
def test_the_kept_output_is_of_this_chart(case: str) -> None:
    assert kept_text(case).startswith(render_chart.head(CASES[case])), HOW


def test_the_chart_ships_the_rules_and_the_dashboard() -> None:
    for name, copy in render_chart.SHIPPED.items():
        assert copy.read_bytes() == (render_chart.OBSERVABILITY / name).read_bytes(), HOW
    (rules,) = (d["spec"] for d in kept("everything") if d["kind"] == "PrometheusRule")
    source = yaml.safe_load((render_chart.OBSERVABILITY / "rules.yaml").read_text("utf-8"))
    assert [group["name"] for group in rules["groups"]] == [g["name"] for g in source["groups"]]
    alert = rules["groups"][1]["rules"][0]
    assert alert["annotations"]["runbook_url"] == (
        "https://docs.example/sentinel/alerts.html#sentinelabsent"
    )
    shown = [d["data"] for d in kept("everything") if d["metadata"]["name"].endswith("-dashboard")]
    assert json.loads(shown[0]["sentinel-extproc.json"])["title"] == "Sentinel ext_proc"


@needs_helm
@pytest.mark.parametrize("case", CASES)
def test_helm_makes_what_is_kept(case: str) -> None:
    assert render_chart.rendered(CASES[case]) == kept(case)


@needs_helm
@pytest.mark.parametrize("values", [*CASES.values(), *EXAMPLES], ids=lambda path: path.name)
def test_helm_takes_the_values(values: Path) -> None:
    command = ["helm", "lint", "--strict", str(render_chart.CHART), "--values", str(values)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stdout
    assert render_chart.rendered(values)


@needs_helm
@pytest.mark.parametrize(("secret", "warns"), [("", True), ("envoys-tls", False)])
def test_clear_text_between_pods_is_warned_of(secret: str, tmp_path: Path, *, warns: bool) -> None:
    # Without a cluster, helm shows its notes to nobody: so they are made a field of a document.
    chart = tmp_path / "chart"
    shutil.copytree(render_chart.CHART, chart)
    (chart / "templates" / "NOTES.txt").rename(chart / "notes")
    told = 'notes: {{ tpl (.Files.Get "notes") . | toJson }}'
    (chart / "templates" / "notes.yaml").write_text(told)
    command = [
        *("helm", "template", "x", str(chart), "--kube-version", render_chart.KUBERNETES),
        *("--set", f"tls.secretName={secret}"),
    ]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    (notes,) = (d["notes"] for d in yaml.safe_load_all(done.stdout) if d and "notes" in d)
    assert ("clear text" in notes) is warns


@needs_helm
def test_helm_refuses_a_gateway_without_configuration(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("mode: sidecar\n")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render_chart.rendered(values)
    assert "--with-envoy" in caught.value.stderr


@needs_helm
def test_workers_are_for_pods_with_an_envoy(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("settings: {server: {workers: 2}}\n")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render_chart.rendered(values)
    assert "settings.server.workers" in caught.value.stderr
    values.write_text("mode: sidecar\nsettings: {server: {workers: 2}}\nenvoy: {config: 'a: b'}\n")
    assert render_chart.rendered(values)


@pytest.mark.parametrize("case", CASES)
def test_an_api_server_takes_it(case: str) -> None:
    for document in kept(case):
        if document["kind"] not in ("ServiceMonitor", "PrometheusRule"):  # not Kubernetes' own
            kubernetes_validate.validate(document, "1.34", strict=True)


def test_the_check_sees_an_unknown_field() -> None:
    document = json.loads(json.dumps(workload("shared")))
    document["spec"]["template"]["spec"]["containers"][0]["readyness"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.34", strict=True)


@pytest.mark.parametrize("values", [*CASES.values(), *EXAMPLES], ids=lambda path: path.name)
def test_values_fit_their_schema(values: Path) -> None:
    given = yaml.safe_load(values.read_text("utf-8"))
    defaults = yaml.safe_load((render_chart.CHART / "values.yaml").read_text("utf-8"))
    jsonschema.validate(defaults, values_schema())
    jsonschema.validate({**defaults, **given}, values_schema())


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "both"},
        {"settings": {"zions": {}}},
        {"settings": {"provider": {"api_key": "sk-in-clear"}}},
        {"settings": {"zion": {"api_key": "in-clear"}}},
        {"settings": {"admin": {"enabled": False}}},
        {"outbox": {"size": "2 GB"}},
        {"secret": {"name": ""}},
        {"replica": 3},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    defaults = yaml.safe_load((render_chart.CHART / "values.yaml").read_text("utf-8"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**defaults, **wrong}, values_schema())


def test_the_schema_knows_every_section_of_the_settings() -> None:
    assert set(values_schema()["properties"]["settings"]["properties"]) == set(
        Settings.model_fields
    )


def test_versions_are_the_products() -> None:
    chart = yaml.safe_load((render_chart.CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__
    assert containers("shared")["sentinel"]["image"] == f"sentinel-extproc:{__version__}"
    assert containers("sidecar")["envoy"]["image"].endswith(f"distroless-v{shown(NEWEST)}.0")


@pytest.mark.parametrize("case", CASES)
def test_the_configuration_is_one_that_the_sidecar_takes(case: str) -> None:
    settings = settings_of(case)
    mounts = {m["name"]: m["mountPath"] for m in containers(case)["sentinel"]["volumeMounts"]}
    assert str(settings.usage.outbox_path.parent) == mounts["outbox"]
    environment = {e["name"]: e["value"] for e in containers(case)["sentinel"]["env"]}
    assert environment["SENTINEL_SECRETS_DIR"] == mounts["secrets"]
    config = Path(environment["SENTINEL_CONFIG"])
    assert str(config.parent) == mounts["config"]
    (data,) = (c["data"] for c in of_kind(case, "ConfigMap") if "config.yaml" in c["data"])
    assert config.name in data
    if settings.limits.policy_file is not None:
        assert settings.limits.policy_file.parent == config.parent
        assert settings.limits.policy_file.name in data
    if settings.server.tls_cert_file is not None:
        assert str(settings.server.tls_cert_file.parent) == mounts["tls"]


def test_local_shares_of_limits_know_the_least_number_of_replicas() -> None:
    assert settings_of("shared").limits.replicas_at_least == 2
    assert settings_of("everything").limits.replicas_at_least == 3


@pytest.mark.parametrize("case", CASES)
def test_a_pod_has_the_time_that_a_drain_may_take(case: str) -> None:
    needed = grace_seconds(settings_of(case))
    if case == "sidecar":
        needed += containers(case)["envoy"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(case)["terminationGracePeriodSeconds"] == needed


@pytest.mark.parametrize("case", CASES)
def test_every_container_is_locked_down(case: str) -> None:
    spec = pod(case)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(case).values():
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert "limits" in container["resources"]


@pytest.mark.parametrize("case", CASES)
def test_no_secret_is_in_what_is_rendered(case: str) -> None:
    assert not of_kind(case, "Secret")
    (secrets,) = (v["secret"] for v in pod(case)["volumes"] if v["name"] == "secrets")
    assert secrets["secretName"]
    assert secrets["defaultMode"] == 0o440


@pytest.mark.parametrize("case", CASES)
def test_probes_ask_what_the_admin_port_answers(case: str) -> None:
    sentinel = containers(case)["sentinel"]
    admin = parse_address(settings_of(case).admin.listen, parameter="admin")
    assert isinstance(admin, HostPort)
    ports = {port["name"]: port["containerPort"] for port in sentinel["ports"]}
    assert ports["admin"] == admin.port
    from sentinel_extproc.admin import routes

    source = Path(routes.__file__).read_text("utf-8")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = sentinel[probe]["httpGet"]
        assert asked["port"] == "admin"
        assert f'{Route.__name__}("{asked["path"]}"' in source


@pytest.mark.parametrize("case", SHARED)
def test_shared_sidecars_keep_their_outbox(case: str) -> None:
    assert workload(case)["kind"] == "StatefulSet"
    spec = workload(case)["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "outbox"
    assert set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    listen = parse_address(settings_of(case).server.listen, parameter="listen")
    assert isinstance(listen, HostPort)
    (service,) = of_kind(case, "Service")
    assert service["spec"]["clusterIP"] == "None"
    assert spec["serviceName"] == service["metadata"]["name"]
    (grpc,) = (p for p in service["spec"]["ports"] if p["name"] == "grpc")
    assert grpc["port"] == listen.port


def test_gateways_find_the_charts_service_by_default() -> None:
    (service,) = of_kind("shared", "Service")
    metadata = service["metadata"]
    assert (metadata["name"], metadata["namespace"]) == (
        DEFAULT_SERVICE.name,
        DEFAULT_SERVICE.namespace,
    )
    assert DEFAULT_SERVICE.port in {port["port"] for port in service["spec"]["ports"]}


def test_beside_an_envoy_the_sidecar_is_there_first_and_last() -> None:
    (sentinel,) = pod("sidecar")["initContainers"]
    assert sentinel["restartPolicy"] == "Always"
    assert "startupProbe" in sentinel
    listen = parse_address(settings_of("sidecar").server.listen, parameter="listen")
    assert isinstance(listen, SocketPath)
    for container in containers("sidecar").values():
        mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        assert mounts["sockets"] == str(Path(listen.path).parent)
    (outbox,) = (v for v in pod("sidecar")["volumes"] if v["name"] == "outbox")
    assert "emptyDir" in outbox


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.name)
def test_a_rendered_gateway_finds_the_sidecar_of_its_pod(values: Path) -> None:
    given = yaml.safe_load(values.read_text("utf-8"))
    assert (given["mode"] == "sidecar") == ("envoy" in given)
    if "envoy" in given:
        listen = parse_address(settings_of("sidecar").server.listen, parameter="listen")
        assert isinstance(listen, SocketPath)
        assert f"path: {listen.path}\n" in given["envoy"]["config"]
        (published,) = (p["containerPort"] for p in containers("sidecar")["envoy"]["ports"])
        assert f"port_value: {published}\n" in given["envoy"]["config"]


def selectors(case: str) -> Iterator[tuple[str, dict[str, str]]]:
    for document in kept(case):
        spec = document.get("spec", {})
        if document["kind"] == "Service":
            yield document["kind"], spec["selector"]
        if document["kind"] == "NetworkPolicy":
            yield document["kind"], spec["podSelector"]["matchLabels"]
        if document["kind"] in ("PodDisruptionBudget", "StatefulSet", "Deployment"):
            yield document["kind"], spec["selector"]["matchLabels"]


@pytest.mark.parametrize("case", CASES)
def test_every_selector_finds_the_pods(case: str) -> None:
    labels = workload(case)["spec"]["template"]["metadata"]["labels"]
    for kind, selector in selectors(case):
        assert selector
        assert selector.items() <= labels.items(), kind
    for scaler in of_kind(case, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert target["kind"] == workload(case)["kind"]
        assert target["name"] == workload(case)["metadata"]["name"]
        assert "replicas" not in workload(case)["spec"]
    for monitor in of_kind(case, "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        services = [
            service
            for service in of_kind(case, "Service")
            if monitor["spec"]["selector"]["matchLabels"].items()
            <= service["metadata"]["labels"].items()
            and endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        ]
        assert len(services) == 1


@pytest.mark.parametrize("case", CASES)
def test_named_ports_exist(case: str) -> None:
    named = {port["name"] for c in containers(case).values() for port in c["ports"]}
    for service in of_kind(case, "Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    for policy in of_kind(case, "NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            assert {port["port"] for port in rule["ports"]} <= named


@pytest.mark.parametrize("case", SHARED)
def test_no_rule_lets_everybody_at_the_sidecars(case: str) -> None:
    (policy,) = of_kind(case, "NetworkPolicy")
    assert "Ingress" in policy["spec"]["policyTypes"]
    for rule in policy["spec"]["ingress"]:
        assert rule["from"]
    assert policy["spec"]["ingress"] or case == "bare"


def test_the_kustomize_base_is_the_charts_default() -> None:
    files = {p.name: p.read_text("utf-8") for p in render_chart.BASE.iterdir()}
    assert files == render_chart.kustomize_base(kept(render_chart.BASE_CASE)), HOW


def _kustomize() -> list[str] | None:
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


@pytest.mark.skipif(_kustomize() is None, reason="neither kustomize nor kubectl on the PATH")
def test_kustomize_builds_the_same_pods() -> None:
    command = [*(_kustomize() or []), str(render_chart.BASE)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    built = {d["kind"]: d for d in yaml.safe_load_all(done.stdout) if d}
    assert set(built) == {d["kind"] for d in kept("shared")}
    for document in built.values():
        kubernetes_validate.validate(document, "1.34", strict=True)
        assert document["metadata"]["namespace"] == render_chart.NAMESPACE
    config = built["ConfigMap"]
    name = config["metadata"]["name"]
    assert name.startswith(f"{render_chart.RELEASE}-")
    spec = built["StatefulSet"]["spec"]["template"]["spec"]
    (volume,) = (v for v in spec["volumes"] if v["name"] == "config")
    assert volume["configMap"]["name"] == name
    volume["configMap"]["name"] = render_chart.RELEASE
    assert spec == pod("shared")
    assert yaml.safe_load(config["data"]["config.yaml"]) == yaml.safe_load(
        of_kind("shared", "ConfigMap")[0]["data"]["config.yaml"]
    )
