"""What a dead sidecar had under way is put on record by exactly one other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import redis as sync_redis
import uuid_utils

from sentinel_extproc.limits.store.redis import Client
from sentinel_extproc.usage import reading
from sentinel_extproc.usage.orphans import Orphans
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Intent, Outcome


def intent(user: str = "ada") -> Intent:
    return Intent(
        id=str(uuid_utils.uuid7()),
        occurred_at_ms=1_767_225_600_000,
        external_id=f"ext-{user}",
        email=f"{user}@example.org",
        endpoint="chat",
        model="gpt-4o",
        request_id="r-1",
        predicted_input_tokens=7,
        reserved_output_tokens=99,
    )


class Sidecar:
    def __init__(self, path: Path, client: Client, silent_s: float) -> None:
        self.path = path
        self.outbox = Outbox(path, max_under_way=2000)
        self.outbox.open()
        self.orphans = Orphans(self.outbox, client, silent_s=silent_s)

    def unknown(self) -> dict[str, str | None]:
        """Ids of unknown records and their origins."""
        found = [one for _, one in reading.records(self.path, 10_000, 0)]
        assert all(one.outcome is Outcome.UNKNOWN and not one.requests for one in found)
        return {one.id: one.origin for one in found}


Make = Callable[..., Sidecar]


@pytest.fixture
async def make(tmp_path: Path, redis_client: Client) -> AsyncIterator[Make]:
    made: list[Sidecar] = []

    def one(name: str, silent_s: float = 0.0) -> Sidecar:
        made.append(Sidecar(tmp_path / f"{name}.db", redis_client, silent_s))
        return made[-1]

    yield one
    for sidecar in made:
        await sidecar.outbox.aclose()


async def test_only_what_the_dead_had_under_way_is_adopted_and_once(make: Make) -> None:
    dead = make("dead")
    over, open_one, open_two = intent(), intent(), intent("bo")
    for one in (over, open_one):
        dead.outbox.begin(one)
    await dead.orphans.look()
    await dead.outbox.append(over.unknown())  # its record is durable, so its intent is over
    dead.outbox.begin(open_two)
    await dead.orphans.look()

    others = [make(f"other-{number}") for number in range(3)]

    async def look_thrice(other: Sidecar) -> None:
        for _ in range(3):  # one after the other, as its task does
            await other.orphans.look()

    await asyncio.gather(*(look_thrice(other) for other in others))
    adopted = [item for other in others for item in other.unknown().items()]
    assert sorted(adopted) == sorted(
        [(open_one.id, dead.outbox.sidecar), (open_two.id, dead.outbox.sidecar)]
    )
    assert sum(other.orphans.counters.adopted for other in others) == 2


async def test_a_sidecar_that_is_heard_of_keeps_its_own(make: Make) -> None:
    alive, other = make("alive", silent_s=60.0), make("other", silent_s=60.0)
    alive.outbox.begin(intent())
    for _ in range(3):
        await alive.orphans.look()
        await other.orphans.look()
    assert other.unknown() == {}


async def test_many_are_adopted_page_by_page(make: Make) -> None:
    dead = make("dead")
    many = [intent(f"u{number}") for number in range(1200)]
    for one in many:
        dead.outbox.begin(one)
    await dead.orphans.look()
    other = make("other")
    await other.orphans.look()
    assert set(other.unknown()) == {one.id for one in many}
    await other.orphans.look()
    assert other.orphans.counters.adopted == 1200


async def test_an_adopter_that_dies_halfway_is_followed_by_another_after_its_lease(
    make: Make, redis_url: str
) -> None:
    dead = make("dead")
    dead.outbox.begin(intent())
    await dead.orphans.look()
    lease = f"sentinel:1:{{intents:{dead.outbox.sidecar}}}:lease"
    other = make("other")
    with sync_redis.Redis.from_url(redis_url) as admin:
        admin.set(lease, "somebody", px=60_000)
        await other.orphans.look()
        assert other.unknown() == {}
        admin.delete(lease)
    await other.orphans.look()
    assert len(other.unknown()) == 1


async def test_a_redis_that_forgot_is_told_everything_again(make: Make, redis_url: str) -> None:
    dead = make("dead")
    first, second = intent(), intent()
    dead.outbox.begin(first)
    await dead.orphans.look()
    with sync_redis.Redis.from_url(redis_url) as admin:
        admin.flushall()
    dead.outbox.begin(second)
    await dead.orphans.look()  # finds that the number is wrong
    await dead.orphans.look()
    other = make("other")
    await other.orphans.look()
    assert set(other.unknown()) == {first.id, second.id}


async def test_who_leaves_with_nothing_under_way_is_not_waited_for(
    make: Make, redis_url: str
) -> None:
    leaving = make("leaving")
    leaving.orphans.start()
    await leaving.orphans.look()
    await leaving.orphans.aclose()
    await leaving.orphans.aclose()
    with sync_redis.Redis.from_url(redis_url) as admin:
        assert admin.zcard("sentinel:1:intents:beats") == 0


async def test_what_comes_back_with_its_disk_has_the_same_ids(make: Make, tmp_path: Path) -> None:
    dead = make("dead")
    lost = intent()
    dead.outbox.begin(lost)
    await dead.orphans.look()
    await dead.outbox.aclose()  # the slot is still taken, as after a kill
    other = make("other")
    await other.orphans.look()
    back = make("dead")
    assert back.unknown() == {lost.id: None}
    assert other.unknown() == {lost.id: back.outbox.sidecar}
    await back.orphans.look()
    await other.orphans.look()
    assert other.orphans.counters.adopted == 1
