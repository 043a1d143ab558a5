"""Settling without a task: each once, in whatever state Redis, the lane and its turns are."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from sentinel_extproc.demo.redis import RunningRedis, start_redis
from sentinel_extproc.limits.facts import LimitFact, SettlementApplied, StoreLost
from sentinel_extproc.limits.limit import Kind, Limit
from sentinel_extproc.limits.model import Unit
from sentinel_extproc.limits.settler import Settler
from sentinel_extproc.limits.store import Claim, Decision, Line, StoreUntriedError
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.ladder import Ladder
from sentinel_extproc.limits.store.redis import RedisStore

LIMIT = Limit(name="all", unit=Unit.TOTAL, kind=Kind.RING, capacity=1_000, period_ms=3_600_000)


def claim(name: str, amount: int = 10) -> Claim:
    return Claim(name, "user", (Line(LIMIT, "ring:all", amount),))


@pytest.fixture
def server() -> Iterator[RunningRedis]:
    """A server that a test may stop."""
    with (
        tempfile.TemporaryDirectory(prefix="sx-settle-") as folder,
        start_redis(work_dir=Path(folder)) as server,
    ):
        yield server


class Bench:
    def __init__(self, url: str, *, timeout_s: float = 5.0, concurrency: int = 64) -> None:
        self.client = build_client(url)
        assert isinstance(self.client, Redis)
        self.store = RedisStore(
            self.client, timeout_s=timeout_s, concurrency=concurrency, queue_timeout_s=5.0
        )
        self.facts: list[LimitFact] = []
        self.ladder = Ladder(self.store, emit=self.facts.append)
        self.settler = Settler(self.ladder, emit=self.facts.append)

    async def held(self, *names: str) -> list[Claim]:
        claims = [claim(name) for name in names]
        for one in claims:
            assert (await self.ladder.reserve(one)).decision is Decision.ADMITTED
        return claims

    async def left(self) -> int:
        asking = claim(f"left-{os.urandom(4).hex()}", 0)
        return (await self.ladder.reserve(asking)).lines[0].remaining

    def applied(self) -> list[str]:
        return [fact.exchange_id for fact in self.facts if isinstance(fact, SettlementApplied)]


@asynccontextmanager
async def bench_at(
    url: str, *, timeout_s: float = 5.0, concurrency: int = 64
) -> AsyncIterator[Bench]:
    bench = Bench(url, timeout_s=timeout_s, concurrency=concurrency)
    await bench.client.flushall()
    yield bench
    await bench.settler.close(timeout_s=0.0)
    await bench.ladder.close()


async def test_each_is_applied_once_and_told_once(redis_url: str) -> None:
    async with bench_at(redis_url) as bench:
        names = [f"x{number}" for number in range(80)]  # more than go at once without a task
        for one in await bench.held(*names):
            settled = Claim(one.id, one.owner, (Line(LIMIT, "ring:all", 1),), (), one.at_ms)
            bench.settler.submit(settled)
            bench.settler.submit(settled)
        assert bench.settler.pending == 80
        async with asyncio.timeout(10):
            await bench.settler.flush()
        assert bench.settler.pending == 0
        assert sorted(bench.applied()) == sorted(names)
        assert await bench.left() == 1_000 - 80


async def test_a_redis_that_forgot_the_script_is_given_it(redis_url: str) -> None:
    async with bench_at(redis_url) as bench:
        (one,) = await bench.held("x")
        await bench.client.script_flush()
        told: asyncio.Queue[Exception | None] = asyncio.Queue()
        assert bench.store.settle_soon(one, told.put_nowait)
        error = await asyncio.wait_for(told.get(), 10)
        assert isinstance(error, StoreUntriedError), "nothing was done"
        bench.settler.submit(one)
        async with asyncio.timeout(10):
            await bench.settler.flush()
        assert bench.applied() == ["x"]


async def test_without_a_free_turn_it_waits_with_the_others(redis_url: str) -> None:
    async with bench_at(redis_url, concurrency=1) as bench:
        one, other, earlier = await bench.held("x", "y", "z")
        await bench.store.settle(earlier)  # Redis knows the script from here on
        told: list[Exception | None] = []
        assert bench.store.settle_soon(one, told.append)
        assert not bench.store.settle_soon(other, told.append)
        bench.settler.submit(other)
        async with asyncio.timeout(10):
            await bench.settler.flush()
        assert told == [None]
        assert bench.applied() == ["y"]
        assert await bench.left() == 1_000 - 30


async def test_what_a_frozen_redis_may_have_taken_is_asked_for_again(server: RunningRedis) -> None:
    async with bench_at(server.url, timeout_s=0.1) as bench:
        claims = await bench.held("a", "b", "c", "z")
        await bench.store.settle(claims.pop())
        pid = server.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            for one in claims:
                bench.settler.submit(one)
            await asyncio.gather(
                *(bench.settler.tried(one, within_s=5.0) for one in claims)
            )  # each has had its time by then
            assert bench.applied() == []
            assert bench.settler.pending == 3
        finally:
            os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(20):
            await bench.settler.flush()
        assert sorted(bench.applied()) == ["a", "b", "c"]
        assert await bench.left() == 1_000 - 40


async def test_what_redis_loses_on_the_way_is_settled_when_it_is_back(server: RunningRedis) -> None:
    async with bench_at(server.url) as bench:
        one, earlier = await bench.held("x", "z")
        await bench.store.settle(earlier)
        server.process.kill()
        bench.settler.submit(one)
        async with asyncio.timeout(10):
            await bench.settler.tried(one, within_s=5.0)
        assert bench.applied() == []
        server.restart()
        async with asyncio.timeout(20):
            await bench.settler.flush()
        assert bench.applied() == ["x"]


async def test_ending_waits_for_no_answer_and_starts_nothing(server: RunningRedis) -> None:
    async with bench_at(server.url, timeout_s=0.2) as bench:
        (one,) = await bench.held("x")
        pid = server.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            bench.settler.submit(one)
            async with asyncio.timeout(1):
                await bench.settler.close(timeout_s=0.01)
            await asyncio.sleep(0.3)  # by then it has failed
            assert bench.settler._task is None
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_what_fails_because_all_ends_is_no_outage(server: RunningRedis) -> None:
    async with bench_at(server.url) as bench:
        claims = await bench.held("a", "b", "c", "d", "e", "f")
        before = asyncio.all_tasks()
        pid = server.process.pid
        assert pid is not None
        await asyncio.sleep(0.25)  # so long is a store away before it counts as lost
        os.kill(pid, signal.SIGSTOP)
        try:
            for one in claims:
                bench.settler.submit(one)
            await asyncio.sleep(0.01)  # they are on their way
            await bench.settler.close(timeout_s=0.0)
            await bench.ladder.close()
            await asyncio.sleep(0.01)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert not [fact for fact in bench.facts if isinstance(fact, StoreLost)]
        assert asyncio.all_tasks() <= before
