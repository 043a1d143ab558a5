"""Many at once against one real Redis."""

from __future__ import annotations

import asyncio
import os

from sentinel_extproc.errors import LimitExceeded
from sentinel_extproc.limits.limit import Kind, Limit
from sentinel_extproc.limits.limiter import StoreLimiter
from sentinel_extproc.limits.model import (
    NOTHING,
    Quantities,
    Reservation,
    ReserveRequest,
    Subject,
    Unit,
)
from sentinel_extproc.limits.policy import Policy, Rule, default_policy
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.redis import Client, RedisStore

ROUNDS = int(os.environ.get("SENTINEL_TEST_ROUNDS", "100"))
HANDED_BACK = 9
"""Rounds that also hand back; the kinds take turns."""
TASKS, LIMIT = 200, 100


def subject(user: str) -> Subject:
    return Subject(user, "/v1/chat/completions", "chat", "gpt-4o")


async def attempt(limiter: StoreLimiter, user: str, number: int) -> Reservation | None:
    request = ReserveRequest(f"{user}-{number}", subject(user), Quantities(1, 3, 4))
    try:
        return await limiter.reserve(request)
    except LimitExceeded:
        return None


def limiter_of(store: RedisStore, kind: Kind) -> StoreLimiter:
    # An hour, so that a bucket refills nothing while the test runs.
    limit = Limit(name="only", unit=Unit.REQUESTS, kind=kind, capacity=LIMIT, period_ms=3_600_000)
    return StoreLimiter(store, Policy((Rule(limits=(limit,)),)))


async def at_once(limiter: StoreLimiter, user: str) -> list[Reservation]:
    tried = await asyncio.gather(*(attempt(limiter, user, number) for number in range(TASKS)))
    return [reservation for reservation in tried if reservation is not None]


async def test_200_at_once_on_a_limit_of_100_admit_exactly_100(redis_client: Client) -> None:
    store = RedisStore(redis_client, timeout_s=5.0, queue_timeout_s=30.0)
    limiters = [limiter_of(store, kind) for kind in Kind]
    for number in range(ROUNDS):
        limiter, user = limiters[number % len(limiters)], f"user-{number}"
        admitted = await at_once(limiter, user)
        assert len(admitted) == LIMIT
        if number >= HANDED_BACK:
            continue
        # What is handed back can be taken again, and no more than that.
        for reservation in admitted[:30]:
            await limiter.settle(reservation, NOTHING)
        await limiter.flush()
        more = await asyncio.gather(
            *(attempt(limiter, user, TASKS + extra) for extra in range(TASKS))
        )
        assert sum(reservation is not None for reservation in more) == 30


async def test_two_replicas_let_in_exactly_as_many_at_once_as_may(redis_url: str) -> None:
    stores = [
        RedisStore(build_client(redis_url, timeout_s=5.0), timeout_s=5.0, queue_timeout_s=30.0)
        for _ in range(2)
    ]
    limiters = [limiter_of(store, Kind.CONCURRENCY) for store in stores]

    async def wave(number: int) -> list[tuple[StoreLimiter, Reservation]]:
        tried = await asyncio.gather(
            *(
                attempt(limiters[place % 2], "user", number * TASKS + place)
                for place in range(TASKS)
            )
        )
        return [
            (limiters[place % 2], reservation)
            for place, reservation in enumerate(tried)
            if reservation is not None
        ]

    running = await wave(0)
    assert len(running) == LIMIT
    # In each wave some end, and as many are let in, wherever they ask.
    for number in range(1, 11):
        ended, running = running[: number * 7], running[number * 7 :]
        for limiter, reservation in ended:
            await limiter.settle(reservation, Quantities(1, 3, 4))
        await asyncio.gather(*(limiter.flush() for limiter in limiters))
        running += await wave(number)
        assert len(running) == LIMIT
    for limiter, reservation in running:
        await limiter.settle(reservation, Quantities(1, 3, 4))
    await asyncio.gather(*(limiter.close() for limiter in limiters))


async def test_what_a_crashed_replica_held_is_free_within_a_minute(redis_url: str) -> None:
    now = [1_795_392_000_000]

    def replica() -> StoreLimiter:
        client = build_client(redis_url, timeout_s=5.0)
        store = RedisStore(client, timeout_s=5.0, queue_timeout_s=30.0, clock=lambda: now[0])
        limit = Limit(name="only", unit=Unit.REQUESTS, kind=Kind.CONCURRENCY, capacity=4)
        return StoreLimiter(store, Policy((Rule(limits=(limit,)),)), clock=lambda: now[0] / 1000)

    crashes, lives = replica(), replica()
    for number in range(3):
        assert await attempt(crashes, "user", number) is not None
    mine = await attempt(lives, "user", 10)
    assert mine is not None
    assert await attempt(lives, "user", 11) is None
    await crashes.close()  # with it goes who would have renewed; nothing is settled
    for _ in range(6):
        now[0] += 10_000
        await lives.renew_due()
    assert [await attempt(lives, "user", 20 + number) is not None for number in range(4)] == [
        True,
        True,
        True,
        False,
    ]
    await lives.close()


async def test_reserves_cancelled_at_any_moment_leave_nothing_behind(redis_client: Client) -> None:
    limiter = StoreLimiter(
        RedisStore(redis_client, timeout_s=5.0, queue_timeout_s=30.0),
        default_policy(requests=LIMIT),
    )
    for pause in range(20):
        tasks = [
            asyncio.create_task(attempt(limiter, "user", 1_000 + pause * 100 + number))
            for number in range(20)
        ]
        # Nothing is waited for but turns of the loop: each round cancels a little later.
        for _ in range(pause):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        for reservation in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(reservation, Reservation):
                await limiter.settle(reservation, NOTHING)
    await limiter.flush()
    assert len(await at_once(limiter, "user")) == LIMIT


async def test_no_cancellation_gets_lost_in_a_command(redis_client: Client) -> None:
    store = RedisStore(redis_client, timeout_s=5.0, queue_timeout_s=30.0)
    for turns in range(200):
        tasks = [asyncio.create_task(store.beat("replica", 60.0)) for _ in range(4)]
        for _ in range(turns % 20):
            await asyncio.sleep(0)
        was_running = [task for task in tasks if not task.done() and task.cancel()]
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in was_running)
