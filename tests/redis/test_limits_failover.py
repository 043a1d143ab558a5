"""A Redis Sentinel failover under load: limits go on, and hold but for what replication had lost.

Replication is asynchronous, so that a replica that becomes the master knows what it had got until
then. The bound: the limit, plus the local share of the outage, plus what was admitted where the
replica had not heard of it.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis as sync_redis
from redis.asyncio import Redis

from sentinel_extproc.demo.process import ManagedProcess
from sentinel_extproc.demo.redis import RunningRedis, free_port, redis_binaries, start_redis
from sentinel_extproc.errors import LimitExceeded
from sentinel_extproc.limits.limit import Kind, Limit
from sentinel_extproc.limits.limiter import StoreLimiter
from sentinel_extproc.limits.model import Quantities, ReserveRequest, Subject, Unit
from sentinel_extproc.limits.policy import Policy, Rule
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.ladder import Ladder
from sentinel_extproc.limits.store.redis import RedisStore

LIMIT = 200
SHARE = LIMIT // 2
USERS = 3
AT_ONCE = ("--repl-diskless-sync-delay", "0")
SERVERS = list(redis_binaries())


@dataclass
class Group:
    """A master with one replica, and the sentinel that watches both as ``main``."""

    servers: list[RunningRedis]
    sentinel_port: int

    def admin(self, index: int) -> sync_redis.Redis:
        return sync_redis.Redis.from_url(self.servers[index].url, socket_timeout=5.0)

    def role(self, index: int) -> str:
        try:
            with self.admin(index) as admin:
                return str(admin.info("replication")["role"])
        except sync_redis.RedisError:
            return "away"

    def replicates(self) -> bool:
        with self.admin(1) as admin:
            return bool(admin.info("replication")["master_link_status"] == "up")

    def sentinel(self, *command: str) -> object:
        with sync_redis.Redis(port=self.sentinel_port, socket_timeout=5.0) as admin:
            return admin.execute_command("SENTINEL", *command)

    def sentinel_knows_both(self) -> bool:
        try:
            with sync_redis.Redis(port=self.sentinel_port, socket_timeout=5.0) as admin:
                return bool(admin.info("sentinel")["master0"]["slaves"] == 1)
        except (sync_redis.RedisError, KeyError):
            return False


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    binary = redis_binaries()[request.param]
    with tempfile.TemporaryDirectory(prefix="sx-failover-") as name, ExitStack() as stack:
        folders = [Path(name) / "a", Path(name) / "b"]
        for folder in folders:
            folder.mkdir()
        master = stack.enter_context(
            start_redis(work_dir=folders[0], tcp=True, binary=binary, arguments=AT_ONCE)
        )
        where = ("--replicaof", "127.0.0.1", str(urlsplit(master.url).port))
        replica = stack.enter_context(
            start_redis(work_dir=folders[1], tcp=True, binary=binary, arguments=where)
        )
        port = free_port()
        config = Path(name) / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\n"
            f"sentinel monitor main 127.0.0.1 {urlsplit(master.url).port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 5000\n"
        )
        sentinel = ManagedProcess(
            [binary, str(config), "--sentinel"],
            name="sentinel",
            log_path=Path(name) / "sentinel.log",
        )
        stack.enter_context(sentinel.start())
        made = Group([master, replica], port)
        replica.process.wait_until(made.replicates, what="it replicated", timeout_s=30)
        sentinel.wait_until(made.sentinel_knows_both, what="it knew both", timeout_s=30)
        yield made


@dataclass
class Load:
    """Workers that reserve and settle without pause, and what became of it by user."""

    limiter: StoreLimiter
    admitted: Counter[str] = field(default_factory=Counter)
    denied_by_redis: Counter[str] = field(default_factory=Counter)
    rungs: set[str | None] = field(default_factory=set)
    unexpected: list[BaseException] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def work(self) -> None:
        while True:
            number = next(self.numbers)
            user = f"user-{number % USERS}"
            subject = Subject(user, "/v1/chat/completions", "chat", "gpt-4o")
            try:
                request = ReserveRequest(f"x{number}", subject, Quantities())
                reservation = await self.limiter.reserve(request)
            except LimitExceeded as error:
                if "x-sentinel-degraded" not in error.headers():
                    self.denied_by_redis[user] += 1
            except Exception as error:  # noqa: BLE001 - any other is what this looks for
                self.unexpected.append(error)
            else:
                self.admitted[user] += 1
                self.rungs.add(reservation.degraded)
                await self.limiter.settle(reservation, Quantities())
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        workers = [asyncio.create_task(self.work()) for _ in range(4)]
        try:
            yield
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


@pytest.fixture
async def load(group: Group) -> AsyncIterator[Load]:
    limit = Limit(
        name="requests", unit=Unit.REQUESTS, kind=Kind.RING, capacity=LIMIT, period_ms=3_600_000
    )
    client = build_client(f"redis+sentinel://127.0.0.1:{group.sentinel_port}/main")
    limiter = StoreLimiter(Ladder(RedisStore(client)), Policy((Rule(limits=(limit,)),)))
    await limiter.start()
    yield Load(limiter)
    await limiter.close(timeout_s=1.0)


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(45):
            while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"waited in vain until {what}")


async def confirmed(group: Group, load: Load) -> Counter[str]:
    """What was admitted, as far as the replica has confirmed it."""
    before = load.admitted.copy()
    async with Redis.from_url(group.servers[0].url) as admin:
        # WAIT is about the writes of its own connection: this one comes after all of theirs.
        await admin.set("mark", "1")
        async with asyncio.timeout(20):
            while not await admin.wait(1, 1_000):
                pass
    return before


FailOver = Callable[[Group, Load, Counter[str]], Counter[str]]
"""Begins a failover; given what the replica had confirmed, returns how much may be lost."""


def crash(group: Group, load: Load, known: Counter[str]) -> Counter[str]:
    """The master ends at once; what it told nobody is gone."""
    group.servers[0].process.kill()
    return load.admitted - known


def planned(group: Group, load: Load, known: Counter[str]) -> Counter[str]:
    """The old master goes on until somebody tells it, and admits up to the whole limit."""
    group.sentinel("FAILOVER", "main")
    return Counter({user: LIMIT - known[user] for user in load.admitted})


@pytest.mark.parametrize(
    ("group", "fail_over"),
    [*((name, crash) for name in SERVERS), *((name, planned) for name in SERVERS[:1])],
    indirect=["group"],
)
async def test_limits_hold_through_a_failover(
    group: Group, load: Load, fail_over: FailOver
) -> None:
    async with load.running():
        await until(lambda: sum(load.admitted.values()) >= USERS * 20, "it was under load")
        known = await confirmed(group, load)
        assert group.role(1) == "slave"
        lost = fail_over(group, load, known)
        await until(lambda: group.role(1) == "master", "the replica was promoted")
        await until(lambda: group.role(0) != "master", "the old master stepped down")
        load.denied_by_redis.clear()
        await until(lambda: len(load.denied_by_redis) == USERS, "the new master denied everybody")
    assert load.unexpected == []
    for user in load.admitted:
        assert LIMIT // 2 <= load.admitted[user] <= LIMIT + SHARE + lost[user]
