"""A real Redis killed, paused, restarted, flushed, read-only or full while requests keep coming.

However it fails, no user gets more than the stated bound, and nothing but 429 and 503 comes out.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis as sync_redis

from sentinel_extproc.demo.redis import RunningRedis, start_redis
from sentinel_extproc.errors import LimitExceeded, Unavailable
from sentinel_extproc.limits.limit import Kind, Limit
from sentinel_extproc.limits.limiter import StoreLimiter
from sentinel_extproc.limits.model import NOTHING, Quantities, ReserveRequest, Subject, Unit
from sentinel_extproc.limits.policy import Policy, Rule
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.ladder import Ladder
from sentinel_extproc.limits.store.redis import RedisStore

LIMIT = 40
SHARE = LIMIT // 2
USERS = 4
WORKERS = 8


@pytest.fixture
def server() -> Iterator[RunningRedis]:
    with (
        tempfile.TemporaryDirectory(prefix="sx-redis-") as folder,
        start_redis(work_dir=Path(folder)) as running,
    ):
        yield running


@dataclass
class Load:
    """Workers that reserve and settle without pause, and what became of it by user."""

    limiter: StoreLimiter
    admitted: Counter[str] = field(default_factory=Counter)
    denied_by_redis: Counter[str] = field(default_factory=Counter)
    denied_locally: Counter[str] = field(default_factory=Counter)
    unavailable: int = 0
    unexpected: list[BaseException] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def work(self) -> None:
        while True:
            number = next(self.numbers)
            await self.once(f"user-{number % USERS}", number)
            await asyncio.sleep(0.002)

    async def once(self, user: str, number: int) -> None:
        subject = Subject(user, "/v1/chat/completions", "chat", "gpt-4o")
        try:
            request = ReserveRequest(f"x{number}", subject, Quantities())
            reservation = await self.limiter.reserve(request)
        except LimitExceeded as error:
            degraded = "x-sentinel-degraded" in error.headers()
            (self.denied_locally if degraded else self.denied_by_redis)[user] += 1
        except Unavailable:
            self.unavailable += 1
        except Exception as error:  # noqa: BLE001 - any other is what this looks for
            self.unexpected.append(error)
        else:
            self.admitted[user] += 1
            await self.limiter.settle(reservation, Quantities())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        workers = [asyncio.create_task(self.work()) for _ in range(WORKERS)]
        try:
            yield
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - another process' state has no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"waited in vain until {what}")


@dataclass
class Scene:
    server: RunningRedis
    ladder: Ladder
    load: Load

    def admin(self) -> sync_redis.Redis:
        return sync_redis.Redis.from_url(self.server.url, socket_timeout=5.0)

    def all_users(self, counter: Counter[str]) -> bool:
        return len(counter) == USERS

    async def down(self) -> None:
        await until(lambda: self.ladder.down, "the outage was noticed")

    async def spent_locally(self) -> None:
        self.load.denied_locally.clear()
        await until(lambda: self.all_users(self.load.denied_locally), "local shares were spent")

    async def spent(self) -> None:
        self.load.denied_by_redis.clear()
        await until(
            lambda: not self.ladder.down and self.all_users(self.load.denied_by_redis),
            "Redis itself denied everybody",
        )


@pytest.fixture
async def scene(server: RunningRedis) -> AsyncIterator[Scene]:
    limit = Limit(
        name="requests",
        unit=Unit.REQUESTS,
        kind=Kind.RING,
        capacity=LIMIT,
        period_ms=3_600_000,
    )
    ladder = Ladder(RedisStore(build_client(server.url)))
    limiter = StoreLimiter(ladder, Policy((Rule(limits=(limit,)),)))
    await limiter.start()
    made = Scene(server, ladder, Load(limiter))
    yield made
    await limiter.close(timeout_s=1.0)


def check(scene: Scene, *, bound: int) -> None:
    assert scene.load.unexpected == []
    assert len(scene.load.admitted) == USERS
    assert max(scene.load.admitted.values()) <= bound
    assert min(scene.load.admitted.values()) >= SHARE


async def test_killed_and_restarted_empty(scene: Scene) -> None:
    async with scene.load.running():
        await until(lambda: sum(scene.load.admitted.values()) >= USERS * 5, "it was under load")
        scene.server.process.kill()
        await scene.down()
        await scene.spent_locally()
        await asyncio.to_thread(scene.server.restart)
        await scene.spent()
    # What Redis knew is gone, so its limit counts once more; what was admitted here is replayed.
    check(scene, bound=LIMIT + SHARE + LIMIT)


@pytest.mark.parametrize("times", [1, 3])
async def test_paused(scene: Scene, times: int) -> None:
    async with scene.load.running():
        for _ in range(times):
            scene.server.process.signal(signal.SIGSTOP)
            try:
                await scene.down()
                await scene.spent_locally()
            finally:
                scene.server.process.signal(signal.SIGCONT)
            await until(lambda: not scene.ladder.down, "it was noticed that Redis is back")
        await scene.spent()
    # Local shares are not given out anew in every outage.
    check(scene, bound=LIMIT + SHARE)


async def test_read_only(scene: Scene) -> None:
    async with scene.load.running():
        await until(lambda: sum(scene.load.admitted.values()) >= USERS, "it was under load")
        with scene.admin() as admin:
            admin.replicaof("127.0.0.1", "1")
            await scene.down()
            await scene.spent_locally()
            admin.replicaof("NO", "ONE")
        await scene.spent()
    check(scene, bound=LIMIT + SHARE)


async def test_out_of_memory(scene: Scene) -> None:
    async with scene.load.running():
        await until(lambda: sum(scene.load.admitted.values()) >= USERS, "it was under load")
        with scene.admin() as admin:
            admin.config_set("maxmemory", 1)
            await scene.down()
            await scene.spent_locally()
            admin.config_set("maxmemory", 0)
        await scene.spent()
    check(scene, bound=LIMIT + SHARE)


async def test_flushed(scene: Scene) -> None:
    async with scene.load.running():
        await scene.spent()
        # What is settled after the flush would count once more: the hold that it replaces is lost.
        async with asyncio.timeout(30):
            await scene.load.limiter.flush()
        before = scene.load.admitted.copy()
        with scene.admin() as admin:
            admin.flushall()
        await until(lambda: scene.load.admitted > before, "it counted anew")
        await scene.spent()
    check(scene, bound=LIMIT + LIMIT + SHARE)


async def test_scripts_flushed(scene: Scene) -> None:
    async with scene.load.running():
        with scene.admin() as admin:
            while len(scene.load.denied_by_redis) < USERS:
                admin.script_flush()
                await asyncio.sleep(0.005)
    check(scene, bound=LIMIT + SHARE)


async def test_cancelled_under_an_outage_nothing_stays_taken(scene: Scene) -> None:
    subject = Subject("user-0", "/", "chat", "m")
    scene.server.process.signal(signal.SIGSTOP)
    try:
        for number in range(50):
            request = ReserveRequest(f"c{number}", subject, Quantities())
            task = asyncio.create_task(scene.load.limiter.reserve(request))
            await asyncio.sleep(0)
            task.cancel()
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            if not isinstance(result, BaseException):
                await scene.load.limiter.settle(result, NOTHING)
    finally:
        scene.server.process.signal(signal.SIGCONT)
    async with asyncio.timeout(30):
        await scene.load.limiter.flush()
    async with scene.load.running():
        await scene.spent()
    assert scene.load.admitted["user-0"] >= LIMIT - 1
