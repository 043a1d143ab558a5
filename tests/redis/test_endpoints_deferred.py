"""Who owes for deferred work, in the real Redis."""

from __future__ import annotations

import asyncio

from sentinel_extproc.limits.store.redis import Client
from sentinel_extproc.usage.deferred import RedisDeferredUsage


def book(client: Client) -> RedisDeferredUsage:
    return RedisDeferredUsage(client, prefix="test", budget_s=5.0)


async def test_only_its_owner_is_billed_and_once(redis_client: Client) -> None:
    one, other = book(redis_client), book(redis_client)
    await one.register("batch_1", "ada")
    await other.register("batch_1", "eve")  # too late: it has an owner
    assert not await one.claim("batch_1", "eve")
    assert not await one.claim("batch_2", "ada")
    won = await asyncio.gather(*(b.claim("batch_1", "ada") for b in (one, other) * 20))
    assert sum(won) == 1
    await one.confirm("batch_1")
    assert not await other.claim("batch_1", "ada")
    assert await redis_client.dbsize() == 0


async def test_a_claim_that_was_never_confirmed_can_be_made_again(redis_client: Client) -> None:
    debts = book(redis_client)
    await debts.register("batch_1", "ada")
    assert await debts.claim("batch_1", "ada")
    lease = "test:1:deferred:{batch_1}:lease"
    assert 0 < await redis_client.ttl(lease) <= 120
    await redis_client.delete(lease)  # as its expiry does
    assert await debts.claim("batch_1", "ada")


async def test_what_nobody_asks_about_is_forgotten_in_the_end(redis_client: Client) -> None:
    await book(redis_client).register("batch_1", "ada")
    assert 30 * 86_400 < await redis_client.ttl("test:1:deferred:{batch_1}") <= 35 * 86_400
