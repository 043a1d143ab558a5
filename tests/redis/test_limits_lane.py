"""Many commands on one connection: in order, whatever is given up, lost or refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, NoScriptError, ReadOnlyError, ResponseError

from sentinel_extproc.demo.redis import RunningRedis, start_redis
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.lane import Lane, packed


@pytest.fixture
async def client(redis_server: RunningRedis) -> AsyncIterator[Redis]:
    made = build_client(redis_server.url)
    assert isinstance(made, Redis)
    yield made
    await made.aclose()


@pytest.fixture
def own_server() -> Iterator[RunningRedis]:
    """A server that a test may kill."""
    with (
        tempfile.TemporaryDirectory(prefix="sx-lane-") as folder,
        start_redis(work_dir=Path(folder)) as server,
    ):
        yield server


@asynccontextmanager
async def lane_to(
    url: str, *, connect_s: float = 3.0, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Lane]:
    client = build_client(url)
    assert isinstance(client, Redis)
    lane = Lane(client.connection_pool, connect_s=connect_s, clock=clock)
    yield lane
    await lane.aclose()
    await client.aclose()


@pytest.fixture
async def lane(client: Redis) -> AsyncIterator[Lane]:
    made = Lane(client.connection_pool)
    yield made
    await made.aclose()


async def test_replies_go_to_whom_they_belong(lane: Lane) -> None:
    answers = await asyncio.gather(*(lane.call("ECHO", str(n)) for n in range(500)))
    assert answers == [str(n).encode() for n in range(500)]


async def test_errors_are_their_callers_own(lane: Lane) -> None:
    answers = await asyncio.gather(
        lane.call("ECHO", "a"),
        lane.call("EVALSHA", "0" * 40, 0),
        lane.call("NO-SUCH-COMMAND"),
        lane.call("ECHO", "b"),
        return_exceptions=True,
    )
    assert answers[0] == b"a"
    assert isinstance(answers[1], NoScriptError)
    assert isinstance(answers[2], ResponseError)
    assert answers[3] == b"b"


@pytest.mark.parametrize("unsendable", ["\ud800", object(), None], ids=["text", "type", "none"])
async def test_a_command_that_can_t_be_packed_fails_alone(lane: Lane, unsendable: str) -> None:
    own = await lane.call("CLIENT", "ID")
    async with asyncio.timeout(10):
        answers = await asyncio.gather(
            lane.call("ECHO", "before"),
            lane.call("ECHO", unsendable),
            lane.call("ECHO", "after"),
            lane.call("ECHO", "soon", soon_s=0.001),
            return_exceptions=True,
        )
    assert isinstance(answers[1], DataError)
    assert [answers[0], *answers[2:]] == [b"before", b"after", b"soon"]
    assert await lane.call("CLIENT", "ID") == own, "nor is the connection lost"


async def test_commands_given_up_at_any_moment_never_cross_replies(lane: Lane) -> None:
    # Ten thousand are given up: before they are sent, while they wait, and as their reply comes.
    chance = random.Random(11)
    given_up = crossed = 0

    async def one(number: int) -> None:
        nonlocal given_up, crossed
        task = asyncio.ensure_future(lane.call("ECHO", str(number)))
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        if chance.random() < 0.8:
            task.cancel()
        try:
            crossed += await task != str(number).encode()
        except asyncio.CancelledError:
            given_up += 1

    number = 0
    while given_up < 10_000:
        await asyncio.gather(*(one(number + n) for n in range(200)))
        number += 200
    assert crossed == 0
    assert await lane.call("ECHO", "last") == b"last"


async def test_a_lost_connection_fails_what_is_under_way_and_the_next_command_has_a_new_one(
    lane: Lane, client: Redis
) -> None:
    own = await lane.call("CLIENT", "ID")
    waiting = [asyncio.ensure_future(lane.call("BLPOP", "nothing", 0)) for _ in range(3)]
    async with asyncio.timeout(10):
        while not await client.client_kill_filter(_id=str(own)):
            pass
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, RedisConnectionError) for answer in answers)
    assert await lane.call("CLIENT", "ID") != own


async def test_nobody_there_is_an_error_and_not_for_ever(own_server: RunningRedis) -> None:
    async with lane_to(own_server.url) as lane:
        assert await lane.call("PING") == b"PONG"
        own_server.process.kill()
        for _ in range(3):
            with pytest.raises((RedisConnectionError, OSError)):
                await lane.call("PING")
        own_server.restart()
        async with asyncio.timeout(10):
            assert await lane.call("PING") == b"PONG"


async def test_a_frozen_redis_is_let_go_of(own_server: RunningRedis) -> None:
    now = 0.0
    async with lane_to(own_server.url, clock=lambda: now) as lane:
        first = await lane.call("CLIENT", "ID")
        pid = own_server.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await lane.call("PING")
            now = 2.0
            serving = lane._task
            assert serving is not None
            late = asyncio.ensure_future(lane.call("CLIENT", "ID"))
            await asyncio.wait([serving], timeout=10)
        finally:
            os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(10):
            assert await late != first, "not on a connection that nobody answered on"


def test_a_reply_that_came_while_we_stood_still_is_taken(own_server: RunningRedis) -> None:
    """On uvloop, whose timers go off before what came is read."""
    now = 0.0

    async def stand_still() -> None:
        nonlocal now
        client = build_client(own_server.url)
        assert isinstance(client, Redis)
        lane = Lane(client.connection_pool, within_s=0.01, clock=lambda: now)
        before = await lane.send(packed(("CLIENT", "ID")))
        reply = lane.send(packed(("ECHO", "a")))
        time.sleep(0.1)  # noqa: ASYNC251 - nothing of this process goes on
        now = 2.0
        assert await lane.send(packed(("CLIENT", "ID"))) == before, "a living connection was left"
        assert await reply == b"a"
        await lane.aclose()
        await client.aclose()

    uvloop.run(stand_still())


async def test_a_server_that_takes_connections_and_greets_nobody_is_tried_anew(
    redis_server: RunningRedis,
) -> None:
    # A hung master behind a name, or a sentinel's answer: soon the same way leads to another one.
    silent: list[asyncio.StreamWriter] = []
    hung = True

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent.append(writer)
        if hung:
            return
        path = redis_server.url.removeprefix("unix://").partition("?")[0]
        other_reader, other_writer = await asyncio.open_unix_connection(path)
        silent.append(other_writer)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)

        await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with lane_to(f"redis://127.0.0.1:{port}", connect_s=0.2) as lane:
            with pytest.raises(TimeoutError):
                await lane.call("PING")
            hung = False
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(OSError, RedisConnectionError):
                        if await lane.call("PING") == b"PONG":
                            break
        for writer in silent:
            writer.close()


async def test_a_demoted_master_is_left_for_whom_its_address_leads_to_now(
    own_server: RunningRedis,
) -> None:
    async with lane_to(own_server.url) as lane:
        old = await lane.call("CLIENT", "ID")
        await lane.call("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(ReadOnlyError):
            await lane.call("SET", "a", "b")
        # Who comes before the loss is noticed is told of it, too.
        with contextlib.suppress(ReadOnlyError):
            assert await lane.call("CLIENT", "ID") != old
        assert await lane.call("CLIENT", "ID") != old


async def test_giving_up_while_a_stalled_connection_is_dropped_is_not_lost(
    own_server: RunningRedis,
) -> None:
    now = 0.0
    async with lane_to(own_server.url, clock=lambda: now) as lane:
        await lane.call("PING")
        stalled = asyncio.ensure_future(lane.call("BLPOP", "nothing", 0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        now = 2.0
        late = asyncio.ensure_future(lane.call("BLPOP", "nothing", 0))
        await asyncio.sleep(0)
        late.cancel()
        done, _ = await asyncio.wait([late], timeout=10)
        assert done, "it waits for ever: its cancellation was swallowed"
        assert late.cancelled()
        with pytest.raises(RedisConnectionError):
            await stalled
        assert await lane.call("PING") == b"PONG"


async def test_after_the_end_it_says_so(lane: Lane) -> None:
    waiting = asyncio.ensure_future(lane.call("BLPOP", "nothing", 0))
    await asyncio.sleep(0)
    await lane.aclose()
    with pytest.raises(RedisConnectionError):
        await waiting
    with pytest.raises(RedisConnectionError):
        await lane.call("PING")


async def test_a_reply_that_nobody_asked_for_ends_the_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if b"HELLO" in data:
                writer.write(b"-NOPROTO unsupported protocol version\r\n")
            elif b"PING" in data:
                writer.write(b"+PONG\r\n+PONG\r\n")
            else:
                writer.write(b"+OK\r\n" * data.count(b"CLIENT"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with lane_to(f"redis://127.0.0.1:{port}?protocol=2") as lane:
            assert await lane.call("PING") == b"PONG"
            first = lane._task
            assert first is not None
            await asyncio.wait([first], timeout=10)
            assert await lane.call("PING") == b"PONG"
            assert lane._task is not first


async def test_what_redis_says_unasked_is_nobody_s_reply(lane: Lane, client: Redis) -> None:
    await lane.call("CLIENT", "TRACKING", "ON", "BCAST")
    for number in range(20):
        await client.set("watched", str(number))
        assert await lane.call("ECHO", str(number)) == str(number).encode()


async def test_a_pool_that_is_closed_under_it_is_not_held_up(lane: Lane, client: Redis) -> None:
    await lane.call("PING")
    waiting = asyncio.ensure_future(lane.call("BLPOP", "nothing", 0))
    await asyncio.sleep(0)
    async with asyncio.timeout(0.5):  # a second is when redis-py gives up
        await client.connection_pool.disconnect()
        with pytest.raises(RedisConnectionError):
            await waiting
    assert await lane.call("PING") == b"PONG"


async def test_replies_that_are_late_are_told_at_their_time_and_dropped_when_they_come(
    client: Redis,
) -> None:
    lane = Lane(client.connection_pool, within_s=0.05)
    await lane.call("PING")
    late = [lane.send(packed(("BLPOP", f"nothing-{number}", "0"))) for number in range(3)]
    soon = lane.send(packed(("ECHO", "behind them")), 0.001)
    for reply in (*late, soon):
        with pytest.raises(TimeoutError):
            await reply
    for number in range(3):
        await client.lpush(f"nothing-{number}", "late")
    assert await lane.call("ECHO", "next") == b"next"
    await lane.aclose()


async def test_what_can_t_be_written_takes_nobody_s_reply(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: bytes) -> None:
        raise RuntimeError("the handle is closed")

    await lane.call("PING")
    with monkeypatch.context() as patched:
        patched.setattr(lane._line, "write", broken)
        with pytest.raises(RuntimeError):
            await lane.call("ECHO", "a")
    assert await lane.call("ECHO", "b") == b"b"
    soon = asyncio.ensure_future(lane.call("ECHO", "c", soon_s=10.0))
    await asyncio.sleep(0)
    with monkeypatch.context() as patched:
        patched.setattr(lane._line, "write", broken)
        with pytest.raises(RuntimeError):
            await lane.call("ECHO", "d")
    with pytest.raises(RedisConnectionError):
        await soon
    assert await lane.call("ECHO", "e") == b"e"
