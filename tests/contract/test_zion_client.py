"""The client against a server that answers what each test scripts, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from sentinel_extproc.demo.zion_standin import ZionStandIn, ZionUser
from sentinel_extproc.errors import Forbidden, SentinelError, Unauthenticated
from sentinel_extproc.zion.answers import BatchRefusedError, Reason, ZionUnavailable
from sentinel_extproc.zion.batches import RowOutcome, UsageIncrement
from sentinel_extproc.zion.breaker import Breaker, BreakerPolicy, State
from sentinel_extproc.zion.client import MAX_ANSWER_BYTES, ZionClient
from sentinel_extproc.zion.wire import Dialect

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]

PROFILE = {"id": "u1", "email": "a@example.org", "externalId": "ext-1", "emailVerified": True}


@dataclass
class Server:
    """Every request it got, and the scripts of the answers to come; the last one stays."""

    port: int = 0
    scripts: list[Script] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append((lines[0], headers, body))
                self.asked.set()
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                await script(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await server.serve(reader, writer)
        except asyncio.CancelledError:
            writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


def answer(status: int, body: bytes = b"", **headers: str) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        fields = {"content-length": str(len(body)), **headers}
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
        writer.write(f"HTTP/1.1 {status} X\r\n{''.join(lines)}\r\n".encode() + body)

    return script


def ok(data: object) -> Script:
    return answer(200, json.dumps({"success": True, "data": data}).encode())


async def hang(_writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def trickle(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def drop(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def cut(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"succ')
    await writer.drain()
    writer.close()


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        await writer.drain()


async def garbage(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x15\x03\x01 not http\r\n\r\n")


@asynccontextmanager
async def client_of(server: Server, **options: Any) -> AsyncIterator[ZionClient]:
    client = ZionClient(
        **{"base_url": f"http://127.0.0.1:{server.port}", "api_key": "our-key", **options}
    )
    try:
        yield client
    finally:
        await client.aclose()


INCREMENT = UsageIncrement("k1", "ext-1", "a@example.org", "gpt-4o", 10, 5, 1, 1_767_225_600_000)


async def test_whether_it_is_there_is_asked_without_a_key_and_any_answer_will_do() -> None:
    async with running(Server(scripts=[answer(404)])) as server, client_of(server) as client:
        assert await client.reach(5.0) == ""
    line, headers, body = server.requests[0]
    assert (line, body) == ("HEAD / HTTP/1.1", b"")
    assert not {"authorization", "x-api-key"} & headers.keys()


async def test_whether_it_is_there_is_not_waited_for_and_leaves_the_breakers_alone() -> None:
    breakers = {"lookup_breaker": Breaker(), "report_breaker": Breaker()}
    server = Server(scripts=[hang])
    async with running(server), client_of(server, **breakers) as client:
        assert await client.reach(0.05)
    async with client_of(server, **breakers) as client:  # nobody listens there any more
        for _ in range(20):
            assert "Error" in await client.reach(5.0)
        assert client.lookup_state is client.report_state is State.CLOSED


async def test_whoami_sends_the_users_token_and_not_our_key() -> None:
    async with running(Server(scripts=[ok(PROFILE)])) as server, client_of(server) as client:
        profile = await client.whoami("user-token")
    assert profile.external_id == "ext-1"
    line, headers, _ = server.requests[0]
    assert line == "GET /api/v1/users/me HTTP/1.1"
    assert headers["authorization"] == "bearer user-token"
    assert "x-api-key" not in headers
    assert headers["accept-encoding"] == "identity"


async def test_limits_sends_our_key_and_escapes_the_id() -> None:
    data = {"userId": "u1", "externalId": "a/b?c", "limits": []}
    async with running(Server(scripts=[ok(data)])) as server, client_of(server) as client:
        limits = await client.limits("a/b?c")
    assert limits.user_id == "u1"
    line, headers, _ = server.requests[0]
    assert line == "GET /api/v1/limits/external/a%2Fb%3Fc HTTP/1.1"
    assert headers["x-api-key"] == "our-key"
    assert "authorization" not in headers


async def test_a_path_in_the_base_url_is_kept() -> None:
    async with running(Server(scripts=[ok(PROFILE)])) as server:
        base = f"http://127.0.0.1:{server.port}/zion/"
        async with client_of(server, base_url=base) as client:
            await client.whoami("t")
    assert server.requests[0][0] == "GET /zion/api/v1/users/me HTTP/1.1"


async def test_report_carries_both_kinds_of_keys() -> None:
    rows = {"processed": 1, "failed": 0, "results": [{"email": "a@example.org", "success": True}]}
    async with running(Server(scripts=[ok(rows)])) as server, client_of(server) as client:
        results = await client.report([INCREMENT], "batch-1")
    assert [result.outcome for result in results] == [RowOutcome.RECORDED]
    line, headers, body = server.requests[0]
    assert line == "POST /api/v1/usage/external/batch-increment HTTP/1.1"
    assert headers["idempotency-key"] == "batch-1"
    assert json.loads(body)["increments"][0]["idempotencyKey"] == "k1"


@pytest.mark.parametrize(
    ("script", "kind", "code"),
    [
        (answer(401, b'{"success":false}'), Unauthenticated, "invalid_api_key"),
        (answer(401), Unauthenticated, "invalid_api_key"),
        (answer(403), Forbidden, "forbidden"),
        (answer(429, retry_after="9"), ZionUnavailable, "identity_unavailable"),
        (answer(500, b"x" * 1000), ZionUnavailable, "identity_unavailable"),
        (answer(503), ZionUnavailable, "identity_unavailable"),
        (answer(302, location="http://127.0.0.1:1/"), ZionUnavailable, "identity_unavailable"),
        (answer(204), ZionUnavailable, "identity_unavailable"),
    ],
)
async def test_status_of_whoami(script: Script, kind: type[SentinelError], code: str) -> None:
    async with running(Server(scripts=[script])) as server, client_of(server) as client:
        with pytest.raises(kind) as caught:
            await client.whoami("t")
    assert caught.value.code == code
    assert len(server.requests) == 1


async def test_a_refusal_of_our_own_key_is_told_until_zion_takes_it() -> None:
    scripts = [answer(401), answer(401), answer(500), ok(PROFILE), answer(404)]
    asks = ["whoami", "limits", "limits", "whoami", "limits"]
    told = []
    async with running(Server(scripts=scripts)) as server, client_of(server) as client:
        for ask in asks:
            with contextlib.suppress(SentinelError):
                await getattr(client, ask)("x")
            told.append(client.own_key_refused)
    # The first was about the user's token.
    assert told == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (hang, Reason.TIMEOUT),
        (trickle, Reason.TIMEOUT),
        (drop, Reason.BROKEN),
        (cut, Reason.BROKEN),
        (garbage, Reason.BROKEN),
        (endless, Reason.OVERSIZED),
        (answer(200, b"not json"), Reason.MALFORMED),
        (answer(200, b"\x1f\x8b", content_encoding="gzip"), Reason.MALFORMED),
    ],
)
async def test_faults_below_and_above_http(script: Script, reason: Reason) -> None:
    async with (
        running(Server(scripts=[script])) as server,
        client_of(server, deadline_s=0.3, report_deadline_s=0.3) as client,
    ):
        with pytest.raises(ZionUnavailable) as caught:
            await client.whoami("t")
        assert caught.value.reason is reason
        assert not caught.value.ambiguous  # asking changes nothing
        with pytest.raises(ZionUnavailable) as caught:
            await client.report([INCREMENT], "b")
    assert caught.value.reason is reason
    assert caught.value.ambiguous
    assert caught.value.status == 503


async def test_the_cap_on_a_profile_is_exact() -> None:
    padded = json.dumps({"success": True, "data": PROFILE}).encode()
    padded += b" " * (MAX_ANSWER_BYTES - len(padded))
    scripts = [answer(200, padded), answer(200, padded + b" ")]
    async with running(Server(scripts=scripts)) as server, client_of(server) as client:
        assert (await client.whoami("t")).id == "u1"
        with pytest.raises(ZionUnavailable) as caught:
            await client.whoami("t")
    assert caught.value.reason is Reason.OVERSIZED


async def test_nobody_listening_is_not_ambiguous() -> None:
    async with running(Server(scripts=[drop])) as server:
        pass
    async with client_of(server) as client:
        with pytest.raises(ZionUnavailable) as caught:
            await client.report([INCREMENT], "b")
    assert caught.value.reason is Reason.CONNECT
    assert not caught.value.ambiguous


async def test_a_connection_that_never_comes_up_is_not_ambiguous() -> None:
    async with (
        running(Server(scripts=[hang])) as server,  # accepts, and never speaks TLS
        client_of(
            server, base_url=f"https://127.0.0.1:{server.port}", report_deadline_s=0.3
        ) as client,
    ):
        with pytest.raises(ZionUnavailable) as caught:
            await client.report([INCREMENT], "b")
    assert not caught.value.ambiguous


async def test_the_connection_is_kept_whatever_the_status() -> None:
    scripts = [ok(PROFILE), answer(401, b"{}"), answer(500, b"oops"), ok(PROFILE)]
    async with running(Server(scripts=scripts)) as server, client_of(server) as client:
        for _ in range(4):
            try:
                await client.whoami("t")
            except SentinelError:
                continue
    assert len(server.requests) == 4
    assert server.connections == 1


async def test_a_dropped_question_is_asked_again_and_a_report_is_not() -> None:
    async with (
        running(Server(scripts=[drop, ok(PROFILE)])) as server,
        client_of(server) as client,
    ):
        assert (await client.whoami("t")).id == "u1"
        server.scripts = [drop]
        seen = len(server.requests)
        with pytest.raises(ZionUnavailable):
            await client.report([INCREMENT], "b")
        assert len(server.requests) == seen + 1


async def test_retries_stay_within_their_budget() -> None:
    never = Breaker(BreakerPolicy(min_calls=10_000))
    async with (
        running(Server(scripts=[drop])) as server,
        client_of(server, lookup_breaker=never) as client,
    ):
        for _ in range(100):
            with pytest.raises(ZionUnavailable):
                await client.whoami("t")
    # 100 calls, a reserve of 10 retries, and a tenth of the calls.
    assert 110 <= len(server.requests) <= 121


async def test_breaker_opens_on_failures_and_not_on_429() -> None:
    now = 0.0
    async with (
        running(Server(scripts=[answer(429)])) as server,
        client_of(server, clock=lambda: now) as client,
    ):
        for _ in range(40):
            with pytest.raises(ZionUnavailable):
                await client.whoami("t")
        assert str(client.lookup_state) == "closed"
        server.scripts = [answer(500)]
        for _ in range(20):
            with pytest.raises(ZionUnavailable):
                await client.whoami("t")
        assert str(client.lookup_state) == "open"
        seen = len(server.requests)
        with pytest.raises(ZionUnavailable) as caught:
            await client.whoami("t")
        assert caught.value.reason is Reason.BREAKER_OPEN
        assert caught.value.retry_after_s == 5.0
        assert len(server.requests) == seen
        assert client.report_state is State.CLOSED
        server.scripts = [ok(PROFILE)]
        now = 5.0
        await client.whoami("t")
        assert str(client.lookup_state) == "closed"


async def test_denials_are_a_sign_of_health() -> None:
    async with running(Server(scripts=[answer(401)])) as server, client_of(server) as client:
        for _ in range(40):
            with pytest.raises(Unauthenticated):
                await client.whoami("t")
        assert client.lookup_state is State.CLOSED


async def test_a_cancelled_probe_is_given_back() -> None:
    now = 0.0
    breaker = Breaker(BreakerPolicy(min_calls=1))
    async with (
        running(Server(scripts=[answer(500), hang, ok(PROFILE)])) as server,
        client_of(server, clock=lambda: now, lookup_breaker=breaker) as client,
    ):
        with pytest.raises(ZionUnavailable):
            await client.whoami("t")
        now = 5.0
        server.asked.clear()
        probe = asyncio.create_task(client.whoami("t"))
        async with asyncio.timeout(5):
            await server.asked.wait()
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert (await client.whoami("t")).id == "u1"


@pytest.mark.parametrize("status", [400, 413])
async def test_a_batch_refused_whole(status: int) -> None:
    async with running(Server(scripts=[answer(status)])) as server, client_of(server) as client:
        with pytest.raises(BatchRefusedError) as caught:
            await client.report([INCREMENT], "b")
        assert caught.value.status == status
        with pytest.raises(BatchRefusedError):
            await client.report([INCREMENT] * 1001, "b")
    assert len(server.requests) == 1


async def test_what_can_not_be_a_token_or_an_id_is_not_sent() -> None:
    async with running(Server(scripts=[ok(PROFILE)])) as server, client_of(server) as client:
        for token in ("", "a b", "a\r\nx-api-key: b", "ä"):
            with pytest.raises(Unauthenticated):
                await client.whoami(token)
        for external_id in ("", ".", ".."):
            with pytest.raises(Forbidden):
                await client.limits(external_id)
    assert server.requests == []


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": ""},
        {"base_url": "zion:3000"},
        {"base_url": "ftp://zion"},
        {"base_url": "http://"},
        {"base_url": "http://user:secret@zion"},
        {"base_url": "http://zion/?a=b"},
        {"api_key": ""},
        {"api_key": "a\nb"},
        {"ca_file": Path("missing.pem")},
        {"client_cert_file": Path("missing.pem")},
        {"client_cert_file": Path("missing.pem"), "client_key_file": Path("missing.key")},
    ],
)
def test_unusable_settings_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"URL|key|CA file|certificate"):
        ZionClient(**{"base_url": "http://zion", "api_key": "k", **options})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=zion"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem"


async def test_tls_is_verified_against_the_given_ca(certificate: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, certificate.with_name("key.pem"))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(certificate)
    async with running(Server(scripts=[ok(PROFILE)]), tls) as server:
        base = f"https://127.0.0.1:{server.port}"
        async with client_of(server, base_url=base) as client:
            with pytest.raises(ZionUnavailable) as caught:
                await client.whoami("t")
            assert "CERTIFICATE_VERIFY_FAILED" in caught.value.detail
        assert server.requests == []
        async with client_of(
            server,
            base_url=base,
            ca_file=certificate,
            client_cert_file=certificate,
            client_key_file=certificate.with_name("key.pem"),
        ) as client:
            assert (await client.whoami("t")).id == "u1"


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_the_stand_in_and_the_client_agree(dialect: Dialect) -> None:
    user = ZionUser(id="u1", token="t1", email="a@example.org", external_id="ext-1")
    standin = ZionStandIn(api_key="our-key", users=[user], dialect=dialect.value)
    transport = httpx.ASGITransport(app=standin.app)
    client = ZionClient(
        base_url="http://zion", api_key="our-key", dialect=dialect, transport=transport
    )
    stranger = UsageIncrement("k2", "ext-2", "b@example.org", None, 1, 1, 1, 1_767_225_600_000)
    try:
        assert (await client.whoami("t1")).external_id == "ext-1"
        with pytest.raises(Unauthenticated):
            await client.whoami("t2")
        assert {q.metric for q in (await client.limits("ext-1")).quotas}
        with pytest.raises(Forbidden) as caught:
            await client.limits("ext-2")
        assert caught.value.code == "user_not_found"
        rows = await client.report([INCREMENT, stranger], "b1")
    finally:
        await client.aclose()
    assert [row.outcome for row in rows] == [RowOutcome.RECORDED, RowOutcome.REFUSED]
    assert sum(entry.input_tokens for entry in standin.ledger()) == 10
    assert sum(entry.output_tokens for entry in standin.ledger()) == 5
    assert sum(entry.requests for entry in standin.ledger()) == 1
