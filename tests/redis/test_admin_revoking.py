"""Control calls through the admin application, held by epochs in a real Redis."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx

from sentinel_extproc.admin.guard import Access
from sentinel_extproc.admin.revoking import AllForgetters, RevokerControl
from sentinel_extproc.admin.routes import admin_app
from sentinel_extproc.identity.revocation import EndStreams, Revoker, StoreEpochs
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.redis import Client, RedisStore

DIGEST = hashlib.sha256(b"sk-ada").digest()


class Cache:
    """A ``Forgetter`` that remembers what it forgot."""

    def __init__(self) -> None:
        self.forgotten: list[object] = []

    def forget_token(self, token_sha256: bytes) -> None:
        self.forgotten.append(token_sha256)

    def forget_user(self, external_id: str) -> None:
        self.forgotten.append(external_id)

    def forget_all(self) -> None:
        self.forgotten.append("all")


class Port:
    def __init__(self, client: Client, *, end_streams: EndStreams | None = None) -> None:
        self.store = RedisStore(client, timeout_s=5.0)
        self.caches = (Cache(), Cache())
        revoker = Revoker(self.store, client, local=AllForgetters(*self.caches))

        async def status() -> dict[str, Any]:
            return {}

        self.app = admin_app(
            exposition=lambda _: (b"", "text/plain"),
            checks={},
            status=status,
            access=Access(token=None, trusted_peers=True),
            hosts=None,
            control=RevokerControl(revoker.revoke, end_streams=end_streams),
        )

    async def call(self, path: str, **body: object) -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://x"
        ) as client:
            return await client.post(path, json=body)

    async def epochs(self) -> tuple[int, ...]:
        """Of everybody, the user ada, and her token."""
        found = await StoreEpochs(self.store).epochs("ada", DIGEST)
        return tuple(epoch.seen for epoch in found)


def moved(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[bool, ...]:
    return tuple(new > old for old, new in zip(before, after, strict=True))


async def test_each_target_moves_its_own_epoch_and_is_forgotten(redis_client: Client) -> None:
    port = Port(redis_client)
    for body, expected, forgotten in (
        ({"user": "ada"}, (False, True, False), "ada"),
        ({"everybody": True}, (True, False, False), "all"),
        ({"token": "sk-ada", "owner": "ada"}, (False, False, True), DIGEST),
        ({"token_sha256": DIGEST.hex(), "owner": "ada"}, (False, False, True), DIGEST),
    ):
        before = await port.epochs()
        answer = await port.call("/v1/revoke", **body)
        assert answer.status_code == 200
        assert answer.json()["everywhere"] is True
        assert moved(before, await port.epochs()) == expected
        assert [cache.forgotten[-1] for cache in port.caches] == [forgotten, forgotten]


async def test_a_token_whose_owner_nobody_knows_is_not_certain_everywhere(
    redis_client: Client,
) -> None:
    port = Port(redis_client)
    answer = await port.call("/v1/revoke", token="sk-ada")
    assert answer.json()["everywhere"] is False
    assert port.caches[0].forgotten == [DIGEST]
    assert await port.epochs() == (0, 0, 0)


async def test_invalidating_holds_everywhere_too(redis_client: Client) -> None:
    port = Port(redis_client)
    answer = await port.call("/v1/invalidate", user="ada")
    assert (answer.status_code, answer.json()["everywhere"]) == (200, True)
    assert moved((0, 0, 0), await port.epochs()) == (False, True, False)


async def test_streams_are_ended_after_the_epoch_has_moved(redis_client: Client) -> None:
    ended: list[str | None] = []

    def end(external_id: str | None) -> int:
        ended.append(external_id)
        return 5

    port = Port(redis_client, end_streams=end)
    answer = await port.call("/v1/revoke", user="ada", streams=True)
    assert answer.json()["streams"] == 5
    assert ended == ["ada"]
    assert (await port.call("/v1/revoke", user="ada")).json()["streams"] == 0
    assert len(ended) == 1


async def test_streams_that_cannot_be_ended_are_never_passed_over(redis_client: Client) -> None:
    for port, body in (
        (Port(redis_client), {"user": "ada"}),
        (Port(redis_client, end_streams=lambda _: 1), {"token": "sk-ada", "owner": "ada"}),
    ):
        answer = await port.call("/v1/revoke", streams=True, **body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "streams_not_supported"
        assert await port.epochs() == (0, 0, 0)


async def test_with_redis_gone_a_revocation_fails_loudly_and_is_forgotten_here() -> None:
    client = build_client("unix:///nonexistent/redis.sock", timeout_s=5.0)
    port = Port(client)
    answer = await port.call("/v1/revoke", user="ada")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "revocation_failed")
    assert port.caches[1].forgotten == ["ada"]
    await client.aclose()
