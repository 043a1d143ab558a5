"""Sidecars that share a stream: whatever one of them or Redis or Zion does, each item is billed
once, and what may be billed twice is counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis as sync_redis
import uuid_utils

from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.redis import RunningRedis, start_redis
from sentinel_extproc.demo.zion_standin import FaultKind, ZionCall, ZionStandIn, ZionUser
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.usage.drain import drain
from sentinel_extproc.usage.forwarder import Forwarder
from sentinel_extproc.usage.item_queue import ItemState, Settlement
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.reporter import Reporter
from sentinel_extproc.usage.reporting import OnAmbiguous
from sentinel_extproc.usage.retry import Backoff
from sentinel_extproc.usage.stream import Stream
from sentinel_extproc.usage.stream_queue import StreamQueue
from sentinel_extproc.zion.breaker import Breaker, BreakerPolicy
from sentinel_extproc.zion.client import ZionClient

USERS = [
    ZionUser(id=f"u{n}", token=f"t{n}", email=f"{n}@example.org", external_id=f"ext-{n}")
    for n in range(40)
]
DEADLINE_S = 60.0


class Sidecar:
    """The parts of one sidecar that are about usage, with quick clocks."""

    def __init__(
        self,
        path: Path,
        redis_url: str,
        zion_port: int,
        *,
        on_ambiguous: OnAmbiguous = OnAmbiguous.RETRY,
        shards: int = 2,
        lease_s: float = 30.0,
        batch_size: int = 7,
        window: int = 10_000,
    ) -> None:
        self.outbox = Outbox(path)
        self.outbox.open()
        self.redis = build_client(redis_url, timeout_s=5.0)
        self.zion = ZionClient(
            base_url=f"http://127.0.0.1:{zion_port}",
            api_key="zion-key",
            report_deadline_s=2.0,
            report_breaker=Breaker(BreakerPolicy(min_calls=10_000)),
        )
        self.stream = Stream(
            self.redis,
            origin=lambda: self.outbox.sidecar,
            consumer=self.outbox.sidecar,
            shards=shards,
            lease_s=lease_s,
        )
        self.queue = StreamQueue(self.stream, self.outbox, return_s=0.2)
        self.reporter = Reporter(
            self.queue,
            self.zion,
            interval_s=0.01,
            batch_size=batch_size,
            on_ambiguous=on_ambiguous,
            backoff=Backoff(base_s=0.001, cap_s=0.02),
        )
        self.forwarder = Forwarder(
            self.outbox,
            self.stream,
            self.reporter.counters,
            on_ambiguous=on_ambiguous,
            window=window,
            interval_s=0.01,
            audit_every_s=0.05,
        )

    def start(self) -> None:
        self.queue.start()
        self.forwarder.start()
        self.reporter.start()

    async def use(self, count: int, *, first: int = 0) -> list[UsageRecord]:
        made = [record(first + number) for number in range(count)]
        for one in made:
            await self.outbox.append(one)
        return made

    async def settled(self) -> bool:
        """Whether nothing of it is on its way any more."""
        return (await self.outbox.backlog()).undelivered == 0

    async def die(self) -> None:
        """Stop at once and say nothing to anybody; the outbox's file stays."""
        for task in (self.reporter._task, self.forwarder._task, self.queue._task):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self.zion.aclose()
        await self.redis.aclose()
        await self.outbox.aclose()

    async def stop(self) -> None:
        await self.forwarder.flush(1.0)
        await self.reporter.drain(1.0)
        await self.queue.aclose()
        await self.die()


def record(number: int) -> UsageRecord:
    user = USERS[number % len(USERS)]
    assert user.external_id is not None
    return UsageRecord(
        id=str(uuid_utils.uuid7()),
        occurred_at_ms=1_767_225_600_000 + number,
        external_id=user.external_id,
        email=user.email,
        endpoint="chat",
        model_requested="gpt-4o",
        model_served=None,
        requests=1,
        usage=TokenUsage(input_tokens=number, output_tokens=2 * number),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )


def used(records: list[UsageRecord]) -> Counter[tuple[str, str]]:
    total: Counter[tuple[str, str]] = Counter()
    for one in records:
        total[one.external_id, "input"] += one.usage.input_tokens
        total[one.external_id, "output"] += one.usage.output_tokens
        total[one.external_id, "requests"] += one.requests
    return +total


def billed(zion: ZionStandIn, *, once: bool = False) -> Counter[tuple[str, str]]:
    entries = zion.ledger()
    if once:
        entries = list({entry.key: entry for entry in entries}.values())
    total: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        total[entry.external_id, "input"] += entry.input_tokens
        total[entry.external_id, "output"] += entry.output_tokens
        total[entry.external_id, "requests"] += entry.requests
    return +total


def doubled(zion: ZionStandIn) -> int:
    return len(zion.ledger()) - len({entry.key for entry in zion.ledger()})


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110  polls with a deadline
            await asyncio.sleep(0.01)


async def all_settled(*sidecars: Sidecar) -> bool:
    return all([await one.settled() for one in sidecars])


async def empty(sidecar: Sidecar) -> bool:
    shards = range(sidecar.stream.shards)
    return sum([(await sidecar.stream.poll(shard)).entries for shard in shards]) == 0


@pytest.fixture(params=[True, False], ids=["deduplicating", "not-deduplicating"])
def zion(request: pytest.FixtureRequest) -> ZionStandIn:
    return ZionStandIn(api_key="zion-key", users=USERS, deduplicate=bool(request.param))


@pytest.fixture
def port(zion: ZionStandIn) -> Iterator[int]:
    with serve_app(zion.app, name="zion") as running:
        yield running.port


Make = Callable[..., Sidecar]


@pytest.fixture
async def make(tmp_path: Path, redis_url: str, port: int) -> AsyncIterator[Make]:
    """Makes sidecars by name; those left running are stopped at the end."""
    made: list[Sidecar] = []

    def one(name: str, **options: object) -> Sidecar:
        url = str(options.pop("url", redis_url))
        sidecar = Sidecar(tmp_path / f"{name}.db", url, port, **options)  # type: ignore[arg-type]
        made.append(sidecar)
        return sidecar

    yield one
    for sidecar in made:
        await sidecar.die()


async def test_three_sidecars_bill_each_item_once(make: Make, zion: ZionStandIn) -> None:
    fleet = [make(f"s{n}") for n in range(3)]
    for sidecar in fleet:
        sidecar.start()
    records = [
        one for turn in range(4) for sidecar in fleet for one in await sidecar.use(50, first=turn)
    ]
    await until(lambda: all_settled(*fleet))
    assert billed(zion) == used(records)
    assert doubled(zion) == 0
    assert zion.duplicates == 0
    assert sum(sidecar.reporter.counters.ambiguous for sidecar in fleet) == 0
    assert await empty(fleet[0])
    assert all(sidecar.queue.in_hand == 0 for sidecar in fleet)


async def test_any_replica_bills_for_a_sidecar_that_never_comes_back(
    make: Make, zion: ZionStandIn
) -> None:
    gone, other = make("gone"), make("other")
    records = await gone.use(60)
    assert await gone.forwarder.flush(DEADLINE_S) == 40
    await gone.die()
    other.start()
    await until(lambda: empty(other))
    assert billed(zion) == used(records)
    # Its volume comes back after all: nothing is sent again.
    back = make("gone")
    back.start()
    await until(back.settled)
    assert billed(zion) == used(records)
    assert back.reporter.counters.ambiguous == 0


@pytest.mark.parametrize("sent", [False, True])
async def test_a_sidecar_killed_with_entries_in_hand_is_replaced(
    make: Make, zion: ZionStandIn, sent: bool
) -> None:
    dead = make("dead", lease_s=0.3)
    other = make("other", lease_s=0.3)
    records = await dead.use(60)
    await dead.forwarder.turn()
    claimed = await dead.queue.claim(10)
    if sent:
        await dead.queue.sending(claimed)
    await dead.die()
    other.start()
    await until(lambda: empty(other))
    assert billed(zion) == used(records)
    assert other.reporter.counters.ambiguous == (len(claimed) if sent else 0)
    assert other.queue.taken_over == (len(claimed) if sent else 0)


async def test_a_sidecar_killed_while_it_hands_over_doubles_nothing(
    make: Make, zion: ZionStandIn
) -> None:
    first = make("one")
    records = await first.use(80)
    await first.forwarder.turn()  # some is in, with the fence
    records += await first.use(80, first=100)
    claimed = await first.outbox.claim(100)
    in_time, too_late = claimed[:10], claimed[10:]
    await first.outbox.handing(claimed, 1000)
    for shard in range(first.stream.shards):
        own = [q for q in in_time if first.stream.shard_of(q.item.id) == shard]
        if own and shard == 0:
            await first.stream.hand(shard, 1000, own)
    await first.die()
    again = make("one")
    again.start()
    await until(again.settled)
    assert billed(zion) == used(records)
    assert doubled(zion) == 0
    # Shard 0 took the call; what it doesn't have of it may have been lost, as far as it can tell.
    lost = sum(again.stream.shard_of(queued.item.id) == 0 for queued in too_late)
    assert again.forwarder.counters.lost == again.reporter.counters.ambiguous == lost
    assert again.forwarder.counters.never_arrived == len(claimed) - lost - sum(
        again.stream.shard_of(queued.item.id) == 0 for queued in in_time
    )


@pytest.mark.parametrize("policy", list(OnAmbiguous))
async def test_a_redis_that_forgets_loses_nothing_and_the_doubt_is_counted(
    make: Make, zion: ZionStandIn, redis_url: str, policy: OnAmbiguous
) -> None:
    sidecar, other = make("one", on_ambiguous=policy), make("other")
    records = await sidecar.use(60)
    await sidecar.forwarder.turn()
    await other.queue.sending(await other.queue.claim(5))  # and is never heard of again
    with sync_redis.Redis.from_url(redis_url) as admin:
        admin.flushall()
    sidecar.start()
    await until(sidecar.settled)
    assert sidecar.forwarder.counters.lost == sidecar.reporter.counters.ambiguous == 40
    held = await sidecar.outbox.held()
    if policy is OnAmbiguous.RETRY:
        assert held == []
        assert billed(zion) == used(records)
    else:
        assert len(held) == 40
        assert zion.ledger() == []
    assert doubled(zion) <= sidecar.reporter.counters.ambiguous


@pytest.mark.parametrize(
    "kind",
    [
        FaultKind.ERROR_500,
        FaultKind.RATE_LIMITED,
        FaultKind.MALFORMED,
        FaultKind.DROP,
        FaultKind.COMMIT_THEN_DROP,
        FaultKind.REFUSED,
    ],
)
async def test_after_every_fault_of_zion_all_is_billed(
    make: Make, zion: ZionStandIn, kind: FaultKind
) -> None:
    zion.set_fault(ZionCall.BATCH, kind, times=3, retry_after_s=0)
    fleet = [make(f"s{n}") for n in range(3)]
    records = [one for sidecar in fleet for one in await sidecar.use(60)]
    for sidecar in fleet:
        sidecar.start()
    await until(lambda: all_settled(*fleet))
    ambiguous = sum(sidecar.reporter.counters.ambiguous for sidecar in fleet)
    assert billed(zion, once=True) == used(records)
    assert doubled(zion) <= ambiguous
    if zion._state.deduplicate:
        assert doubled(zion) == 0
    if kind in (FaultKind.RATE_LIMITED, FaultKind.REFUSED):
        assert ambiguous == 0
    assert all([await sidecar.outbox.held() == [] for sidecar in fleet])


async def test_lost_answers_are_parked_in_the_outbox_they_came_from(
    make: Make, zion: ZionStandIn
) -> None:
    zion.set_fault(ZionCall.BATCH, FaultKind.COMMIT_THEN_DROP, times=2)
    fleet = [make(f"s{n}", on_ambiguous=OnAmbiguous.PARK) for n in range(3)]
    records = [one for sidecar in fleet for one in await sidecar.use(60)]
    for sidecar in fleet:
        sidecar.start()
    await until(lambda: all_settled(*fleet))
    assert billed(zion) == used(records)
    held = [one for sidecar in fleet for one in await sidecar.outbox.held()]
    assert {one.state for one in held} == {ItemState.PARKED}
    assert len(held) == sum(sidecar.reporter.counters.parked for sidecar in fleet) > 0
    assert doubled(zion) == 0


@pytest.mark.parametrize("zion", [True], indirect=True)
async def test_what_is_refused_is_a_dead_letter_in_the_outbox_it_came_from(
    make: Make, zion: ZionStandIn
) -> None:
    zion.set_fault(ZionCall.BATCH, FaultKind.POISON, email=USERS[3].email)
    assert USERS[5].token is not None
    zion.revoke(USERS[5].token)
    origin, other = make("origin"), make("other")
    records = await origin.use(40)
    other.start()
    turns = iter(range(10_000))

    async def found() -> bool:
        # Usage goes on, and passes: only then is it known that it isn't Zion that is ill.
        records.extend(await origin.use(1, first=40 * next(turns)))
        await origin.forwarder.turn()
        return len(await origin.outbox.held()) == 2

    await until(found)
    await until(lambda: empty(other))
    await origin.forwarder.hear()
    held = await origin.outbox.held()
    reasons = {one.item.external_id: one.reason for one in held}
    assert set(reasons) == {"ext-3", "ext-5"}
    assert reasons["ext-5"] == "User not found"
    assert {one.state for one in held} == {ItemState.DEAD}
    assert await other.outbox.held() == []
    assert billed(zion) == used([one for one in records if one.external_id not in reasons])

    # A person saw to it, and has them sent again.
    zion.clear_faults()
    zion.put_user(USERS[5])
    await origin.outbox.replay([one.item.id for one in held])
    await origin.forwarder.turn()
    await until(lambda: empty(other))
    assert billed(zion) == used(records)


async def test_the_window_bounds_what_is_in_the_stream_but_not_a_flush(make: Make) -> None:
    sidecar = make("one", window=10)
    await sidecar.use(40)
    for _ in range(5):
        await sidecar.forwarder.turn()
    assert (await sidecar.outbox.backlog()).items[ItemState.HANDED] == 10
    await sidecar.forwarder.flush(DEADLINE_S)
    assert (await sidecar.outbox.backlog()).items[ItemState.HANDED] == 40


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """One that a test may stop; on TCP, for a Unix socket's path would be too long."""
    folder = tmp_path_factory.mktemp("redis")
    with start_redis(work_dir=folder, tcp=True) as server:
        yield server


async def test_while_redis_is_away_usage_goes_straight_to_zion_and_then_back(
    make: Make, zion: ZionStandIn, own_redis: RunningRedis
) -> None:
    fleet = [make(f"s{n}", url=own_redis.url) for n in range(2)]
    for sidecar in fleet:
        sidecar.start()
    records = [one for sidecar in fleet for one in await sidecar.use(40)]
    await until(lambda: all_settled(*fleet))

    own_redis.stop()
    records += [one for sidecar in fleet for one in await sidecar.use(40, first=40)]

    async def all_but_what_was_handed() -> bool:
        backlogs = [await sidecar.outbox.backlog() for sidecar in fleet]
        return all(
            backlog.records == backlog.items[ItemState.READY] == backlog.items[ItemState.SENT] == 0
            for backlog in backlogs
        )

    await until(all_but_what_was_handed)
    handed = [(await one.outbox.backlog()).items[ItemState.HANDED] for one in fleet]
    # Only by a call each that failed, and may have been carried out.
    assert sum(handed) < 80

    own_redis.restart(forget=True)
    records += [one for sidecar in fleet for one in await sidecar.use(40, first=80)]
    await until(lambda: all_settled(*fleet))
    ambiguous = sum(sidecar.reporter.counters.ambiguous for sidecar in fleet)
    assert billed(zion, once=True) == used(records)
    assert doubled(zion) <= ambiguous
    assert ambiguous <= sum(handed)

    async def back() -> bool:
        return not any(sidecar.queue.away for sidecar in fleet)

    await until(back)


async def test_with_redis_and_zion_away_all_waits_and_then_all_is_billed(
    make: Make, zion: ZionStandIn, own_redis: RunningRedis
) -> None:
    sidecar = make("one", url=own_redis.url)
    zion.set_fault(ZionCall.BATCH, FaultKind.DROP)
    own_redis.stop()
    sidecar.start()
    records = await sidecar.use(40)

    async def tried() -> bool:
        return sidecar.reporter.counters.failed_batches > 3

    await until(tried)
    assert (await sidecar.outbox.backlog()).undelivered == 40
    own_redis.restart()
    zion.clear_faults()
    await until(sidecar.settled)
    assert billed(zion, once=True) == used(records)
    assert doubled(zion) == 0


async def test_a_stream_that_is_given_up_is_taken_for_sent(make: Make, zion: ZionStandIn) -> None:
    """``usage.hop`` changed to ``direct``: nobody reads the stream any more, as far as we know."""
    sidecar = make("one")
    records = await sidecar.use(40)
    await sidecar.forwarder.turn()
    await sidecar.outbox.unhand()
    direct = Reporter(sidecar.outbox, sidecar.zion)
    assert (await direct.drain(DEADLINE_S)).left == 0
    assert billed(zion) == used(records)
    assert direct.counters.ambiguous == 40


@pytest.mark.parametrize("away", [None, "zion", "redis", "both"])
async def test_a_drain_hands_over_reports_and_tells_so(
    make: Make,
    zion: ZionStandIn,
    own_redis: RunningRedis,
    caplog: pytest.LogCaptureFixture,
    away: str | None,
) -> None:
    caplog.set_level("INFO", "sentinel.usage")
    sidecar = make("one", url=own_redis.url)
    sidecar.start()
    records = await sidecar.use(40)
    await until(sidecar.settled)
    if away in ("redis", "both"):
        own_redis.stop()
    if away in ("zion", "both"):
        zion.set_fault(ZionCall.BATCH, FaultKind.RATE_LIMITED, retry_after_s=30)
    records += await sidecar.use(40, first=40)
    await drain(
        sidecar.outbox,
        sidecar.reporter,
        5.0 if away in (None, "redis") else 1.0,
        forwarder=sidecar.forwarder,
        queue=sidecar.queue,
    )
    told = {entry.message: entry.__dict__ for entry in caplog.records}
    handed, last = told["usage_handed_over"], told["usage_drained"]
    assert handed["seconds"] <= last["seconds"]
    items = {state: n for state, n in last["items"].items() if n}
    if away is None:
        assert (last["left"], last["records_unsealed"], items) == (0, 0, {})
        assert billed(zion) == used(records)
    elif away == "zion":
        assert items == {"handed": 40}  # another sidecar can bill them
        assert (await sidecar.stream.poll(0)).entries + (await sidecar.stream.poll(1)).entries == 40
    elif away == "redis":
        # But for a call that failed, and may have been carried out.
        assert set(items) <= {"handed"}
        assert last["left"] == items.get("handed", 0)
    else:
        assert set(items) <= {"ready", "handed"}
        assert last["left"] + last["records_unsealed"] >= 40
    assert "sent" not in items, "nothing was cut off while it was being sent"


async def test_a_drain_hears_of_what_another_one_is_billing(make: Make) -> None:
    one, two = make("one"), make("two")
    await one.use(20)
    await one.forwarder.turn()
    taken = await two.queue.claim(100)
    assert len(taken) == 20
    closing = asyncio.Event()
    close = one.queue.aclose

    async def close_and_say() -> None:
        await close()
        closing.set()

    one.queue.aclose = close_and_say  # type: ignore[method-assign]
    leaving = asyncio.create_task(
        drain(one.outbox, one.reporter, 5.0, forwarder=one.forwarder, queue=one.queue)
    )
    await closing.wait()
    await two.queue.settle(Settlement(acknowledged=tuple(queued.item.id for queued in taken)))
    await leaving
    assert await one.settled()
