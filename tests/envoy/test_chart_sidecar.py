"""The sidecar with the configuration, the secrets and the probes that the Helm chart gives it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sentinel_extproc.demo.process import ManagedProcess
from sentinel_extproc.demo.redis import free_port
from sentinel_extproc.demo.sidecar import sidecar_environment
from sentinel_extproc.demo.stack import Stack
from tests.envoy.gateways import listens

HERE = "127.0.0.1"
CASES = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "cases"


def chart(kind: str) -> dict[str, Any]:
    text = (CASES / "shared.rendered.yaml").read_text("utf-8")
    found: dict[str, Any]
    (found,) = (d for d in yaml.safe_load_all(text) if d and d["kind"] == kind)
    return found


@pytest.fixture
def pod_like(stack: Stack) -> Iterator[int]:
    """The container as the chart says, but for ports and folders; gives its admin port."""
    with tempfile.TemporaryDirectory(prefix="sx-pod-") as name:
        folder = Path(name)
        config = yaml.safe_load(chart("ConfigMap")["data"]["config.yaml"])
        admin, grpc = free_port(), free_port()
        config["zion"]["url"] = stack.services.zion_url
        config["redis"]["url"] = stack.redis.url
        config["redis"]["timeout_seconds"] = 0.5
        config["server"]["listen"] = f"{HERE}:{grpc}"
        config["admin"]["listen"] = f"{HERE}:{admin}"
        config["usage"]["outbox_path"] = str(folder / "outbox.db")
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        secrets = folder / "secrets"
        secrets.mkdir()
        (secrets / "provider.api_key").write_text(stack.services.openai_key)
        (secrets / "zion.api_key").write_text(stack.services.zion_key + "\n")
        (container,) = chart("StatefulSet")["spec"]["template"]["spec"]["containers"]
        places = {
            "/etc/sentinel/config/config.yaml": folder / "config.yaml",
            "/etc/sentinel/secrets": secrets,
        }
        environment = {e["name"]: str(places[e["value"]]) for e in container["env"]}
        program, *arguments = container["command"]
        assert program == "sentinel-extproc"
        process = ManagedProcess(
            [sys.executable, "-m", "sentinel_extproc", *arguments],
            name="sidecar",
            log_path=folder / "sidecar.log",
            env=sidecar_environment(
                {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | environment
            ),
            stop_timeout_s=30,
        )
        process.start()
        try:
            process.wait_until(lambda: listens(admin), what="it listened", timeout_s=60)
            yield admin
        finally:
            process.stop()


def test_it_starts_and_the_kubelets_probes_find_it_ready(pod_like: int) -> None:
    (container,) = chart("StatefulSet")["spec"]["template"]["spec"]["containers"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = container[name]["httpGet"]["path"]
        answer = httpx.get(
            f"http://127.0.0.1:{pod_like}{path}",
            # The kubelet calls a pod by its address.
            headers={"host": "10.1.2.3:9180"},
            trust_env=False,
        )
        assert answer.status_code == 200, (name, answer.text)
    metrics = httpx.get(f"http://127.0.0.1:{pod_like}/metrics", trust_env=False)
    assert metrics.status_code == 200
    revoke = httpx.post(f"http://127.0.0.1:{pod_like}/v1/revoke", json={}, trust_env=False)
    assert revoke.status_code in (401, 403)
