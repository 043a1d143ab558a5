"""The asyncio edge on a real socket, with grpcio as the client."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hpack import Encoder

from sentinel_extproc.transport.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    ErrorCode,
    frame,
    goaway,
    ping,
    settings,
)
from sentinel_extproc.transport.http2.head import Status
from sentinel_extproc.transport.http2.health import Health
from sentinel_extproc.transport.http2.live import Connections
from sentinel_extproc.transport.http2.protocol import Abort, Bounds, Http2Protocol, ServedCall

GRPC = b"application/grpc"
ANSWER = health_pb2.HealthCheckResponse


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sx-h2-") as folder:
        yield str(Path(folder) / "s.sock")


@asynccontextmanager
async def serving(
    path: str,
    *methods: Callable[[ServedCall], Awaitable[None]],
    bounds: Bounds = Bounds(max_streams=10, max_message_bytes=1 << 20),  # noqa: B008
    more: dict[bytes, Callable[[ServedCall], Awaitable[None]]] | None = None,
) -> AsyncIterator[Connections]:
    connections = Connections()
    table = {f"/x/{method.__name__}".encode(): method for method in methods} | (more or {})
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: Http2Protocol(table, bounds, connections), path)
    try:
        yield connections
    finally:
        server.close()
        for connection in tuple(connections):
            connection.close()


@asynccontextmanager
async def call(path: str, method: str) -> AsyncIterator[grpc.aio.StreamStreamCall[bytes, bytes]]:
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        multi: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            f"/x/{method}"
        )
        yield multi()


async def echo(served: ServedCall) -> None:
    while (data := await served.read()) is not None:
        await served.write(data)


async def test_a_slow_reader_is_waited_for_and_then_served(path: str) -> None:
    written = 0

    async def flood(served: ServedCall) -> None:
        nonlocal written
        await served.read()
        for _ in range(200):
            await served.write(bytes(100_000))
            written += 1

    async with serving(path, flood), call(path, "flood") as client:
        await client.write(b"go")
        first = await client.read()
        assert isinstance(first, bytes)
        assert written < 200, "more than the client's window would be our memory"
        got = 1
        while await client.read() is not grpc.aio.EOF:
            got += 1
        assert (got, await client.code()) == (200, grpc.StatusCode.OK)


async def test_a_client_that_cancels_ends_the_task(path: str) -> None:
    ended = asyncio.Event()

    async def patient(served: ServedCall) -> None:
        try:
            await served.write(b"here")
            await served.read()
        except asyncio.CancelledError:
            ended.set()
            raise

    async with serving(path, patient), call(path, "patient") as client:
        assert await client.read() == b"here"
        client.cancel()
        async with asyncio.timeout(10):
            await ended.wait()


async def test_a_lost_connection_ends_the_tasks_on_it(path: str) -> None:
    ended = asyncio.Event()

    async def patient(served: ServedCall) -> None:
        try:
            await served.write(b"here")
            await served.read()
        finally:
            ended.set()

    head = Encoder().encode(
        [(":method", "POST"), (":path", "/x/patient"), ("content-type", "application/grpc")]
    )
    async with serving(path, patient):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(PREFACE + settings({}) + frame(HEADERS, END_HEADERS, 1, head))
        await reader.readuntil(b"here")
        writer.close()
        async with asyncio.timeout(10):
            await ended.wait()


async def test_a_task_that_swallows_its_cancellation_ends_all_the_same(path: str) -> None:
    """As some libraries do, when their answer comes at the same moment."""
    read: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    async def stubborn(served: ServedCall) -> None:
        await served.write(b"here")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        read.set_result(await served.read())

    async with serving(path, stubborn), call(path, "stubborn") as client:
        assert await client.read() == b"here"
        client.cancel()
        async with asyncio.timeout(10):
            assert await read is None


async def test_a_peer_that_leaves_is_let_go_after_its_last_call(path: str) -> None:
    async with serving(path, echo):
        async with call(path, "echo") as client:
            await client.write(b"x")
            assert await client.read() == b"x"
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(PREFACE + settings({}) + goaway(0, ErrorCode.NO_ERROR))
        async with asyncio.timeout(10):
            while await reader.read(1000):
                pass
        writer.close()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Abort(Status.INVALID_ARGUMENT, "bad"), grpc.StatusCode.INVALID_ARGUMENT),
        (RuntimeError("bug"), grpc.StatusCode.INTERNAL),
        (BaseException("panic"), grpc.StatusCode.INTERNAL),
        (asyncio.CancelledError(), grpc.StatusCode.CANCELLED),
    ],
)
async def test_no_failure_ends_a_call_well(
    path: str, fault: BaseException, code: grpc.StatusCode
) -> None:
    async def failing(served: ServedCall) -> None:
        await served.read()
        raise fault

    async with serving(path, failing), call(path, "failing") as client:
        await client.write(b"x")
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            await client.read()
        assert await client.code() is code


async def test_an_unknown_method_is_told_so(path: str) -> None:
    async with serving(path, echo), call(path, "other") as client:
        assert await client.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_many_calls_at_once_keep_apart(path: str) -> None:
    async def talk(channel: grpc.aio.Channel, n: int) -> None:
        multi: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream("/x/echo")
        client = multi()
        for round_ in range(20):
            data = f"{n}:{round_}:".encode() * (n * 50)
            await client.write(data)
            assert await client.read() == data
        await client.done_writing()
        assert await client.read() is grpc.aio.EOF

    bounds = Bounds(max_streams=100, max_message_bytes=1 << 20)
    async with (
        serving(path, echo, bounds=bounds),
        grpc.aio.insecure_channel(f"unix:{path}") as channel,
    ):
        await asyncio.gather(*(talk(channel, n) for n in range(50)))


def heads(count: int, method: bytes = b"/x/echo") -> bytes:
    """The beginnings of so many calls, on the first streams."""
    lines = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method),
        (b":authority", b"x"),
        (b"content-type", GRPC),
        (b"te", b"trailers"),
    ]
    encoder = Encoder()
    return b"".join(
        frame(HEADERS, END_HEADERS, 1 + 2 * number, encoder.encode(lines))
        for number in range(count)
    )


def message(stream: int, data: bytes) -> bytes:
    return frame(DATA, 0, stream, b"\0" + len(data).to_bytes(4) + data)


async def answered(reader: asyncio.StreamReader, kind: int, stream: int) -> None:
    """Read until the server sends such a frame."""
    while True:
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3]))
        if (head[3], int.from_bytes(head[5:])) == (kind, stream):
            return


async def pinged(reader: asyncio.StreamReader, payload: bytes) -> None:
    """Read until the server pings so."""
    while True:
        head = await reader.readexactly(9)
        if (await reader.readexactly(int.from_bytes(head[:3]))) == payload and head[3] == PING:
            return


async def test_what_comes_before_the_answer_to_a_ping_is_as_old_as_the_ping(path: str) -> None:
    came: asyncio.Queue[float] = asyncio.Queue()

    async def note(served: ServedCall) -> None:
        while await served.read() is not None:
            came.put_nowait(served.came_s)

    bounds = Bounds(max_streams=100, max_message_bytes=1000)
    loop = asyncio.get_running_loop()
    async with serving(path, note, bounds=bounds), asyncio.timeout(10):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(PREFACE + settings({}) + heads(40, b"/x/note"))
        await pinged(reader, b"queue   ")
        between = loop.time()
        # Sent after the question, as it were, was on its way: nobody can say when.
        writer.write(message(1, b"x"))
        assert await came.get() <= between
        writer.write(ping(b"queue   ", ack=True))
        writer.write(message(3, b"x"))
        assert await came.get() >= between
        writer.close()


async def test_a_burst_is_handled_in_slices_and_its_queue_is_counted(path: str) -> None:
    count = 300
    behind: list[int] = []
    all_began = asyncio.Event()

    async def one(served: ServedCall) -> None:
        behind.append(served.behind)
        if len(behind) == count:
            all_began.set()
        assert await served.read() == b"x"
        if len(behind) % 2:  # others leave theirs unread
            await served.read()

    bounds = Bounds(max_streams=count, max_message_bytes=1000)
    async with serving(path, one, bounds=bounds) as connections, asyncio.timeout(10):
        _, writer = await asyncio.open_unix_connection(path)
        bodies = b"".join(message(1 + 2 * n, b"x") for n in range(count))
        writer.write(PREFACE + settings({}) + heads(count, b"/x/one") + bodies + bodies)
        await all_began.wait()
        live = list(connections)
        # Calls are opened some at a time, or the first would have seen only messages behind it.
        assert behind[0] > count
        assert behind[0] > behind[-1]
        writer.close()
        await asyncio.gather(*(one.parted.wait() for one in live))
        assert connections.queued == 0


@pytest.mark.parametrize("sent", [b"", PREFACE + settings({})])
async def test_a_silent_peer_is_let_go(
    path: str, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sentinel_extproc.transport.http2.protocol._GREETING_S", 0.05)
    bounds = Bounds(max_streams=1, max_message_bytes=1000, ping_s=0.05, ping_timeout_s=0.05)
    async with serving(path, echo, bounds=bounds):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                while await reader.read(1000):
                    pass
        writer.close()


async def test_a_peer_that_answers_pings_stays(path: str) -> None:
    bounds = Bounds(max_streams=1, max_message_bytes=1000, ping_s=0.02, ping_timeout_s=5)
    pings = 0
    async with serving(path, echo, bounds=bounds):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(PREFACE + settings({}))
        async with asyncio.timeout(10):
            while pings < 5:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3]))
                if head[3] == 6:
                    pings += 1
                    writer.write(head[:4] + b"\1" + head[5:] + payload)
        writer.close()


async def test_a_peer_that_was_sent_elsewhere_opens_no_more_calls(path: str) -> None:
    """Though it never says that it has heard; what runs there goes on."""
    bounds = Bounds(max_streams=10, max_message_bytes=1000, ping_timeout_s=0.05)
    async with serving(path, echo, bounds=bounds) as connections, asyncio.timeout(10):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(PREFACE + settings({}) + heads(1) + message(1, b"runs"))
        await answered(reader, DATA, 1)
        (connection,) = connections
        connection.shut_down()
        await connection.parted.wait()
        encoder = Encoder()  # a new stream, in a block that needs no table
        lines = [(b":method", b"POST"), (b":path", b"/x/echo"), (b"content-type", GRPC)]
        writer.write(frame(HEADERS, END_HEADERS, 3, encoder.encode(lines)))
        await answered(reader, RST_STREAM, 3)
        writer.write(message(1, b"still runs"))
        await answered(reader, DATA, 1)
        writer.write(frame(DATA, END_STREAM, 1, b""))
        while await reader.read(1000):
            pass
        writer.close()


async def test_health_is_checked_and_watched(path: str) -> None:
    health = Health(("", "svc"))
    async with (
        serving(path, more=dict(health.methods)),
        grpc.aio.insecure_channel(f"unix:{path}") as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == ANSWER.NOT_SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="svc"))
        assert (await watch.read()).status == ANSWER.NOT_SERVING
        health.set_serving(True)
        assert (await watch.read()).status == ANSWER.SERVING
        assert (await stub.Check(health_pb2.HealthCheckRequest(service="svc"))).status == 1
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Check(health_pb2.HealthCheckRequest(service="other"))
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="other"))
        assert (await unknown.read()).status == ANSWER.SERVICE_UNKNOWN
        unknown.cancel()
        watch.cancel()
