"""Tokens that an operator revoked while the identity source still accepts them, on a real Redis."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from sentinel_extproc.errors import Unauthenticated, Unavailable
from sentinel_extproc.identity.denylist import RedisDenyList
from sentinel_extproc.identity.effect import EffectTimes
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.revocation import (
    Kind,
    Revocation,
    RevocationFeed,
    Revoker,
    StoreEpochs,
)
from sentinel_extproc.identity.service import CachedAuthenticator
from sentinel_extproc.identity.shared import RedisSharedCache
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.redis import Client, RedisStore

TOKEN = hashlib.sha256(b"t").digest()
REVOKED = Revocation(Kind.TOKEN, external_id="ext-a", token=TOKEN.hex())


class Source:
    """Accepts every token, and lets a test come in between question and answer."""

    def __init__(self) -> None:
        self.calls = 0
        self.open = asyncio.Event()
        self.open.set()
        self.entered = asyncio.Event()

    async def identify(self, token: str) -> Principal:
        self.calls += 1
        self.entered.set()
        await self.open.wait()
        return Principal("ext-a", "a", "a@example.org")


class Replica:
    def __init__(self, client: Client, source: Source) -> None:
        self.store = RedisStore(client, timeout_s=5.0)
        shared = RedisSharedCache(client, budget_s=5.0)
        self.denials = RedisDenyList(client, ttl_s=600.0, budget_s=5.0)
        self.effect = EffectTimes()
        self.authenticator = CachedAuthenticator(
            source,
            shared=shared,
            epochs=StoreEpochs(self.store),
            denials=self.denials,
            effect=self.effect,
        )
        self.revoker = Revoker(
            self.store, client, local=self.authenticator, shared=shared, denials=self.denials
        )

    async def refuses(self) -> None:
        with pytest.raises(Unauthenticated) as caught:
            await self.authenticator.authenticate("t")
        assert (caught.value.status, caught.value.code) == (401, "token_revoked")


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
async def replicas(redis_client: Client, source: Source) -> AsyncIterator[list[Replica]]:
    made = [Replica(redis_client, source) for _ in range(2)]
    yield made
    for replica in made:
        await replica.authenticator.aclose()


async def test_a_revoked_token_stays_refused_though_the_source_accepts_it(
    replicas: list[Replica], source: Source
) -> None:
    here, there = replicas
    await here.authenticator.authenticate("t")
    await there.authenticator.authenticate("t")
    calls = source.calls
    await here.revoker.revoke(REVOKED)
    for _ in range(3):
        await here.refuses()
    with pytest.raises(Unauthenticated):  # what follows the reservation's "revoked", unheard
        await there.authenticator.recheck("t")
    await there.refuses()
    assert source.calls == calls
    assert here.denials.counters.added == 1
    assert here.denials.counters.refused == 3
    # A process that starts after it finds the list.
    await Replica(here.revoker._client, source).refuses()


async def test_the_time_until_it_was_noticed_is_measured(replicas: list[Replica]) -> None:
    here, there = replicas
    await there.authenticator.authenticate("t")
    await here.revoker.revoke(REVOKED)
    with pytest.raises(Unauthenticated):
        await there.authenticator.recheck("t")
    assert there.effect.count == 1
    assert 0 <= there.effect.last_s < 60
    with pytest.raises(Unauthenticated):
        await there.authenticator.recheck("t")
    assert there.effect.count == 1


async def test_a_token_is_refused_even_when_nobody_knows_whose_it_is(
    replicas: list[Replica],
) -> None:
    here, there = replicas
    result = await here.revoker.revoke(Revocation(Kind.TOKEN, token=TOKEN.hex()))
    assert not result.everywhere
    await there.refuses()


@pytest.mark.parametrize(
    "revocation",
    [
        Revocation(Kind.ALL),
        Revocation(Kind.USER, external_id="ext-a"),
        Revocation(Kind.TOKEN, external_id="ext-a", token=TOKEN.hex(), void_only=True),
    ],
)
async def test_everything_else_only_voids_what_is_cached(
    replicas: list[Replica], source: Source, revocation: Revocation
) -> None:
    here = replicas[0]
    await here.authenticator.authenticate("t")
    calls = source.calls
    await here.revoker.revoke(revocation)
    await here.authenticator.authenticate("t")
    assert source.calls > calls
    assert here.denials.counters.added == 0


async def test_an_answer_that_was_on_its_way_is_not_believed(
    replicas: list[Replica], source: Source
) -> None:
    here, there = replicas
    source.open.clear()
    asking = asyncio.create_task(there.authenticator.authenticate("t"))
    async with asyncio.timeout(10):
        await source.entered.wait()
        await here.revoker.revoke(REVOKED)
        source.open.set()
        with pytest.raises(Unauthenticated):
            await asking


async def test_replicas_that_hear_of_it_need_not_ask_redis(
    redis_url: str, replicas: list[Replica]
) -> None:
    here, there = replicas
    client = build_client(redis_url, timeout_s=None)
    feed = RevocationFeed(
        client, (there.authenticator,), denials=there.denials, effect=there.effect
    )
    feed.start()
    async with asyncio.timeout(10):
        await feed.listening.wait()
        await here.revoker.revoke(REVOKED)
        while not feed.heard:  # noqa: ASYNC110  counts what came from outside
            await asyncio.sleep(0.005)
    assert there.denials.mirrored(TOKEN)
    assert there.effect.count == 1
    assert 0 <= there.effect.seconds < 60
    await here.revoker.revoke(Revocation(Kind.USER, external_id="ext-a"))
    await feed.aclose()
    await client.aclose()
    assert len(there.denials) == 1


async def test_the_list_expires_and_the_mirror_with_it(redis_client: Client) -> None:
    now = 0.0
    written = RedisDenyList(redis_client, ttl_s=600.0, budget_s=5.0, clock=lambda: now)
    await written.deny(TOKEN)
    (key,) = [key async for key in redis_client.scan_iter("*deny*")]
    assert 0 < await redis_client.pttl(key) <= 600_000
    found = RedisDenyList(redis_client, ttl_s=600.0, budget_s=5.0, clock=lambda: now)
    assert not found.mirrored(TOKEN)
    assert await found.denied(TOKEN)
    assert found.mirrored(TOKEN)
    now = 600.0
    assert not found.mirrored(TOKEN)
    await redis_client.delete(key)
    assert not await written.denied(TOKEN)


async def test_the_mirror_is_bounded_and_redis_still_knows(redis_client: Client) -> None:
    denials = RedisDenyList(redis_client, budget_s=5.0, max_entries=3)
    digests = [hashlib.sha256(bytes([place])).digest() for place in range(5)]
    for digest in digests:
        await denials.deny(digest)
    assert len(denials) == 3
    assert not denials.mirrored(digests[0])
    assert all([await denials.denied(digest) for digest in digests])


async def test_without_redis_the_mirror_stands_and_revoking_says_that_it_failed() -> None:
    client = build_client("redis://127.0.0.1:1")
    denials = RedisDenyList(client)
    assert not await denials.denied(TOKEN)
    assert denials.counters.unsure == 1
    with pytest.raises(Unavailable, match="repeat"):
        await denials.deny(TOKEN)
    assert await denials.denied(TOKEN)
    await client.aclose()


async def test_the_message_says_when_and_what(redis_url: str, replicas: list[Replica]) -> None:
    client = build_client(redis_url, timeout_s=None)
    feed = client.pubsub()
    await feed.subscribe("sentinel:revocations")
    await replicas[0].revoker.revoke(REVOKED)
    async with asyncio.timeout(10):
        async for message in feed.listen():
            if message["type"] == "message":
                break
    heard = msgspec.json.decode(message["data"], type=Revocation)
    assert heard.denies
    assert heard.at_ms > 0
    await feed.aclose()  # type: ignore[no-untyped-call]
    await client.aclose()


async def test_a_mistaken_owner_does_not_protect_the_token(replicas: list[Replica]) -> None:
    here, there = replicas
    cached = await there.authenticator.authenticate("t")
    await here.revoker.revoke(Revocation(Kind.TOKEN, external_id="ext-wrong", token=TOKEN.hex()))
    current = await StoreEpochs(here.store).epochs("ext-a", TOKEN)
    assert current != cached.epochs


async def test_a_jwt_revoked_by_its_text_is_refused_in_other_spellings(
    replicas: list[Replica],
) -> None:
    here, there = replicas
    signed = "eyJhbGciOiJFUzI1NiJ9.e30"
    token = f"{signed}.c2ln"
    await there.authenticator.authenticate(token)
    respelt = await there.authenticator.authenticate(f"{signed}.b3RoZXI")
    text = hashlib.sha256(token.encode()).digest()
    await here.revoker.revoke(Revocation(Kind.TOKEN, token=text.hex()))
    for spelling in (token, f"{signed}.b3RoZXI", f"{token}=="):
        with pytest.raises(Unauthenticated) as caught:
            await here.authenticator.authenticate(spelling)
        assert caught.value.code == "token_revoked"
    # Where no message arrived, the reservation finds out.
    digests = [hashlib.sha256(part.encode()).digest() for part in (f"{signed}.b3RoZXI", signed)]
    assert await StoreEpochs(here.store).epochs("ext-a", *digests) != respelt.epochs
    with pytest.raises(Unauthenticated):
        await there.authenticator.recheck(f"{signed}.b3RoZXI")
