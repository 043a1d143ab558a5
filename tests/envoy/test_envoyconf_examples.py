"""Every kept Envoy example: accepted by the real binary, and serving."""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sentinel_extproc.demo.certificates import Authority
from sentinel_extproc.demo.envoy import validate_config
from sentinel_extproc.demo.process import ManagedProcess
from sentinel_extproc.demo.redis import free_port
from sentinel_extproc.demo.sidecar import sidecar_environment
from sentinel_extproc.demo.stack import Stack, provider_address
from tests.envoy.gateways import (
    ADA,
    EXAMPLES,
    assert_governed,
    eventually,
    kept,
    lead_to,
    listens,
    serving,
    url_of,
)

NAMES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))


SHARED = "envoy-shared.yaml"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files for the sidecar and for Envoy, by the paths that the example names."""
    authority = Authority(tmp_path_factory.mktemp("tls"), "authority")
    envoy, sidecar = authority.issue("envoy"), authority.issue("localhost")
    return {
        "/etc/envoy/tls/ca.crt": str(authority.file),
        "/etc/envoy/tls/tls.crt": str(envoy.certificate),
        "/etc/envoy/tls/tls.key": str(envoy.key),
        "sidecar.crt": str(sidecar.certificate),
        "sidecar.key": str(sidecar.key),
    }


def placed(name: str, tls: Mapping[str, str]) -> dict[str, Any]:
    """An example with the files that exist here instead of those that it names."""
    text = json.dumps(kept(name)[0])
    for path, here in tls.items():
        text = text.replace(f'"{path}"', f'"{here}"')
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_envoy_accepts_it(name: str, work_dir: Path, tls: dict[str, str]) -> None:
    config = work_dir / name
    config.write_text(yaml.safe_dump(placed(name, tls)))
    validate_config(config, work_dir=work_dir)


def on_this_machine(config: dict[str, Any], stack: Stack, sidecar: str) -> dict[str, Any]:
    """The example with the stack's addresses, on a port that the kernel picks."""
    config = copy.deepcopy(config)
    (listener,) = config["static_resources"]["listeners"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    host, port, _ = provider_address(stack.services.openai_url)
    lead_to(config, "sentinel", sidecar)
    lead_to(config, "provider", f"{host}:{port}")
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"] == "provider":
            cluster["type"] = "STATIC"
            cluster.pop("transport_socket", None)  # the stand-in speaks cleartext
            cluster.pop("typed_extension_protocol_options", None)
    return config


@pytest.mark.parametrize("name", [name for name in NAMES if name != SHARED])
def test_it_serves(name: str, stack: Stack) -> None:
    with serving(on_this_machine(kept(name)[0], stack, stack.sidecar.address)) as envoy:
        assert_governed(envoy, stack)


@contextmanager
def sidecar_with_tls(stack: Stack, tls: Mapping[str, str]) -> Iterator[str]:
    """A sidecar on a port that only takes Envoys of our authority; gives its address."""
    with tempfile.TemporaryDirectory(prefix="sx-tls-") as folder:
        port = free_port()
        environment = {
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "ZION_API_URL": stack.services.zion_url,
            "ZION_API_KEY": stack.services.zion_key,
            "OPENAI_API_URL": stack.services.openai_url,
            "OPENAI_API_KEY": stack.services.openai_key,
            "REDIS_URL": stack.redis.url,
            "SENTINEL_REDIS__TIMEOUT_SECONDS": "0.5",
            "SENTINEL_SERVER__LISTEN": f"127.0.0.1:{port}",
            "SENTINEL_SERVER__TLS_CERT_FILE": tls["sidecar.crt"],
            "SENTINEL_SERVER__TLS_KEY_FILE": tls["sidecar.key"],
            "SENTINEL_SERVER__CLIENT_CA_FILE": tls["/etc/envoy/tls/ca.crt"],
            "SENTINEL_SERVER__DRAIN_SECONDS": "5",
            "SENTINEL_USAGE__OUTBOX_PATH": f"{folder}/outbox.db",
            "SENTINEL_ADMIN__LISTEN": f"unix:{folder}/admin.sock",
        }
        process = ManagedProcess(
            [sys.executable, "-m", "sentinel_extproc", "serve"],
            name="sidecar",
            log_path=Path(folder) / "sidecar.log",
            env=sidecar_environment(environment),
            stop_timeout_s=30,
        )
        process.start()
        try:
            # Not by its health service, which takes no stranger either.
            process.wait_until(lambda: listens(port), what="it listened", timeout_s=60)
            yield f"127.0.0.1:{port}"
        finally:
            process.stop()


def test_the_shared_one_serves_by_mutual_tls_and_lets_unmetered_paths_by(
    stack: Stack, tls: dict[str, str]
) -> None:
    assert stack.openai is not None
    text = json.dumps(placed(SHARED, tls)).replace("sentinel.example.com", "localhost")
    with sidecar_with_tls(stack, tls) as address:
        config = on_this_machine(json.loads(text), stack, address.replace("127.0.0.1", "localhost"))
        with serving(config) as envoy:
            assert_governed(envoy, stack)
            asked = len(envoy.access_log())
            httpx.get(
                f"{url_of(envoy)}/health/deep",
                headers={"authorization": f"Bearer {ADA}", "cookie": "a=b"},
                trust_env=False,
            )
            passed = eventually(lambda: envoy.access_log()[asked:])
            assert passed[0]["upstream"]
            assert passed[0]["sentinel"] is None
            for spelling in (
                *("/health/../v1/models", "/health/..%2fv1/models"),
                *("/health%2f..", "/healthz"),
            ):
                answer = httpx.get(f"{url_of(envoy)}{spelling}", trust_env=False)
                assert answer.headers["x-sentinel-error"] in (
                    *("invalid_api_key", "unknown_url", "ambiguous_path"),
                )
        # Another name than the certificate's, or no certificate of Envoy's own: nothing passes.
        for spoilt in (
            json.loads(json.dumps(config).replace('"exact": "localhost"', '"exact": "other"')),
            without_certificate(config),
        ):
            with serving(spoilt) as envoy:
                answer = httpx.get(f"{url_of(envoy)}/v1/models", trust_env=False)
                assert answer.status_code == 503


def without_certificate(config: Mapping[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(dict(config))
    for cluster in changed["static_resources"]["clusters"]:
        if cluster["name"] == "sentinel":
            context = cluster["transport_socket"]["typed_config"]["common_tls_context"]
            del context["tls_certificates"]
    return changed
