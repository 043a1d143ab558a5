"""Whatever happens to us before a decision, no unauthenticated request reaches the provider.

Our real server, in this process, with an authenticator that misbehaves in every way there is, and
the real sidecar, killed or frozen while it is deciding.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from sentinel_extproc.demo.hosting import HostedApp, serve_app
from sentinel_extproc.demo.openai_standin import OpenAIStandIn
from sentinel_extproc.demo.stack import Stack
from sentinel_extproc.demo.zion_standin import FaultKind, ZionCall
from sentinel_extproc.envoyconf.static import static_bootstrap
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Growth, Quantities, Reservation, ReserveRequest
from sentinel_extproc.telemetry.facts import Fact
from sentinel_extproc.tokens.estimator import TokenEstimator
from sentinel_extproc.transport.driver import Driver
from sentinel_extproc.transport.grpcio_server import Context, GrpcioServer
from sentinel_extproc.transport.http2.protocol import ServedCall
from sentinel_extproc.transport.http2.server import Http2Server
from sentinel_extproc.transport.server import Server
from sentinel_extproc.usage.record import Intent, UsageRecord

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
KEY = "sk-provider"

Authenticate = Callable[[str], "asyncio.Future[Principal]"]


class Misbehaving:
    """Collaborators of the driver: authentication does as it is told, the rest says yes."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.context: Context | None = None
        self.asked = threading.Event()

    async def authenticate(self, token: str) -> Principal:
        self.asked.set()
        match self.way:
            case "raises":
                raise RuntimeError("bug")
            case "raises a base exception":
                raise BaseException("worse bug")  # noqa: TRY002
            case "hangs":
                await asyncio.sleep(3600)
            case "cancels itself":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
        return Principal("ext", "id", "mail@example.com")

    async def recheck(self, token: str) -> Principal:
        return await self.authenticate(token)

    async def reserve(self, request: ReserveRequest) -> Reservation:
        if self.way == "reserve raises":
            raise RuntimeError("bug")
        return Reservation(request, request.predicted)

    async def grow(self, reservation: Reservation, counted: Quantities) -> Growth:
        return Growth.GROWN

    async def settle(self, reservation: Reservation, actual: Quantities) -> None: ...

    def check_room(self) -> None: ...

    def begin(self, intent: Intent) -> None: ...

    async def abandon(self, exchange_id: str) -> None: ...

    async def append(self, record: UsageRecord) -> None: ...


class ClosingGrpcioServer(GrpcioServer):
    """Its handler returns without a word: what the driver never does."""

    async def _process(self, _: AsyncIterator[bytes], context: Context) -> None:
        await context.read()


class ClosingHttp2Server(Http2Server):
    """As the other."""

    async def _process(self, call: ServedCall) -> None:
        await call.read()


Servers = type[GrpcioServer] | type[Http2Server]


@contextmanager
def serving(
    way: str, socket_path: Path, *, server_type: Servers = Http2Server
) -> Iterator[Misbehaving]:
    """Our server on ``socket_path``, in a thread and event loop of its own."""
    parts = Misbehaving(way)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    facts: list[Fact] = []

    def new_exchange(exchange_id: str, started_at_ms: int) -> Exchange:
        return Exchange(
            exchange_id=exchange_id,
            started_at_ms=started_at_ms,
            choose=only(Upstream((("authorization", f"Bearer {KEY}".encode()),))),
            counters=TokenEstimator().output_counter,
        )

    async def start() -> Server:
        driver = Driver(
            new_exchange=new_exchange,
            authenticator=parts,
            estimator=TokenEstimator(),
            limiter=parts,
            ledger=parts,
            pool=ThreadPoolExecutor(1),
            emit=facts.append,
            decision_timeout_s=60.0 if way == "hangs" else 1.0,
        )
        server = server_type(driver, listen=f"unix:{socket_path}")
        await server.start()
        return server

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    try:
        yield parts
    finally:
        asyncio.run_coroutine_threadsafe(server.drain(grace_s=0, hand_back_s=0), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


@pytest.fixture
def provider() -> OpenAIStandIn:
    return OpenAIStandIn(provider_key=KEY)


@pytest.fixture
def hosted(provider: OpenAIStandIn) -> Iterator[HostedApp]:
    with serve_app(provider.app, name="provider") as app:
        yield app


def post(url: str, token: str = "some-token") -> httpx.Response:
    return httpx.post(
        f"{url}/v1/chat/completions",
        json=CHAT,
        headers={"authorization": f"Bearer {token}"},
        trust_env=False,
        timeout=30,
    )


@pytest.mark.parametrize("server_type", [GrpcioServer, Http2Server])
@pytest.mark.parametrize(
    "way", ["raises", "raises a base exception", "hangs", "cancels itself", "reserve raises"]
)
def test_a_misbehaving_part_lets_nothing_through(
    way: str,
    server_type: Servers,
    work_dir: Path,
    provider: OpenAIStandIn,
    hosted: HostedApp,
    run_envoy: Callable[..., object],
) -> None:
    with serving(way, work_dir / "p.sock", server_type=server_type):
        envoy = run_envoy(
            static_bootstrap(
                processors=[f"unix:{work_dir / 'p.sock'}"],
                provider_host="127.0.0.1",
                provider_port=hosted.port,
                provider_tls=False,
                listener_address="127.0.0.1",
                listener_port=0,
                message_timeout_s=1.5,
            )
        )
        answer = post(envoy.url)  # type: ignore[attr-defined]
    assert answer.status_code in (503, 504)
    assert provider.requests() == []


@pytest.mark.parametrize("server_type", [ClosingGrpcioServer, ClosingHttp2Server])
def test_this_would_notice_a_request_that_slips_through(
    server_type: Servers,
    work_dir: Path,
    provider: OpenAIStandIn,
    hosted: HostedApp,
    run_envoy: Callable[..., object],
) -> None:
    # A clean end without a reply is what Envoy takes for consent: the reason for all the care.
    with serving("", work_dir / "p.sock", server_type=server_type):
        envoy = run_envoy(
            static_bootstrap(
                processors=[f"unix:{work_dir / 'p.sock'}"],
                provider_host="127.0.0.1",
                provider_port=hosted.port,
                provider_tls=False,
                listener_address="127.0.0.1",
                listener_port=0,
            )
        )
        post(envoy.url)  # type: ignore[attr-defined]
    assert len(provider.requests()) == 1


@pytest.mark.parametrize("way", ["killed", "frozen", "stopped"])
def test_a_sidecar_that_dies_while_deciding_lets_nothing_through(
    way: str, run_stack: Callable[..., Stack]
) -> None:
    stack = run_stack(settings={"SENTINEL_SERVER__DRAIN_SECONDS": "0"})
    assert stack.zion is not None
    assert stack.openai is not None
    stack.zion.set_fault(ZionCall.ME, FaultKind.HANG)
    pid = stack.sidecar.process.pid
    assert pid is not None
    with ThreadPoolExecutor(8) as pool:
        waiting: list[Future[httpx.Response]] = [
            pool.submit(post, stack.url, f"unknown-{n}") for n in range(8)
        ]
        end = time.monotonic() + 20
        while len(stack.zion.requests()) < 4:
            assert time.monotonic() < end
            time.sleep(0.01)
        match way:
            case "killed":
                os.kill(pid, signal.SIGKILL)
            case "frozen":
                os.kill(pid, signal.SIGSTOP)
            case "stopped":
                os.kill(pid, signal.SIGTERM)
        answers = [call.result(60) for call in waiting]
    after = post(stack.url, "unknown-after")
    if way == "frozen":
        os.kill(pid, signal.SIGCONT)
    assert {answer.status_code for answer in answers} <= {401, 503, 504}
    assert after.status_code in (503, 504)
    assert stack.openai.requests() == []
