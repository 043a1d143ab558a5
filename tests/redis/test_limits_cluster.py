"""A Redis Cluster of three nodes on loopback: one user's keys share a slot, the rest is spread."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis as sync_redis
import uuid_utils
from redis.asyncio import RedisCluster

from sentinel_extproc.demo.process import ManagedProcess
from sentinel_extproc.demo.redis import redis_binary
from sentinel_extproc.errors import LimitExceeded, Unavailable
from sentinel_extproc.limits.limit import Kind, Limit, Period
from sentinel_extproc.limits.limiter import StoreLimiter
from sentinel_extproc.limits.model import (
    NOTHING,
    Quantities,
    Reservation,
    ReserveRequest,
    Subject,
    Unit,
)
from sentinel_extproc.limits.policy import Policy, Rule
from sentinel_extproc.limits.store import Claim, Decision, owner_tag
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.ladder import Ladder
from sentinel_extproc.limits.store.outage import Outage
from sentinel_extproc.limits.store.redis import RedisStore
from sentinel_extproc.limits.store.slots import SLOTS, slot_of
from sentinel_extproc.usage.forwarder import Forwarder
from sentinel_extproc.usage.item_queue import Settlement
from sentinel_extproc.usage.orphans import Orphans
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Intent, Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.reporting import ReporterCounters
from sentinel_extproc.usage.stream import Stream
from sentinel_extproc.usage.stream_queue import StreamQueue
from tests.faults.outcome import Outcome as FaultOutcome

NODES = 3
ROUNDS = int(os.environ.get("SENTINEL_TEST_ROUNDS", "100"))
HANDED_BACK = 9
"""Rounds that also hand back; the kinds take turns."""
LIMIT, TASKS = 100, 200
PATIENCE_S = 30.0
"""Of connecting, too: the first burst makes 64 connections to a node at once. A busy machine takes
longer for these than the second that a client has by itself, and one that is late fails its command
and makes redis-py drop all the others."""


class Node:
    """One node, started but not yet part of a cluster."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        folder.mkdir()
        self.process = ManagedProcess(
            [
                redis_binary(),
                *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
                *("--cluster-enabled", "yes", "--cluster-node-timeout", "2000"),
                *("--cluster-require-full-coverage", "no"),
                *("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"),
            ],
            name=f"redis-{port}",
            log_path=folder / "redis.log",
        )

    def admin(self) -> sync_redis.Redis:
        return sync_redis.Redis(port=self.port, socket_timeout=5.0)

    def answers(self) -> bool:
        try:
            with self.admin() as admin:
                return bool(admin.ping())
        except sync_redis.RedisError:
            return False

    def sees_all(self) -> bool:
        with self.admin() as admin:
            info = bytes(admin.execute_command("CLUSTER", "INFO"))
        wanted = (
            b"cluster_state:ok",
            b"cluster_slots_assigned:%d" % SLOTS,
            b"cluster_known_nodes:%d" % NODES,
        )
        return all(line in info.split() for line in wanted)


def free_ports(count: int) -> list[int]:
    """Ports below 50000 whose cluster bus port, 10000 above, is free as well."""
    ports: list[int] = []
    candidate = 21_000 + (time.monotonic_ns() % 20_000)
    while len(ports) < count:
        candidate += 1
        try:
            for port in (candidate, candidate + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        ports.append(candidate)
    return ports


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    with tempfile.TemporaryDirectory(prefix="sx-cluster-") as folder, ExitStack() as stack:
        made = [Node(Path(folder) / str(port), port) for port in free_ports(NODES)]
        for node in made:
            stack.enter_context(node.process.start())
        for index, node in enumerate(made):
            node.process.wait_until(node.answers, what="it answered", timeout_s=10)
            slots = range(SLOTS * index // NODES, SLOTS * (index + 1) // NODES)
            with node.admin() as admin:
                admin.execute_command("CLUSTER", "ADDSLOTS", *slots)
                admin.execute_command("CLUSTER", "MEET", "127.0.0.1", made[0].port)
        for node in made:
            node.process.wait_until(node.sees_all, what="it saw all nodes", timeout_s=30)
        yield made


@pytest.fixture
async def store(nodes: list[Node]) -> AsyncIterator[RedisStore]:
    for node in nodes:
        with node.admin() as admin:
            admin.flushall()
            admin.script_flush()
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    client = build_client(f"redis+cluster://{hosts}", timeout_s=PATIENCE_S)
    made = RedisStore(client, timeout_s=PATIENCE_S, queue_timeout_s=PATIENCE_S)
    await made.ping()
    yield made
    await made.close()


def limiter_over(store: RedisStore, *kinds: Kind) -> StoreLimiter:
    limits = tuple(
        Limit(
            name=kind.value,
            unit=Unit.REQUESTS,
            kind=kind,
            capacity=LIMIT,
            period_ms=3_600_000,
            period=Period.MONTH,
        )
        for kind in kinds
    )
    return StoreLimiter(store, Policy((Rule(limits=limits),)))


async def attempt(limiter: StoreLimiter, user: str, number: int) -> Reservation | None:
    subject = Subject(user, "/v1/chat/completions", "chat", "gpt-4o")
    try:
        return await limiter.reserve(ReserveRequest(f"{user}-{number}", subject, Quantities()))
    except LimitExceeded:
        return None


async def test_200_at_once_on_a_limit_of_100_admit_exactly_100(store: RedisStore) -> None:
    limiters = [limiter_over(store, kind) for kind in Kind]
    for number in range(ROUNDS):
        limiter, user = limiters[number % len(limiters)], f"user-{number}"
        tried = await asyncio.gather(*(attempt(limiter, user, n) for n in range(TASKS)))
        admitted = [reservation for reservation in tried if reservation is not None]
        assert len(admitted) == LIMIT
        if number >= HANDED_BACK:
            continue
        for reservation in admitted[:30]:
            await limiter.settle(reservation, NOTHING)
        await limiter.flush()
        more = await asyncio.gather(*(attempt(limiter, user, TASKS + n) for n in range(TASKS)))
        assert sum(reservation is not None for reservation in more) == 30


async def test_users_are_spread_and_one_user_s_keys_stay_together(
    store: RedisStore, nodes: list[Node]
) -> None:
    limiter = limiter_over(store, *Kind)
    for number in range(60):
        assert await attempt(limiter, f"user-{number}", 0) is not None
    owners: list[set[str]] = []
    for node in nodes:
        with node.admin() as admin:
            keys = [key.decode() for key in admin.scan_iter(count=1_000)]
        owners.append({key.partition("{")[2].partition("}")[0] for key in keys})
        assert all(key.startswith("sentinel:2:{") for key in keys)
    assert sum(len(tags) for tags in owners) == 60, "every owner is on one node only"
    assert min(len(tags) for tags in owners) > 5


async def test_everybody_is_revoked_on_every_node(store: RedisStore) -> None:
    users = [f"user-{number}" for number in range(12)]
    seen = {user: await store.epochs(user, ("all", "user")) for user in users}
    await store.revoke_everybody()
    for user in users:
        verdict = await store.reserve(Claim(f"x-{user}", owner_tag(user), (), seen[user]))
        assert verdict.decision is Decision.REVOKED
        now = await store.epochs(user, ("all", "user"))
        verdict = await store.reserve(Claim(f"y-{user}", owner_tag(user), (), now))
        assert verdict.decision is Decision.ADMITTED


async def test_all_nodes_are_asked_for_their_version(store: RedisStore) -> None:
    (version,) = await store.versions()
    assert version.startswith(("Redis ", "Valkey "))


async def test_one_command_is_one_round_trip_to_one_node(
    store: RedisStore, nodes: list[Node]
) -> None:
    def evalshas() -> list[int]:
        counts = []
        for node in nodes:
            with node.admin() as admin:
                stats = admin.info("commandstats")
            counts.append(
                sum(
                    int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"])
                    for name in ("eval", "evalsha")
                )
            )
        return counts

    limiter = limiter_over(store, *Kind)
    assert isinstance(store.client, RedisCluster)
    assert await attempt(limiter, "user", 0) is not None  # loads the script there
    before = evalshas()
    for number in range(1, 11):
        assert await attempt(limiter, "user", number) is not None
    change = [after - earlier for after, earlier in zip(evalshas(), before, strict=True)]
    assert sorted(change) == [0, 0, 10]
    owner = slot_of(owner_tag("user")) * NODES // SLOTS
    assert change.index(10) == owner


async def test_a_dead_node_degrades_only_its_own_users(
    store: RedisStore, nodes: list[Node]
) -> None:
    patient = Ladder(store, outage=Outage(quiet_s=5.0))
    limits = limiter_over(store, Kind.RING).policy
    limiter = StoreLimiter(patient, limits)
    dead = nodes[1]
    dead.process.kill()
    try:
        rungs: dict[bool, set[str | None]] = {True: set(), False: set()}
        for number in range(60):
            user = f"user-{number}"
            reservation = await attempt(limiter, user, 0)
            assert reservation is not None
            hit = slot_of(owner_tag(user)) * NODES // SLOTS == 1
            rungs[hit].add(reservation.degraded)
        assert rungs == {True: {"local"}, False: {None}}
        assert not patient.down
    finally:
        dead.process.start()
        dead.process.wait_until(dead.answers, what="it answered", timeout_s=10)
        for node in nodes:
            node.process.wait_until(node.sees_all, what="it saw all nodes", timeout_s=30)


def move(slot: int, source: Node, target: Node, nodes: list[Node]) -> None:
    """Reshard one slot, its keys one after the other, as redis-cli does it."""
    with source.admin() as giver, target.admin() as taker:
        ids = [admin.execute_command("CLUSTER", "MYID") for admin in (giver, taker)]
        taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        while keys := giver.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
            giver.execute_command("MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
    for node in (target, source, *nodes):
        with node.admin() as admin:
            admin.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])


async def test_resharded_under_load_limits_stay_exact(
    store: RedisStore, nodes: list[Node], outcome: FaultOutcome
) -> None:
    limiter = limiter_over(store, Kind.RING)
    slot = slot_of(owner_tag("user"))
    home = nodes[slot * NODES // SLOTS]
    away = nodes[(slot * NODES // SLOTS + 1) % NODES]
    numbers = itertools.count()
    over = asyncio.Event()

    async def work() -> None:
        while not over.is_set():
            try:
                taken = await attempt(limiter, "user", next(numbers))
            except Unavailable:
                outcome.saw(503)
            except Exception as error:  # noqa: BLE001 - any other is what this looks for
                outcome.saw(type(error).__name__, held=False)
            else:
                outcome.saw(429 if taken is None else 200)
            await asyncio.sleep(0.01)

    workers = [asyncio.create_task(work()) for _ in range(4)]
    try:
        async with asyncio.timeout(60):
            for there, back in ((home, away), (away, home)):
                before = outcome.tried
                while outcome.tried < before + 20:  # noqa: ASYNC110 - it is counted elsewhere
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(move, slot, there, back, nodes)
            while not outcome.clients["429"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        over.set()
        await asyncio.gather(*workers)
    admitted = outcome.clients["200"]
    outcome.over = max(0, admitted - LIMIT)
    assert outcome.held == outcome.tried, outcome.clients
    # Of what was answered with a 503 some may have been taken all the same.
    assert LIMIT - outcome.clients["503"] <= admitted <= LIMIT


async def test_usage_goes_over_the_shards_of_a_cluster(nodes: list[Node], tmp_path: Path) -> None:
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    client = build_client(f"redis+cluster://{hosts}", timeout_s=5.0)
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.open()
    stream = Stream(client, origin=lambda: outbox.sidecar, consumer="one", shards=8)
    reporter = ReporterCounters()
    forwarder = Forwarder(outbox, stream, reporter)
    queue = StreamQueue(stream, outbox)
    for number in range(60):
        await outbox.append(usage_record(f"u{number}"))
    await forwarder.turn()
    claimed = [q for _ in range(8) for q in await queue.claim(20)]
    assert len({queued.item.id for queued in claimed}) == 60
    assert await queue.sending(claimed) == claimed
    await queue.settle(Settlement(acknowledged=tuple(q.item.id for q in claimed)))
    await forwarder.turn()
    assert (await outbox.backlog()).undelivered == 0
    assert (forwarder.counters.handed, forwarder.counters.confirmed) == (60, 60)
    assert reporter.ambiguous == 0

    outbox.begin(Intent("1", 1, "ext-a", "a@example.org", "chat", "gpt-4o", None, 1, 1))
    await Orphans(outbox, client, silent_s=0.0).look()
    other = Outbox(tmp_path / "other.db")
    other.open()
    looking = Orphans(other, client, silent_s=0.0)
    await looking.look()
    assert looking.counters.adopted == 1
    for opened in (outbox, other):
        await opened.aclose()
    await client.aclose()


def usage_record(user: str) -> UsageRecord:
    return UsageRecord(
        id=str(uuid_utils.uuid7()),
        occurred_at_ms=1_767_225_600_000,
        external_id=user,
        email=f"{user}@example.org",
        endpoint="chat",
        model_requested="gpt-4o",
        model_served=None,
        requests=1,
        usage=TokenUsage(input_tokens=1),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )
