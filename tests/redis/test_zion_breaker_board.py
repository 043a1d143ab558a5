"""The fleet's breaker in a real Redis: two replicas, restarts, and a Redis that goes away."""

from __future__ import annotations

import asyncio

import pytest

from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.redis import Client
from sentinel_extproc.zion.breaker import Breaker, BreakerPolicy, Permit, Refusal, State
from sentinel_extproc.zion.breaker_board import Posted, RedisBoard
from sentinel_extproc.zion.shared_breaker import SharedBreaker


class Replica:
    """A process with a clock of its own; the board's time is Redis'."""

    def __init__(self, client: Client, *, open_s: float = 0.05) -> None:
        self.now = 0.0
        self.board = RedisBoard(client, "lookup", budget_s=5.0, clock=lambda: self.now)
        policy = BreakerPolicy(min_calls=1, open_s=open_s)
        self.shared = SharedBreaker(Breaker(policy), self.board, clock=lambda: self.now)

    async def looks(self) -> Permit | Refusal:
        """The next call, after the mirror has become too old."""
        self.now += 1.0
        return await self.shared.admit()

    async def fails(self) -> None:
        granted = await self.shared.admit()
        assert isinstance(granted, Permit)
        self.shared.failure(granted)
        await self.shared.settled()


async def time_over(board: RedisBoard) -> Posted:
    async with asyncio.timeout(10):
        while True:
            posted = await board.look()
            assert posted is not None
            if posted.left_s == 0:
                return posted
            await asyncio.sleep(0.005)


async def test_one_opens_it_and_all_find_it_open(redis_client: Client) -> None:
    here, there = Replica(redis_client, open_s=30.0), Replica(redis_client)
    assert isinstance(await there.shared.admit(), Permit)
    await here.fails()
    refused = await there.looks()
    assert isinstance(refused, Refusal)
    assert 0 < refused.retry_after_s <= 30
    assert there.shared.state is State.OPEN


async def test_a_restart_keeps_it_open(redis_client: Client) -> None:
    await Replica(redis_client, open_s=30.0).fails()
    again = Replica(redis_client)
    await again.shared.prime()
    assert again.shared.state is State.OPEN
    assert isinstance(await again.shared.admit(), Refusal)


async def test_two_who_notice_at_once_do_not_lengthen_it(redis_client: Client) -> None:
    here, there = Replica(redis_client, open_s=30.0), Replica(redis_client, open_s=50.0)
    permits = [await replica.shared.admit() for replica in (here, there)]
    for replica, permit in zip((here, there), permits, strict=True):
        assert isinstance(permit, Permit)
        replica.shared.failure(permit)
        await replica.shared.settled()
    posted = await here.board.look()
    assert posted is not None
    assert posted.open_s == 30.0
    refused = await there.looks()
    assert isinstance(refused, Refusal)
    assert refused.retry_after_s <= 30.0


async def test_one_probe_for_all_and_its_success_closes_it_everywhere(
    redis_client: Client,
) -> None:
    replicas = [Replica(redis_client) for _ in range(5)]
    await replicas[0].fails()
    await time_over(replicas[0].board)
    answers = await asyncio.gather(*(replica.looks() for replica in replicas))
    probes = [answer for answer in answers if isinstance(answer, Permit)]
    assert len(probes) == 1
    assert probes[0].probe
    prober = replicas[answers.index(probes[0])]
    prober.shared.success(probes[0])
    await prober.shared.settled()
    for replica in replicas:
        granted = await replica.looks()
        assert isinstance(granted, Permit)
        assert not granted.probe
        assert replica.shared.state is State.CLOSED


async def test_a_failed_probe_doubles_it_everywhere_up_to_the_bound(redis_client: Client) -> None:
    here, there = Replica(redis_client, open_s=0.02), Replica(redis_client, open_s=0.02)
    await here.fails()
    for expected in (0.04, 0.08, 0.16):
        await time_over(here.board)
        prober, other = (here, there) if expected != 0.08 else (there, here)
        granted = await prober.looks()
        assert isinstance(granted, Permit)
        prober.shared.failure(granted)
        await prober.shared.settled()
        posted = await other.board.look()
        assert posted is not None
        assert posted.open_s == pytest.approx(expected)
    assert isinstance(await there.board.open(60.0, 60.0), Posted)


async def test_a_lost_probe_is_somebody_elses_after_its_time(redis_client: Client) -> None:
    here, there = Replica(redis_client), Replica(redis_client)
    await here.fails()
    await time_over(here.board)
    first = await here.board.probe(0.05)
    assert first is not None
    assert first.granted
    async with asyncio.timeout(10):
        while True:
            again = await there.board.probe(10.0)
            assert again is not None
            if again.granted:
                break
            assert 0 < again.probe_left_s <= 0.05
            await asyncio.sleep(0.005)


async def test_only_the_owner_gives_a_probe_back(redis_client: Client) -> None:
    here, there = Replica(redis_client), Replica(redis_client)
    await here.fails()
    await time_over(here.board)
    for board, expected in ((here.board, True), (there.board, False)):
        posted = await board.probe(30.0)
        assert posted is not None
        assert posted.granted is expected
    await there.board.release()
    refused = await there.board.probe(30.0)
    assert refused is not None
    assert not refused.granted
    await here.board.release()
    granted = await there.board.probe(30.0)
    assert granted is not None
    assert granted.granted


async def test_a_late_success_does_not_close_what_was_opened_since(redis_client: Client) -> None:
    here = Replica(redis_client)
    await here.fails()
    old = await time_over(here.board)
    await here.board.open(30.0, 30.0)
    posted = await here.board.close(old.version)
    assert posted is not None
    assert posted.open_s == 30.0


async def test_everything_expires(redis_client: Client) -> None:
    here = Replica(redis_client)
    await here.fails()
    await time_over(here.board)
    await here.board.probe(10.0)
    keys = [key async for key in redis_client.scan_iter("*breaker*")]
    assert len(keys) == 2
    for key in keys:
        assert 0 < await redis_client.pttl(key) <= 600_050


async def test_redis_away_leaves_the_decision_here() -> None:
    client = build_client("redis://127.0.0.1:1")
    lonely = Replica(client, open_s=5.0)
    await lonely.shared.prime()
    await lonely.fails()
    assert await lonely.shared.admit() == Refusal(5.0)
    lonely.now += 5.0
    probe = await lonely.shared.admit()
    assert isinstance(probe, Permit)
    assert probe.probe
    lonely.shared.success(probe)
    await lonely.shared.settled()
    assert lonely.shared.state is State.CLOSED
    await client.aclose()


async def test_a_redis_that_lost_everything_is_told_again(redis_client: Client) -> None:
    here, there = Replica(redis_client, open_s=30.0), Replica(redis_client)
    await here.fails()
    await redis_client.flushall()
    await redis_client.script_flush()
    assert isinstance(await there.looks(), Permit)
    assert isinstance(await here.looks(), Refusal)
    await here.shared.settled()
    assert isinstance(await there.looks(), Refusal)
