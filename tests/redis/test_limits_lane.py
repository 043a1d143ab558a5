"""Many commands on one connection: in order, whatever is given up, lost or refused."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from sentinel_extproc.demo.redis import RunningRedis, start_redis
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.lane import Lane


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
async def lane_to(server: RunningRedis, **options: Callable[[], float]) -> AsyncIterator[Lane]:
    client = build_client(server.url)
    assert isinstance(client, Redis)
    lane = Lane(client.connection_pool, **options)
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
    async with lane_to(own_server) as lane:
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
    async with lane_to(own_server, clock=lambda: now) as lane:
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
            late = asyncio.ensure_future(lane.call("CLIENT", "ID"))
            await asyncio.sleep(0)
        finally:
            os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(10):
            assert await late != first, "not on a connection that nobody answered on"


async def test_after_the_end_it_says_so(lane: Lane) -> None:
    waiting = asyncio.ensure_future(lane.call("BLPOP", "nothing", 0))
    await asyncio.sleep(0)
    await lane.aclose()
    with pytest.raises(RedisConnectionError):
        await waiting
    with pytest.raises(RedisConnectionError):
        await lane.call("PING")
