"""The stream's scripts on a real Redis: each item in once, ours while we hold it, and told back."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis as sync_redis
import uuid_utils

from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.redis import Client
from sentinel_extproc.usage.item_queue import QueuedItem
from sentinel_extproc.usage.orphans import Orphans
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Intent
from sentinel_extproc.usage.sealing import SealedItem
from sentinel_extproc.usage.stream import (
    Entry,
    Held,
    StaleNumberError,
    Stream,
    StreamFullError,
    StreamUnavailable,
    Verb,
    Word,
)

seqs = itertools.count(1)


def queued(refusals: int = 0) -> QueuedItem:
    seq = next(seqs)
    item = SealedItem(
        id=str(uuid_utils.uuid7()),
        external_id="ext-a",
        email="a@example.org",
        model="gpt-4o",
        input_tokens=10,
        output_tokens=5,
        requests=1,
        records=1,
        first_ms=1_767_225_600_000,
        last_ms=1_767_225_600_000,
        first_seq=seq,
        last_seq=seq,
    )
    return QueuedItem(item, refusals)


def stream(client: Client, name: str = "one", *, lease_s: float = 30.0, full: int = 1000) -> Stream:
    return Stream(client, origin=lambda: name, consumer=name, lease_s=lease_s, max_entries=full)


def ids(entries: list[Entry]) -> list[str]:
    return [entry.queued.item.id for entry in entries]


async def test_what_is_handed_over_twice_is_in_once(redis_client: Client) -> None:
    one, other = stream(redis_client), stream(redis_client, "other")
    items = [queued(), queued(3)]
    assert await one.hand(0, 1, items) == 2
    assert await one.hand(0, 2, items) == 0
    claimed = await other.claim(0, 10, others=True)
    assert [entry.queued.item for entry in claimed] == [q.item for q in items]
    assert [entry.queued.refusals for entry in claimed] == [0, 3]
    assert {entry.origin for entry in claimed} == {"one"}
    assert await one.hand(0, 3, items) == 0, "being sent is still in"

    await other.settle(0, [Word(Verb.BILLED, entry) for entry in claimed])
    assert await one.hand(0, 4, items) == 0, "billed, and not yet heard of"
    news = await one.poll(0)
    assert set(news.billed) == {q.item.id for q in items}
    assert (news.entries, news.pending, news.oldest_s) == (0, 0, 0.0)
    await one.heard(0, news)
    assert (await one.poll(0)).billed == ()
    assert (await other.poll(0)).billed == ()


async def test_a_call_that_was_delayed_behind_a_later_one_does_nothing(
    redis_client: Client,
) -> None:
    one = stream(redis_client)
    late = [queued()]
    await one.hand(0, 2, [queued()])
    with pytest.raises(StaleNumberError) as caught:
        await one.hand(0, 1, late)
    assert caught.value.fence == 2
    assert await stream(redis_client, "other").hand(0, 1, late) == 1, "fences are of one origin"


async def test_a_full_stream_takes_nothing(redis_client: Client) -> None:
    one = stream(redis_client, full=2)
    await one.hand(0, 1, [queued(), queued()])
    with pytest.raises(StreamFullError):
        await one.hand(0, 2, [queued()])
    assert (await one.poll(0)).entries == 2


async def test_two_consumers_never_have_the_same_entry(redis_client: Client) -> None:
    one, other = stream(redis_client), stream(redis_client, "other")
    items = [queued() for _ in range(10)]
    await one.hand(0, 1, items)
    seen = ids(await one.claim(0, 4, others=True)) + ids(await other.claim(0, 100, others=True))
    assert seen == [q.item.id for q in items]
    assert await one.claim(0, 10, others=True) == []


@pytest.mark.parametrize("sent", [False, True])
async def test_entries_of_a_dead_consumer_are_taken_over_and_doubted_only_if_sent(
    redis_client: Client, sent: bool
) -> None:
    dead, other = stream(redis_client), stream(redis_client, "other", lease_s=0.0)
    await dead.hand(0, 1, [queued()])
    claimed = await dead.claim(0, 10, others=True)
    if sent:
        assert await dead.hold(0, claimed, sending=True) == [True]
    assert await stream(redis_client, "third").claim(0, 10, others=True) == [], "the lease holds"
    assert await other.claim(0, 10, others=False) == []
    (taken,) = await other.claim(0, 10, others=True)
    assert taken.queued.item == claimed[0].queued.item
    assert taken.queued.maybe_billed is sent
    # The dead one was only slow: it sees that the entry isn't its own any more...
    assert await dead.hold(0, claimed, sending=True) == [False]
    await dead.settle(0, [Word(Verb.LET_GO, claimed[0])])
    assert await other.hold(0, [taken], sending=False) == [True]
    # ...but for what it had sent, its word counts.
    await dead.settle(0, [Word(Verb.BILLED, claimed[0])])
    assert await other.hold(0, [taken], sending=True) == [False]
    await other.settle(0, [Word(Verb.BILLED, taken)])
    news = await dead.poll(0)
    assert (len(news.billed), news.entries, news.pending) == (1, 0, 0)


async def test_an_entry_that_is_let_go_is_anybodys_when_it_is_due(redis_client: Client) -> None:
    one, other = stream(redis_client), stream(redis_client, "other")
    await one.hand(0, 1, [queued(), queued()])
    now, later = await one.claim(0, 10, others=True)
    await one.hold(0, [now, later], sending=True)
    await one.settle(
        0,
        [
            Word(Verb.LET_GO, now, refusals=1),
            Word(Verb.LET_GO, later, refusals=2, due_in_s=3600.0),
        ],
    )
    (again,) = await other.claim(0, 10, others=True)
    assert again.queued.item == now.queued.item
    assert (again.queued.refusals, again.queued.maybe_billed) == (1, False)
    # Even to somebody for whom every lease has run out.
    assert await stream(redis_client, "eager", lease_s=0.0).claim(0, 10, others=True) != [later]
    assert later.queued.item.id not in ids(
        await stream(redis_client, "eager", lease_s=0.0).claim(0, 10, others=True)
    )
    await one.settle(0, [Word(Verb.BILLED, later)])
    assert (await one.poll(0)).entries == 1


async def test_what_is_due_in_a_moment_comes_back(redis_client: Client) -> None:
    one = stream(redis_client)
    await one.hand(0, 1, [queued()])
    (entry,) = await one.claim(0, 10, others=True)
    await one.settle(0, [Word(Verb.LET_GO, entry, refusals=1, due_in_s=0.05)])
    found: list[Entry] = []
    for _ in range(2000):
        found = await one.claim(0, 10, others=True)
        if found:
            break
    assert ids(found) == ids([entry])


async def test_an_origin_hears_of_everything_however_much_it_is(redis_client: Client) -> None:
    one, other = stream(redis_client, full=100_000), stream(redis_client, "other")
    for number in range(1, 21):
        await one.hand(0, number, [queued() for _ in range(1000)])
    while claimed := await other.claim(0, 1000, others=True):
        await other.settle(0, [Word(Verb.BILLED, entry) for entry in claimed])
    heard = set[str]()
    while (news := await one.poll(0)).billed:
        heard.update(news.billed)
        await one.heard(0, news)
    assert len(heard) == 20_000


async def test_what_a_person_is_to_decide_goes_back_to_its_origin(redis_client: Client) -> None:
    one, other = stream(redis_client), stream(redis_client, "other")
    item = queued()
    await one.hand(0, 1, [item])
    (entry,) = await other.claim(0, 10, others=True)
    verdict = Held("dead", "no such user", entry.queued.item)
    await other.settle(0, [Word(Verb.HOLD, entry, held=verdict)])
    news = await one.poll(0)
    assert news.held == {item.item.id: verdict}
    assert await one.hand(0, 2, [item]) == 0
    await one.heard(0, news)
    assert (await one.poll(0)).held == {}
    assert await one.hand(0, 3, [item]) == 1, "decided, and sent again"


async def test_an_audit_tells_what_never_arrived_from_what_was_lost(
    redis_client: Client, redis_url: str
) -> None:
    one = stream(redis_client)
    here, billed, never = queued(), queued(), queued()
    assert await one.audit(0, 0, ()) == (-1, [])
    await one.hand(0, 1, [here, billed])
    claimed = await one.claim(0, 10, others=True)
    await one.settle(0, [Word(Verb.BILLED, claimed[1])])
    names = [q.item.id for q in (here, billed, never)]
    assert await one.audit(0, 2, names) == (1, [True, True, False])
    with sync_redis.Redis.from_url(redis_url) as admin:
        admin.flushall()
    assert await one.audit(0, 2, names) == (-1, [False, False, False])
    assert await one.audit(0, 2, names) == (2, [False, False, False]), "and not 'never arrived'"
    # Whoever still had it in hand finds that he has not, and may say that it was billed.
    assert await one.hold(0, claimed, sending=True) == [False, False]
    await one.settle(0, [Word(Verb.BILLED, claimed[0])])
    assert (await one.poll(0)).billed == (here.item.id,)


async def test_a_word_about_the_first_copy_takes_out_the_second(
    redis_client: Client, redis_url: str
) -> None:
    one = stream(redis_client)
    item = queued()
    await one.hand(0, 1, [item])
    (first,) = await one.claim(0, 10, others=True)
    with sync_redis.Redis.from_url(redis_url) as admin:
        admin.flushall()
    await one.hand(0, 2, [item])
    await one.settle(0, [Word(Verb.BILLED, first)])
    assert await one.claim(0, 10, others=True) == []
    assert (await one.poll(0)).entries == 0


async def test_an_acl_user_needs_the_commands_of_the_page_only(
    redis_url: str, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text("utf-8")
    lines = re.findall(r"^\+(?:eval|xadd|hset) .*$", page, re.MULTILINE)
    commands = " ".join(lines).split()
    assert len(lines) == 3
    with sync_redis.Redis.from_url(redis_url) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "usage", "on", ">pass", "~sentinel:*", "-@all", *commands
        )
        client = build_client(f"unix://usage:pass@{urlsplit(redis_url).path}", timeout_s=5.0)
        outbox = Outbox(tmp_path / "outbox.db")
        outbox.open()
        try:
            one = stream(client, lease_s=0.0)
            await one.hand(0, 1, [queued(), queued(), queued()])
            await one.claim(0, 2, others=True)
            billed, free, held = await one.claim(0, 3, others=True)
            await one.hold(0, [billed, free, held], sending=True)
            verdict = Held("dead", "no", held.queued.item)
            words = [
                Word(Verb.BILLED, billed),
                Word(Verb.LET_GO, free, due_in_s=60.0),
                Word(Verb.HOLD, held, held=verdict),
            ]
            await one.settle(0, words)
            assert await one.claim(0, 3, others=True) == []
            await one.audit(0, 1, ["x"])
            await one.heard(0, await one.poll(0))

            looking = Orphans(outbox, client, silent_s=0.0)
            outbox.begin(Intent("1", 1, "a", "a@b.c", "chat", "m", None, 1, 1))
            await looking.look()
            await outbox.add_unknown(outbox.under_way()[0])
            await looking.look()
            admin.zadd("sentinel:1:intents:beats", {"gone": 1})
            admin.hset("sentinel:1:{intents:gone}:open", "x", "not an intent")
            await looking.look()
            assert looking.counters.failures == 0
        finally:
            admin.execute_command("ACL", "DELUSER", "usage")
            await client.aclose()
            await outbox.aclose()


async def test_without_redis_it_says_so_and_leaves_it_alone_for_a_moment() -> None:
    now = 0.0
    client = build_client("unix:///nonexistent/redis.sock")
    away = Stream(client, origin=lambda: "a", consumer="a", clock=lambda: now)
    for _ in range(3):
        with pytest.raises(StreamUnavailable):
            await away.poll(0)
    assert away.failures == 1
    now = 2.0
    with pytest.raises(StreamUnavailable):
        await away.claim(0, 1, others=True)
    assert away.failures == 2
    await client.aclose()
