"""Attached to a gateway that was there before: its filters and its other traffic stay as they were.

Runs envoy/examples/with-other-filters.yaml; only addresses and keys are replaced.
"""

from __future__ import annotations

import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sentinel_extproc.demo.envoy import RunningEnvoy, start_envoy
from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.stack import Stack, provider_address, start_stack
from sentinel_extproc.envoyconf.doctor.admin import load_admin
from sentinel_extproc.envoyconf.doctor.attachment import Expectations
from sentinel_extproc.envoyconf.doctor.diagnose import diagnose
from sentinel_extproc.envoyconf.doctor.load import load_file
from sentinel_extproc.envoyconf.local_reply import GATEWAY_ERRORS

FILE = Path(__file__).resolve().parents[2] / "envoy" / "examples" / "with-other-filters.yaml"
ADA = {"authorization": "Bearer demo-ada"}
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
ORIGIN = {"origin": "https://app.example.com"}
Config = dict[str, Any]


def seen_by_sidecar(envoy: RunningEnvoy) -> int:
    """How many exchanges the sidecar was asked about."""
    return sum(envoy.stats("ext_proc.sentinel.streams_started").values())


async def shop(request: Request) -> JSONResponse:
    return JSONResponse({"pad": "x" * 2000, "headers": dict(request.headers)})


class Inventory:
    """A gRPC service that echoes: one message, or a stream of them."""

    def __init__(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(4))
        handlers: dict[str, Any] = {
            "Get": grpc.unary_unary_rpc_method_handler(lambda request, _context: request),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
        }
        generic = grpc.method_handlers_generic_handler("inventory.v1.Inventory", handlers)
        self._server.add_generic_rpc_handlers((generic,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    @staticmethod
    def _watch(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from requests
        context.set_trailing_metadata((("left", "3"),))

    def __enter__(self) -> Inventory:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.stop(None).wait()


class Live:
    """Takes every upgrade, then echoes bytes."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(4096)
                connection.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n"
                    b"upgrade: websocket\r\n"
                    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                )
                while data := connection.recv(4096):
                    connection.sendall(data)

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)


@dataclass
class Gateway:
    """The example on the real Envoy, with everything behind it."""

    stack: Stack
    config: Config
    envoy: RunningEnvoy
    token: str

    @property
    def url(self) -> str:
        return self.envoy.url


def to_address(cluster: Config, host: str, port: int) -> None:
    cluster["type"] = "STATIC"
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = {
        "socket_address": {"address": host, "port_value": port}
    }


def manager(config: Config) -> Config:
    found: Config = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0][
        "typed_config"
    ]
    return found


def http_filter(config: Config, kind: str) -> Config:
    name = f"envoy.filters.http.{kind}"
    (found,) = [f["typed_config"] for f in manager(config)["http_filters"] if f["name"] == name]
    return found  # type: ignore[no-any-return]


def adapted(stack: Stack, keys: str, ports: dict[str, int]) -> Config:
    """The file as it is, but for where things are."""
    config: Config = yaml.safe_load(FILE.read_text())
    config["static_resources"]["listeners"][0]["address"] = {
        "socket_address": {"address": "127.0.0.1", "port_value": 0}
    }
    clusters = {c["name"]: c for c in config["static_resources"]["clusters"]}
    pipe = clusters["sentinel"]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    pipe["address"]["pipe"]["path"] = stack.sidecar.address.removeprefix("unix:")
    host, port, _ = provider_address(stack.services.openai_url)
    to_address(clusters["provider"], host, port)
    del clusters["provider"]["transport_socket"]
    for name, port in ports.items():
        to_address(clusters[name], "127.0.0.1", port)
    providers = http_filter(config, "jwt_authn")["providers"]
    providers["shop"]["local_jwks"] = {"inline_string": keys}
    return config


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    keys = json.dumps({"keys": [public | {"kid": "k", "alg": "RS256"}]})
    claims = {"iss": "https://login.example.com", "aud": "shop", "exp": int(time.time()) + 600}
    with ExitStack() as parts:
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="sx-others-")))
        (folder / "stack").mkdir()
        stack = parts.enter_context(
            start_stack(work_dir=folder / "stack", settings={"SENTINEL_LIMITS__REQUESTS": "100000"})
        )
        app = Starlette(routes=[Route("/shop/{rest:path}", shop)])
        ports = {
            "shop": parts.enter_context(serve_app(app, name="shop")).port,
            "inventory": parts.enter_context(Inventory()).port,
            "live": parts.enter_context(Live()).port,
        }
        config = adapted(stack, keys, ports)
        envoy = parts.enter_context(start_envoy(config, work_dir=folder))
        token = jwt.encode(claims, key, algorithm="RS256", headers={"kid": "k"})
        yield Gateway(stack, config, envoy, token)


def chat(url: str, headers: dict[str, str], **body: object) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/chat/completions",
        json=CHAT | body,
        headers=headers,
        trust_env=False,
        timeout=30,
    )


def test_the_doctor_has_nothing_against_it(gateway: Gateway) -> None:
    assert diagnose(load_file(FILE), Expectations()) == []
    running = load_admin(f"unix:{gateway.envoy.admin_socket}")
    assert diagnose(running, Expectations()) == []


def test_its_refusals_are_ours() -> None:
    text = FILE.read_text()
    for error in GATEWAY_ERRORS:
        assert error.body().replace("'", "''") in text


def test_llm_traffic_is_governed_and_compressed_for_those_who_ask(gateway: Gateway) -> None:
    answer = chat(gateway.url, ADA)
    assert answer.status_code == 200
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["x-ratelimit-remaining-requests"]) > 0
    assert chat(gateway.url, {}).status_code == 401
    streamed = chat(gateway.url, ADA, stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.rstrip().endswith("[DONE]")
    end = time.monotonic() + 20
    while not [line for line in gateway.envoy.access_log() if line["sentinel"]]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_browsers_may_ask_first_and_read_refusals(gateway: Gateway) -> None:
    preflight = httpx.options(
        f"{gateway.url}/v1/chat/completions",
        headers=ORIGIN | {"access-control-request-method": "POST"},
        trust_env=False,
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN["origin"]
    refused = chat(gateway.url, ORIGIN)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN["origin"]
    assert refused.json()["error"]["code"] == "invalid_api_key"


def test_the_shop_is_still_guarded_by_its_own_jwts_and_by_nothing_else(gateway: Gateway) -> None:
    before = seen_by_sidecar(gateway.envoy)
    url = f"{gateway.url}/shop/basket"
    assert httpx.get(url, trust_env=False).status_code == 401
    assert httpx.get(url, headers=ADA, trust_env=False).status_code == 401
    mine = {"authorization": f"Bearer {gateway.token}", "cookie": "a=b", "x-mine": "1"}
    answer = httpx.get(url, headers=mine, trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["content-encoding"] == "gzip"
    arrived = answer.json()["headers"]
    assert (arrived["cookie"], arrived["x-mine"]) == ("a=b", "1")
    assert seen_by_sidecar(gateway.envoy) == before


def test_grpc_beside_us_is_untouched(gateway: Gateway) -> None:
    before = seen_by_sidecar(gateway.envoy)
    with grpc.insecure_channel(
        f"127.0.0.1:{gateway.envoy.port}", options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        get: Any = channel.unary_unary("/inventory.v1.Inventory/Get")
        assert get(b"\x00one", timeout=20) == b"\x00one"
        watch: Any = channel.stream_stream("/inventory.v1.Inventory/Watch")
        call = watch(iter([b"a", b"b" * 100_000]), timeout=20)
        assert list(call) == [b"a", b"b" * 100_000]
        assert call.code() is grpc.StatusCode.OK
        assert ("left", "3") in [tuple(item) for item in call.trailing_metadata()]
    assert seen_by_sidecar(gateway.envoy) == before


def test_websockets_beside_us_are_untouched(gateway: Gateway) -> None:
    before = seen_by_sidecar(gateway.envoy)
    with socket.create_connection(("127.0.0.1", gateway.envoy.port), timeout=20) as connection:
        connection.sendall(
            b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        assert head.startswith(b"HTTP/1.1 101 ")
        for word in (b"\x81\x05hello", b"\x82\x7e\x01\x00" + bytes(256)):
            connection.sendall(word)
            back = b""
            while len(back) < len(word):
                back += connection.recv(4096)
            assert back == word
    assert seen_by_sidecar(gateway.envoy) == before


def test_what_the_rate_limit_refuses_costs_no_reservation(
    gateway: Gateway, run_envoy: Callable[..., RunningEnvoy]
) -> None:
    config = yaml.safe_load(yaml.safe_dump(gateway.config))
    bucket = {"max_tokens": 2, "tokens_per_fill": 1, "fill_interval": "600s"}
    http_filter(config, "local_ratelimit")["token_bucket"] = bucket
    envoy = run_envoy(config)
    answers = [chat(envoy.url, ADA) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert answers[-1].text == "local_rate_limited"
    left = int(answers[1].headers["x-ratelimit-remaining-requests"])
    after = chat(gateway.url, ADA)
    assert int(after.headers["x-ratelimit-remaining-requests"]) == left - 1


def test_envoys_own_refusals_have_our_shape_under_v1_alone(gateway: Gateway) -> None:
    config = yaml.safe_load(yaml.safe_dump(gateway.config))
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"] in ("provider", "live"):
            to_address(cluster, "127.0.0.1", 1)
    with (
        tempfile.TemporaryDirectory(prefix="sx-others-") as folder,
        start_envoy(config, work_dir=Path(folder)) as envoy,
    ):
        ours = chat(envoy.url, ADA)
        theirs = httpx.get(f"{envoy.url}/live", trust_env=False)
    assert (ours.status_code, theirs.status_code) == (503, 503)
    assert ours.json()["error"]["code"] == "service_unavailable"
    assert theirs.headers["content-type"] == "text/plain"
