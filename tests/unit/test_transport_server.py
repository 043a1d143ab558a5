"""The gRPC server on a real socket: health, bounds, permissions and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hpack import Encoder

from sentinel_extproc.demo.certificates import Authority
from sentinel_extproc.transport.codec import METHOD
from sentinel_extproc.transport.grpcio_server import GrpcioServer
from sentinel_extproc.transport.http2 import frames as h2
from sentinel_extproc.transport.http2 import server as http2_server
from sentinel_extproc.transport.http2.server import Http2Server
from sentinel_extproc.transport.served import Stream
from sentinel_extproc.transport.server import Server, ServerError, ServerTls

PATH = f"/{METHOD[0]}/{METHOD[1]}"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
SERVING = health_pb2.HealthCheckResponse.SERVING


class Echo:
    """In place of the driver: gives every message back."""

    def __init__(self) -> None:
        self.live = 0
        self.handed_back = asyncio.Event()
        self.hopeless = False

    def is_hopeless(self, stream: Stream) -> bool:
        assert stream.came_s > 0
        return self.hopeless

    async def run(self, stream: Stream) -> None:
        self.live += 1
        try:
            while (data := await stream.read()) is not None:
                await stream.write(data)
                if self.handed_back.is_set():
                    return
        finally:
            self.live -= 1

    def logged(self, exchange_id: str, body_bytes: int) -> None:
        """Nobody asked for it."""

    def hand_back(self) -> None:
        self.handed_back.set()


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    """Kind, flags, stream and payload of what the server says next."""
    top = await reader.readexactly(h2.FRAME_HEAD_BYTES)
    payload = await reader.readexactly(int.from_bytes(top[:3]))
    return top[3], top[4], int.from_bytes(top[5:]), payload


Servers = type[GrpcioServer] | type[Http2Server]


@pytest.fixture(params=[GrpcioServer, Http2Server])
def kind(request: pytest.FixtureRequest) -> Servers:
    return cast("Servers", request.param)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sx-srv-") as path:
        yield Path(path)


@asynccontextmanager
async def serving(
    kind: Servers, listen: str, echo: Echo, **options: object
) -> AsyncIterator[Server]:
    server = kind(echo, listen=listen, **options)  # type: ignore[arg-type]
    await server.start()
    try:
        yield server
    finally:
        await server.drain(grace_s=0, hand_back_s=0)


@asynccontextmanager
async def channel(listen: str) -> AsyncIterator[grpc.aio.Channel]:
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_http_proxy", 0),
    ]
    async with grpc.aio.insecure_channel(listen, options=options) as open_channel:
        yield open_channel


def open_stream(
    client: grpc.aio.Channel, path: str = PATH
) -> grpc.aio.StreamStreamCall[bytes, bytes]:
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = client.stream_stream(path)
    return method()


async def health(open_channel: grpc.aio.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(open_channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    return int(answer.status)


async def test_it_serves_and_says_so_on_its_socket(kind: Servers, folder: Path) -> None:
    listen = f"unix:{folder / 'deeper' / 's.sock'}"
    async with serving(kind, listen, Echo(), socket_mode=0o600), channel(listen) as client:
        for service in ("", METHOD[0]):
            assert await health(client, service) == SERVING
        call = open_stream(client)
        await call.write(b"x" * (5 << 20))
        assert await call.read() == b"x" * (5 << 20), "more than grpcio's own 4 MiB"
        await call.done_writing()
        mode = (folder / "deeper" / "s.sock").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
    assert not (folder / "deeper" / "s.sock").exists()


async def test_a_streams_own_headers_can_be_read(kind: Servers, folder: Path) -> None:
    class Tells(Echo):
        async def run(self, stream: Stream) -> None:
            for name in ("traceparent", "tracestate"):
                await stream.write(stream.header(name))

    listen = f"unix:{folder / 's.sock'}"
    async with serving(kind, listen, Tells()), channel(listen) as client:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = client.stream_stream(PATH)
        call = method(metadata=grpc.aio.Metadata(("traceparent", "00-ab")))
        assert await call.read() == b"00-ab"
        assert await call.read() == b""


async def test_a_message_over_the_bound_is_refused(kind: Servers, folder: Path) -> None:
    listen = f"unix:{folder / 's.sock'}"
    async with serving(kind, listen, Echo(), max_message_bytes=1000), channel(listen) as client:
        call = open_stream(client)
        with contextlib.suppress(grpc.aio.AioRpcError):  # refused before it is told of the write
            await call.write(b"x" * 2000)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_streams_are_bounded_and_health_checks_are_none(kind: Servers, folder: Path) -> None:
    listen = f"unix:{folder / 's.sock'}"
    async with serving(kind, listen, Echo(), max_streams=1), channel(listen) as client:
        first = open_stream(client)
        await first.write(b"a")
        assert await first.read() == b"a"
        second = open_stream(client)
        assert await second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await health(client) == SERVING
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF


@pytest.mark.parametrize("on", [False, True])
async def test_reflection_is_off_unless_asked_for(folder: Path, on: bool) -> None:
    listen = f"unix:{folder / 's.sock'}"
    async with serving(GrpcioServer, listen, Echo(), reflection=on), channel(listen) as client:
        call = open_stream(client, REFLECTION)
        with contextlib.suppress(grpc.aio.AioRpcError):  # refused before all of it is out
            await call.write(b"\x3a\x00")  # list_services
        if on:
            assert b"grpc.health.v1.Health" in cast("bytes", await call.read())
        else:
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_draining_hands_back_what_does_not_end(kind: Servers, folder: Path) -> None:
    listen = f"unix:{folder / 's.sock'}"
    echo = Echo()
    async with serving(kind, listen, echo) as server, channel(listen) as client:
        call = open_stream(client)
        await call.write(b"a")
        assert await call.read() == b"a"
        draining = asyncio.create_task(server.drain(grace_s=0.05, hand_back_s=20))
        await echo.handed_back.wait()
        await call.write(b"b")
        assert await call.read() == b"b"
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK, "so that the rest flows"
        await draining


async def test_what_was_on_its_way_when_draining_began_is_served(folder: Path) -> None:
    head = Encoder().encode(
        [(":method", "POST"), (":path", PATH), ("content-type", "application/grpc")]
    )
    late = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, head)
    late += h2.frame(h2.DATA, h2.END_STREAM, 1, b"\0\0\0\0\4late")
    async with serving(Http2Server, f"unix:{folder / 's.sock'}", Echo()) as server:
        reader, writer = await asyncio.open_unix_connection(str(folder / "s.sock"))
        writer.write(h2.PREFACE + h2.settings({}))
        while (await read_frame(reader))[:2] != (h2.SETTINGS, h2.ACK):
            pass
        writer.write(late)  # sent, but the server has yet to read it
        draining = asyncio.create_task(server.drain(grace_s=20, hand_back_s=0))
        said = []
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                said.append(await read_frame(reader))
                kind, flags, _, payload = said[-1]
                if kind == h2.PING and not flags & h2.ACK:
                    writer.write(h2.ping(payload, ack=True))
        await draining
        writer.close()
    echoed = [payload for kind, _, stream, payload in said if (kind, stream) == (h2.DATA, 1)]
    assert echoed == [b"\0\0\0\0\4late"], "neither reset nor refused"


async def test_a_peer_that_answers_nothing_does_not_hold_up_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2_server, "_PARTING_S", 0.01)
    async with serving(Http2Server, f"unix:{folder / 's.sock'}", Echo()) as server:
        reader, writer = await asyncio.open_unix_connection(str(folder / "s.sock"))
        await reader.read(1)  # it is known to the server
        async with asyncio.timeout(10):
            await server.drain(grace_s=600, hand_back_s=600)
        writer.close()


async def test_a_socket_left_behind_is_replaced_but_not_a_living_one(
    kind: Servers, folder: Path
) -> None:
    listen = f"unix:{folder / 's.sock'}"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(folder / "s.sock"))
    left.close()
    async with serving(kind, listen, Echo()):
        second = kind(Echo(), listen=listen)
        with pytest.raises(ServerError, match="another process"):
            await second.start()
        async with channel(listen) as client:
            assert await health(client) == SERVING


async def test_a_port_that_is_taken_is_a_clear_error(kind: Servers) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = kind(Echo(), listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ServerError, match="can't listen"):
            await server.start()


def credentials(authority: Authority, client: Authority | None) -> grpc.ChannelCredentials:
    own = None if client is None else client.issue("envoy")
    return grpc.ssl_channel_credentials(
        authority.file.read_bytes(),
        None if own is None else own.key.read_bytes(),
        None if own is None else own.certificate.read_bytes(),
    )


async def test_over_tls_only_known_clients_are_served(kind: Servers, folder: Path) -> None:
    authority, stranger = Authority(folder, "ours"), Authority(folder, "theirs")
    issued = authority.issue("sidecar")
    tls = ServerTls(str(issued.certificate), str(issued.key), str(authority.file))
    async with serving(kind, "127.0.0.1:0", Echo(), tls=tls) as server:
        address = f"127.0.0.1:{server.port}"
        async with grpc.aio.secure_channel(address, credentials(authority, authority)) as client:
            call = open_stream(client)
            await call.write(b"x" * 100_000)
            assert await call.read() == b"x" * 100_000
            assert await health(client) == SERVING
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        for own in (None, stranger):
            async with grpc.aio.secure_channel(address, credentials(authority, own)) as client:
                assert await open_stream(client).code() is grpc.StatusCode.UNAVAILABLE


async def test_files_that_are_no_certificates_are_a_clear_error(folder: Path) -> None:
    broken = folder / "broken.pem"
    for written in (None, b"nonsense"):
        if written is not None:
            broken.write_bytes(written)
        tls = ServerTls(str(broken), str(broken))
        server = Http2Server(Echo(), listen="127.0.0.1:0", tls=tls)
        with pytest.raises(ServerError):
            await server.start()
