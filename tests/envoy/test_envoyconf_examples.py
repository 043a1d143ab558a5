"""Every kept Envoy example, and the Istio ones applied to a gateway: accepted, and serving."""

from __future__ import annotations

import copy
import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sentinel_extproc.demo.certificates import Authority
from sentinel_extproc.demo.envoy import RunningEnvoy, start_envoy, validate_config
from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.process import ManagedProcess
from sentinel_extproc.demo.redis import free_port
from sentinel_extproc.demo.sidecar import sidecar_environment
from sentinel_extproc.demo.stack import Stack, provider_address
from tests.envoy.istio_patches import patched

EXAMPLES = Path(__file__).resolve().parents[2] / "envoy"
ADA = "demo-ada"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))
SHARED = "envoy-shared.yaml"


@cache
def kept(name: str) -> Any:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text("utf-8")))


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


def endpoints(config: Mapping[str, Any], cluster: str) -> dict[str, Any]:
    (found,) = (c for c in config["static_resources"]["clusters"] if c["name"] == cluster)
    assignment: dict[str, Any] = found["load_assignment"]
    return assignment


def lead_to(config: dict[str, Any], cluster: str, address: str) -> None:
    """Put another address into a cluster that stays what it is in every other way."""
    if address.startswith("unix:"):
        there: dict[str, Any] = {"pipe": {"path": address.removeprefix("unix:")}}
    else:
        host, _, port = address.rpartition(":")
        there = {"socket_address": {"address": host, "port_value": int(port)}}
    endpoint = {"endpoint": {"address": there}}
    endpoints(config, cluster)["endpoints"] = [{"lb_endpoints": [endpoint]}]


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


@contextmanager
def serving(config: Mapping[str, Any]) -> Iterator[RunningEnvoy]:
    with (
        tempfile.TemporaryDirectory(prefix="sx-ex-") as folder,
        start_envoy(config, work_dir=Path(folder)) as envoy,
    ):
        yield envoy


def url_of(envoy: RunningEnvoy) -> str:
    """Of its one listener, whatever that is called."""
    (listener,) = json.loads(envoy.admin("/listeners?format=json"))["listener_statuses"]
    return f"http://127.0.0.1:{listener['local_address']['socket_address']['port_value']}"


def ask(url: str) -> str:
    client = openai.OpenAI(
        api_key=ADA,
        base_url=f"{url}/v1",
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )
    with client:
        answer = client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}]
        )
        return answer.choices[0].message.content or ""


def eventually(read: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (value := read()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def assert_governed(envoy: RunningEnvoy, stack: Stack) -> None:
    """A user is served with the provider's key, logged by name; a stranger never gets through."""
    assert stack.openai is not None
    before = len(stack.openai.served())
    assert ask(url_of(envoy))
    stranger = httpx.post(
        f"{url_of(envoy)}/v1/chat/completions",
        json={"model": "gpt-4o-mini", "messages": []},
        headers={"authorization": "Bearer nobody"},
        trust_env=False,
    )
    assert stranger.status_code == 401
    assert len(stack.openai.served()) == before + 1
    lines = eventually(lambda: [x for x in envoy.access_log() if x["status"] in (200, 401)][1:])
    (line,) = (x for x in envoy.access_log() if x["status"] == 200)
    assert line["sentinel"]["user"] == "ext-ada"
    assert line["sentinel"]["model"] == "gpt-4o-mini"
    assert line["sentinel"]["decision"] == "admitted"
    assert line["sentinel"]["output_tokens"] > 0
    assert lines


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


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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


def test_a_patch_that_would_change_nothing_is_seen(stack: Stack, other_service: str) -> None:
    patches = [p for p in patches_of("istio/mesh-tls.yaml") if p["applyTo"] == "HTTP_ROUTE"]
    gateway = istio_gateway(stack, other_service)
    gateway["static_resources"]["listeners"][0]["name"] = "0.0.0.0_8080"
    with pytest.raises(AssertionError, match="nothing matches"):
        patched(gateway, patches)
