"""The identity cache's second level and revocation, on a real Redis, between two replicas."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import RedisClusterException

from sentinel_extproc.errors import Unauthenticated, Unavailable
from sentinel_extproc.identity.denylist import RedisDenyList
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.revocation import (
    Kind,
    Revocation,
    RevocationFeed,
    Revoker,
    StoreEpochs,
    token_epoch,
)
from sentinel_extproc.identity.service import CachedAuthenticator
from sentinel_extproc.identity.shared import RedisSharedCache, SharedEntry
from sentinel_extproc.limits.model import Epoch
from sentinel_extproc.limits.store import StoreError
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.redis import Client, RedisStore

ALICE = Principal("ext-a", "a", "a@example.org", "pro", (Epoch("all", 3), Epoch("user", 0)))
TOKEN = hashlib.sha256(b"t").digest()


class Source:
    def __init__(self) -> None:
        self.calls = 0
        self.valid = True

    async def identify(self, token: str) -> Principal:
        self.calls += 1
        if not self.valid:
            raise Unauthenticated("The API key is not valid.")
        return Principal("ext-a", "a", "a@example.org")


class Replica:
    """One process' parts, as the program puts them together."""

    def __init__(self, client: Client, source: Source) -> None:
        self.store = RedisStore(client, timeout_s=5.0)
        self.shared = RedisSharedCache(client, budget_s=5.0)
        self.authenticator = CachedAuthenticator(
            source, shared=self.shared, epochs=StoreEpochs(self.store)
        )
        self.revoker = Revoker(self.store, client, local=self.authenticator, shared=self.shared)

    async def admitted(self, principal: Principal) -> bool:
        """What the reservation finds out: whether an epoch has moved."""
        names = tuple(epoch.name for epoch in principal.epochs)
        current = await self.store.epochs(principal.external_id, names)
        return not any(
            now.seen > then.seen for now, then in zip(current, principal.epochs, strict=True)
        )


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
async def replicas(redis_client: Client, source: Source) -> AsyncIterator[list[Replica]]:
    made = [Replica(redis_client, source) for _ in range(2)]
    yield made
    for replica in made:
        await replica.authenticator.aclose()


async def test_entries_come_back_as_they_went(redis_client: Client) -> None:
    shared = RedisSharedCache(redis_client, budget_s=5.0)
    assert await shared.get(TOKEN) is None
    entry = SharedEntry(ALICE, 1_767_225_600_123)
    await shared.put(TOKEN, entry, 60)
    assert await shared.get(TOKEN) == entry
    ((key, life_ms),) = [
        (key, await redis_client.pttl(key)) async for key in redis_client.scan_iter("sentinel:*")
    ]
    assert TOKEN.hex().encode() in key
    assert 0 < life_ms <= 60_000
    await shared.remove(TOKEN)
    assert await shared.get(TOKEN) is None
    await shared.put(TOKEN, entry, 0.0)
    assert await shared.get(TOKEN) is None


@pytest.mark.parametrize("body", [b"", b"garbage", b"\x91\x01", b"\xc1"])
async def test_what_another_version_stored_is_a_miss(redis_client: Client, body: bytes) -> None:
    shared = RedisSharedCache(redis_client, budget_s=5.0)
    await redis_client.set(f"sentinel:1:id:{TOKEN.hex()}", body)
    assert await shared.get(TOKEN) is None


async def test_without_redis_everything_is_a_miss_and_redis_is_left_alone_for_a_moment() -> None:
    now = 0.0
    client = build_client("redis://127.0.0.1:1")
    shared = RedisSharedCache(client, clock=lambda: now)
    for _ in range(5):
        assert await shared.get(TOKEN) is None
        await shared.put(TOKEN, SharedEntry(ALICE, 0), 60)
        await shared.remove(TOKEN)
    assert (shared.counters.failures, shared.counters.skipped) == (1, 14)
    now = 1.0
    await shared.get(TOKEN)
    assert shared.counters.failures == 2
    await client.aclose()


async def test_epochs_that_can_not_be_read_are_not_made_up() -> None:
    client = build_client("redis://127.0.0.1:1")
    epochs = StoreEpochs(RedisStore(client))
    with pytest.raises(Unavailable):
        await epochs.epochs("ext-a", TOKEN)
    lowest = (Epoch("all", 0), Epoch("user", 0), Epoch(token_epoch(TOKEN), 0))
    assert epochs.lowest(TOKEN) == lowest
    await client.aclose()


REVOCATIONS = [
    Revocation(Kind.ALL),
    Revocation(Kind.USER, external_id="ext-a"),
    Revocation(Kind.TOKEN, token=TOKEN.hex()),
    Revocation(Kind.TOKEN, external_id="ext-a", token=TOKEN.hex()),
]


@pytest.mark.parametrize("revocation", REVOCATIONS)
async def test_a_revocation_here_holds_there_at_the_next_request_without_any_message(
    replicas: list[Replica], source: Source, revocation: Revocation
) -> None:
    here, there = replicas
    await here.authenticator.authenticate("t")
    cached = await there.authenticator.authenticate("t")
    assert await there.admitted(cached)
    source.valid = False
    result = await here.revoker.revoke(revocation)
    assert result.everywhere
    assert result.heard_by == 0  # nobody listens
    assert not await there.admitted(await there.authenticator.authenticate("t"))
    with pytest.raises(Unauthenticated):
        await there.authenticator.recheck("t")
    with pytest.raises(Unauthenticated):
        await here.authenticator.authenticate("t")


@pytest.mark.parametrize("revocation", REVOCATIONS)
async def test_who_is_still_welcome_gets_in_again(
    replicas: list[Replica], source: Source, revocation: Revocation
) -> None:
    here, there = replicas
    await there.authenticator.authenticate("t")
    await here.revoker.revoke(revocation)
    assert not await there.admitted(await there.authenticator.authenticate("t"))
    again = await there.authenticator.recheck("t")
    assert await there.admitted(again)
    assert await here.admitted(await here.authenticator.authenticate("t"))


async def test_others_are_not_concerned(replicas: list[Replica]) -> None:
    here, there = replicas
    principal = await there.authenticator.authenticate("t")
    await here.revoker.revoke(Revocation(Kind.USER, external_id="ext-z"))
    other = hashlib.sha256(b"other").hexdigest()
    await here.revoker.revoke(Revocation(Kind.TOKEN, external_id="ext-a", token=other))
    assert await there.admitted(principal)


async def test_a_token_that_nobody_knows_is_only_announced(replicas: list[Replica]) -> None:
    result = await replicas[0].revoker.revoke(Revocation(Kind.TOKEN, token=TOKEN.hex()))
    assert not result.everywhere


@asynccontextmanager
async def listening(redis_url: str, *replicas: Replica) -> AsyncIterator[RevocationFeed]:
    client = build_client(redis_url, timeout_s=60.0)
    feed = RevocationFeed(
        client, tuple(replica.authenticator for replica in replicas), pause_s=0.01
    )
    feed.start()
    try:
        async with asyncio.timeout(10):
            await feed.listening.wait()
        yield feed
    finally:
        await feed.aclose()
        await client.aclose()


async def until(feed: RevocationFeed, heard: int) -> None:
    async with asyncio.timeout(10):
        while feed.heard < heard:  # noqa: ASYNC110  counts what came from outside
            await asyncio.sleep(0.005)


async def test_messages_make_replicas_forget(
    redis_url: str, replicas: list[Replica], source: Source
) -> None:
    here, there = replicas
    async with listening(redis_url, there) as feed:
        for number, revocation in enumerate(REVOCATIONS, start=1):
            await there.authenticator.authenticate("t")
            assert there.authenticator.known_tokens == 1
            result = await here.revoker.revoke(revocation)
            assert result.heard_by == 1
            await until(feed, number)
            assert there.authenticator.known_tokens == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xff",
        b'{"kind":"everything"}',
        b'{"kind":"user"}',
        b'{"kind":"token","token":"zz"}',
        b'{"kind":"token","token":"ab"}',
        b'{"kind":"user","external_id":"' + b"x" * 5000 + b'"}',
    ],
)
async def test_messages_without_sense_are_passed_over(
    redis_url: str, redis_client: Client, replicas: list[Replica], body: bytes
) -> None:
    there = replicas[1]
    await there.authenticator.authenticate("t")
    async with listening(redis_url, there) as feed:
        await redis_client.publish("sentinel:revocations", body)
        await redis_client.publish("sentinel:revocations", b'{"kind":"user","external_id":"z"}')
        await until(feed, 1)
    assert there.authenticator.known_tokens == 1


async def test_the_feed_comes_back_after_its_connection_was_cut(
    redis_url: str, redis_client: Client, replicas: list[Replica]
) -> None:
    here, there = replicas
    async with listening(redis_url, there) as feed:
        await redis_client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        async with asyncio.timeout(10):
            while not feed.heard:
                # What is announced while nobody listens is lost, so it is announced again.
                await here.revoker.revoke(Revocation(Kind.USER, external_id="ext-a"))


@pytest.mark.parametrize(
    "revocation",
    [
        Revocation(Kind.USER),
        Revocation(Kind.TOKEN, token="zz"),
        Revocation(Kind.TOKEN, token="ab"),
        Revocation(Kind.TOKEN, external_id="ext-a"),
    ],
)
async def test_a_revocation_of_nothing_in_particular_is_refused(
    replicas: list[Replica], revocation: Revocation
) -> None:
    with pytest.raises(ValueError, match=r"revoked by|hexadecimal"):
        await replicas[0].revoker.revoke(revocation)


class FailingStore:
    async def epochs(self, external_id: str, names: tuple[str, ...]) -> Any:
        raise StoreError("away")

    async def revoke(self, external_id: str, name: str) -> None:
        raise StoreError("away")

    async def revoke_everybody(self) -> None:
        raise StoreError("away")


@pytest.mark.parametrize("revocation", REVOCATIONS[:2])
async def test_a_revocation_that_could_not_be_stored_says_so_and_holds_here(
    redis_client: Client, replicas: list[Replica], revocation: Revocation
) -> None:
    here = replicas[0]
    await here.authenticator.authenticate("t")
    revoker = Revoker(FailingStore(), redis_client, local=here.authenticator)
    with pytest.raises(Unavailable, match="repeat"):
        await revoker.revoke(revocation)
    assert here.authenticator.known_tokens == 0


class NoCluster:
    """A cluster that can't be reached: every command fails with what is no RedisError."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error or RedisClusterException("no node can be reached")
        self.asked = asyncio.Semaphore(0)

    async def _fail(self, *args: object, **options: object) -> Any:
        raise self.error

    get = set = pttl = publish = _fail

    def pubsub(self) -> Any:
        self.asked.release()
        raise self.error


async def test_an_unreachable_cluster_is_redis_being_away(redis_client: Client) -> None:
    client: Any = NoCluster()
    assert await RedisSharedCache(client).get(TOKEN) is None
    denials = RedisDenyList(client)
    assert await denials.denied(TOKEN) is None
    with pytest.raises(Unavailable, match="repeat"):
        await denials.deny(TOKEN)
    store = RedisStore(redis_client, timeout_s=5.0)
    local = CachedAuthenticator(Source())
    result = await Revoker(store, client, local=local).revoke(Revocation(Kind.ALL))
    assert result.heard_by is None


@pytest.mark.parametrize("error", [None, AttributeError("a fault of the library")])
async def test_the_feed_outlives_whatever_breaks_it(error: Exception | None) -> None:
    client: Any = NoCluster(error)
    feed = RevocationFeed(client, (), pause_s=0.0)
    feed.start()
    async with asyncio.timeout(10):
        for _ in range(3):
            await client.asked.acquire()
    await feed.aclose()


async def test_an_outage_of_the_feed_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    client: Any = NoCluster(None)
    feed = RevocationFeed(client, (), pause_s=0.0)
    feed.start()
    async with asyncio.timeout(10):
        for _ in range(4):
            await client.asked.acquire()
    await feed.aclose()
    told = [r for r in caplog.records if r.levelname == "WARNING" and "feed broke" in r.message]
    assert len(told) == 1
