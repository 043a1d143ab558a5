"""The rendered attachment on the real Envoy, with a processor that does as each test says."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sentinel_extproc.demo.envoy import RunningEnvoy, validate_config
from sentinel_extproc.demo.hosting import HostedApp, serve_app, server_config
from sentinel_extproc.demo.process import StartError
from sentinel_extproc.demo.redis import free_port
from sentinel_extproc.envoyconf.local_reply import GATEWAY_ERRORS
from sentinel_extproc.envoyconf.static import static_bootstrap
from sentinel_extproc.errors import (
    LimitExceeded,
    PayloadTooLarge,
    SentinelError,
    Unauthenticated,
    Unavailable,
)
from sentinel_extproc.exchange.commands import Respond
from sentinel_extproc.transport.codec import encode
from sentinel_extproc.transport.pb import sentinel_ext_proc_pb2 as pb

EXAMPLES = Path(__file__).resolve().parents[2] / "envoy"
METHOD = "Process"
SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
BUFFER_LIMIT = 6 * 2**20
WHOLE_BODY = pb.ProcessingMode(
    request_body_mode=pb.ProcessingMode.BUFFERED,
    response_header_mode=pb.ProcessingMode.SEND,
    response_body_mode=pb.ProcessingMode.STREAMED,
)

Answer = Callable[[pb.ProcessingRequest], "pb.ProcessingResponse | None"]
StartEnvoy = Callable[..., RunningEnvoy]


def go_on(request: pb.ProcessingRequest) -> pb.ProcessingResponse:
    """The reply that changes nothing but asks for whole bodies; the last one carries metadata."""
    kind = request.WhichOneof("request")
    assert kind is not None
    response = pb.ProcessingResponse()
    getattr(response, kind).SetInParent()
    if kind == "request_headers":
        response.mode_override.CopyFrom(WHOLE_BODY)
    if kind == "response_body" and request.response_body.end_of_stream:
        response.dynamic_metadata.update({"sentinel": {"user": "ada"}, "other": {"user": "eve"}})
    return response


@dataclass
class Processor:
    """A gRPC server on a Unix socket that replies what ``answer`` makes; None: it never replies."""

    socket: Path
    answer: Answer = go_on
    kinds: list[str] = field(default_factory=list)
    streams: int = 0

    def __enter__(self) -> Processor:
        self._released = threading.Event()
        self._pool = ThreadPoolExecutor(16)
        self._server = grpc.server(
            self._pool,
            options=[("grpc.max_receive_message_length", 64 * 2**20)],
        )
        handler = grpc.stream_stream_rpc_method_handler(
            self._process,
            request_deserializer=pb.ProcessingRequest.FromString,
            response_serializer=pb.ProcessingResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
        )
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._released.set()
        self._server.stop(None).wait()
        self._pool.shutdown()

    def _process(
        self, requests: Iterator[pb.ProcessingRequest], _context: grpc.ServicerContext
    ) -> Iterator[pb.ProcessingResponse]:
        self.streams += 1
        for request in requests:
            self.kinds.append(str(request.WhichOneof("request")))
            response = self.answer(request)
            if response is None:
                self._released.wait(60)
                return
            yield response


class Provider:
    """An upstream that tells what arrived."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], int]] = []
        self.app = Starlette(routes=[Route("/{rest:path}", self._any, methods=["GET", "POST"])])

    async def _any(self, request: Request) -> Response:
        body = await request.body()
        self.seen.append((dict(request.headers), len(body)))
        return JSONResponse({"bytes": len(body), "path": request.url.path})


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def upstream(provider: Provider) -> Iterator[HostedApp]:
    with serve_app(provider.app, name="provider") as hosted:
        yield hosted


@pytest.fixture
def processors(work_dir: Path) -> Iterator[Callable[..., Processor]]:
    with ExitStack() as running:

        def start(number: int = 0, answer: Answer = go_on) -> Processor:
            return running.enter_context(Processor(work_dir / f"p{number}.sock", answer))

        yield start


def attach(upstream: HostedApp, *running: Processor | Path, **options: Any) -> Any:
    sockets = [p.socket if isinstance(p, Processor) else p for p in running]
    defaults: dict[str, Any] = {
        "processors": [f"unix:{path}" for path in sockets],
        "provider_host": "127.0.0.1",
        "provider_port": upstream.port,
        "provider_tls": False,
        "listener_address": "127.0.0.1",
        "listener_port": 0,
        "buffer_limit_bytes": BUFFER_LIMIT,
        "health_check_interval_s": 0,
    }
    return static_bootstrap(**defaults | options)


def assert_gateways_own(answer: httpx.Response, status: int) -> None:
    (expected,) = (error for error in GATEWAY_ERRORS if error.status == status)
    assert answer.status_code == status
    assert answer.headers.get_list("content-type") == ["application/json"]
    assert answer.headers["x-sentinel-error"] == expected.code
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.text == expected.body()


def eventually(read: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 20
    while not holds(value := read()):
        assert time.monotonic() < deadline, value
        time.sleep(0.02)
    return value


def test_envoy_accepts_every_form_of_address(work_dir: Path) -> None:
    forms: tuple[dict[str, Any], ...] = (
        {"processors": ["sentinel:50051"], "provider_host": "192.0.2.1"},
        {"processors": ["10.0.0.1:50051", "[::1]:50051"], "listener_address": "::"},
        {"processors": ["unix:/a", "unix:/b"], "admin": "unix:/c", "health_check_interval_s": 0},
        {"processors": ["unix:/a"], "envoy_version": (1, 36), "provider_tls": False},
    )
    for options in forms:
        validate_config(static_bootstrap(**options), work_dir=work_dir)


def test_a_wrong_configuration_is_told_with_envoys_words(work_dir: Path) -> None:
    broken = work_dir / "broken.yaml"
    broken.write_text(
        (EXAMPLES / "envoy.yaml").read_text().replace("LEAST_REQUEST", "MOST_REQUEST")
    )
    with pytest.raises(StartError, match=r"(?s)refuses broken\.yaml.*MOST_REQUEST"):
        validate_config(broken, work_dir=work_dir)


def test_a_body_over_grpcs_own_4_mib_passes_and_its_length_is_kept(
    run_envoy: StartEnvoy,
    processors: Callable[..., Processor],
    upstream: HostedApp,
    provider: Provider,
) -> None:
    processor = processors()
    envoy = run_envoy(attach(upstream, processor))
    body = b"x" * (5 * 2**20)
    answer = httpx.post(f"{envoy.url}/v1/chat/completions", content=body, trust_env=False)
    assert answer.status_code == 200
    assert answer.json()["bytes"] == len(body)
    assert int(answer.headers["content-length"]) == len(answer.content)
    headers, _ = provider.seen[0]
    assert headers["host"] == f"127.0.0.1:{upstream.port}"
    assert not {name for name in headers if name.startswith(("x-envoy-", "x-forwarded-for"))}
    assert processor.kinds[:3] == ["request_headers", "request_body", "response_headers"]
    assert set(processor.kinds[3:]) == {"response_body"}


def test_a_body_over_the_buffer_is_a_413_that_never_leaves(
    run_envoy: StartEnvoy,
    processors: Callable[..., Processor],
    upstream: HostedApp,
    provider: Provider,
) -> None:
    envoy = run_envoy(attach(upstream, processors()))
    replies = "stream_msgs_received"

    def body() -> Iterator[bytes]:
        yield b"x"
        # The rest only after the processor has asked for whole bodies: Envoy stops reading at the
        # limit while it waits for the reply to the headers, and never looks at the length again.
        eventually(lambda: envoy.stats(replies), lambda found: any(found.values()))
        yield b"x" * (BUFFER_LIMIT + 2**20)

    answer = httpx.post(f"{envoy.url}/v1/chat/completions", content=body(), trust_env=False)
    assert_gateways_own(answer, 413)
    assert provider.seen == []


def test_our_metadata_reaches_the_access_log(
    run_envoy: StartEnvoy, processors: Callable[..., Processor], upstream: HostedApp
) -> None:
    envoy = run_envoy(attach(upstream, processors()))
    httpx.get(f"{envoy.url}/v1//models/../models?secret=1", trust_env=False)
    (line,) = eventually(envoy.access_log, bool)
    assert line["sentinel"] == {"user": "ada"}
    assert line["path"] == "/v1/models"
    assert line["status"] == 200


def test_requests_spread_over_one_socket_per_worker(
    run_envoy: StartEnvoy, processors: Callable[..., Processor], upstream: HostedApp
) -> None:
    running = [processors(0), processors(1)]
    envoy = run_envoy(attach(upstream, *running))
    with httpx.Client(base_url=envoy.url, trust_env=False) as client:
        for _ in range(60):
            assert client.get("/v1/models").status_code == 200
    assert sum(processor.streams for processor in running) == 60
    assert min(processor.streams for processor in running) >= 10


def test_without_a_sidecar_nothing_gets_through(
    run_envoy: StartEnvoy, work_dir: Path, upstream: HostedApp, provider: Provider
) -> None:
    envoy = run_envoy(attach(upstream, work_dir / "nobody.sock", health_check_interval_s=1))
    answer = httpx.post(f"{envoy.url}/v1/chat/completions", json={}, trust_env=False)
    assert_gateways_own(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert provider.seen == []


def test_a_silent_sidecar_is_a_504_and_nothing_gets_through(
    run_envoy: StartEnvoy,
    processors: Callable[..., Processor],
    upstream: HostedApp,
    provider: Provider,
) -> None:
    envoy = run_envoy(attach(upstream, processors(answer=lambda _: None), message_timeout_s=0.1))
    answer = httpx.post(f"{envoy.url}/v1/chat/completions", json={}, trust_env=False)
    assert_gateways_own(answer, 504)
    assert provider.seen == []


@pytest.mark.parametrize(
    "error",
    [
        PayloadTooLarge("Ours: 100 % of it.", details={"limit": 1}),
        Unavailable("Ours.", retry_after_s=7),
        Unauthenticated("Ours."),
        LimitExceeded("Ours.", retry_after_s=3, headers={"x-ratelimit-limit": "5"}),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("kind", ["request_headers", "request_body", "response_headers"])
def test_our_own_errors_pass_byte_for_byte(
    run_envoy: StartEnvoy,
    processors: Callable[..., Processor],
    upstream: HostedApp,
    error: SentinelError,
    kind: str,
) -> None:
    refusal = pb.ProcessingResponse.FromString(encode(Respond(error, error.body())))

    def refuse(request: pb.ProcessingRequest) -> pb.ProcessingResponse:
        return refusal if request.HasField(kind) else go_on(request)  # type: ignore[arg-type]

    envoy = run_envoy(attach(upstream, processors(answer=refuse)))
    answer = httpx.post(f"{envoy.url}/v1/chat/completions", content=b"{}", trust_env=False)
    assert answer.status_code == error.status
    assert answer.content == error.body()
    ours = error.headers()
    assert {name: answer.headers.get_list(name) for name in ours} == {
        name: [value] for name, value in ours.items()
    }
    assert "retry-after" in ours or "retry-after" not in answer.headers


def test_the_providers_own_errors_are_not_rewritten(
    run_envoy: StartEnvoy, processors: Callable[..., Processor]
) -> None:
    async def fail(request: Request) -> Response:
        return Response(b"theirs", int(request.url.path.rpartition("/")[2]))

    app = Starlette(routes=[Route("/{rest:path}", fail)])
    with serve_app(app, name="provider") as hosted:
        envoy = run_envoy(attach(hosted, processors()))
        for status in (413, 503, 504):
            answer = httpx.get(f"{envoy.url}/v1/{status}", trust_env=False)
            assert (answer.status_code, answer.content) == (status, b"theirs")


def test_a_provider_that_cannot_be_reached_is_a_503_in_the_providers_shape(
    run_envoy: StartEnvoy, processors: Callable[..., Processor], upstream: HostedApp
) -> None:
    envoy = run_envoy(attach(upstream, processors(), provider_port=free_port()))
    assert_gateways_own(httpx.get(f"{envoy.url}/v1/models", trust_env=False), 503)


def test_a_wrong_kind_of_reply_is_a_503_and_nothing_gets_through(
    run_envoy: StartEnvoy,
    processors: Callable[..., Processor],
    upstream: HostedApp,
    provider: Provider,
) -> None:
    def wrong(_request: pb.ProcessingRequest) -> pb.ProcessingResponse:
        return pb.ProcessingResponse(response_trailers=pb.TrailersResponse())

    envoy = run_envoy(attach(upstream, processors(answer=wrong), message_timeout_s=0.5))
    answer = httpx.post(f"{envoy.url}/v1/chat/completions", json={}, trust_env=False)
    assert answer.status_code in {500, 503, 504}
    assert provider.seen == []


def test_a_mode_override_spares_us_the_bodies(
    run_envoy: StartEnvoy, processors: Callable[..., Processor], upstream: HostedApp
) -> None:
    def headers_only(request: pb.ProcessingRequest) -> pb.ProcessingResponse:
        response = go_on(request)
        if request.HasField("request_headers"):
            skip = pb.ProcessingMode(response_header_mode=pb.ProcessingMode.SKIP)
            response.mode_override.CopyFrom(skip)
        return response

    processor = processors(answer=headers_only)
    envoy = run_envoy(attach(upstream, processor))
    answer = httpx.post(f"{envoy.url}/v1/models", content=b"abc", trust_env=False)
    assert answer.json()["bytes"] == 3
    assert processor.kinds == ["request_headers"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return key, cert


@pytest.fixture
def tls_port(provider: Provider, certificate: tuple[Path, Path]) -> Iterator[int]:
    key, cert = certificate
    port = free_port()
    config = server_config(provider.app, port=port)
    config.ssl_keyfile, config.ssl_certfile = str(key), str(cert)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started, bool)
    yield port
    server.should_exit = True
    thread.join(10)


def test_tls_to_the_provider_holds_the_name(
    run_envoy: StartEnvoy,
    processors: Callable[..., Processor],
    provider: Provider,
    certificate: tuple[Path, Path],
    tls_port: int,
) -> None:
    processor = processors()
    shared: dict[str, Any] = {
        "processors": [f"unix:{processor.socket}"],
        "provider_port": tls_port,
        "provider_ca_file": str(certificate[1]),
        "listener_address": "127.0.0.1",
        "listener_port": 0,
        "health_check_interval_s": 0,
    }
    good = run_envoy(static_bootstrap(provider_host="localhost", **shared))
    assert httpx.get(f"{good.url}/v1/models", trust_env=False).status_code == 200
    good.stop()
    # The same server and authority, but reached under a name that its certificate isn't for.
    bad = run_envoy(static_bootstrap(provider_host="127.0.0.1", **shared))
    refused = httpx.get(f"{bad.url}/v1/models", trust_env=False)
    assert refused.status_code == 503
    assert bad.stats("fail_verify_san") == {"cluster.provider.ssl.fail_verify_san": 1}
    assert len(provider.seen) == 1
