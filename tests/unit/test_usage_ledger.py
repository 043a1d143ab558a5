"""Numbers without a gap, a chain that stays whole, retention, and files of earlier versions."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sentinel_extproc.usage import reading
from sentinel_extproc.usage.chain import Head, verify
from sentinel_extproc.usage.database import Database
from sentinel_extproc.usage.item_queue import ItemState, Refusal, Settlement
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Intent, Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.rows import record_of, record_row


def record(user: str = "a", **changes: Any) -> UsageRecord:
    made = UsageRecord(
        id=str(uuid_utils.uuid7()),
        occurred_at_ms=1_767_225_600_000,
        external_id=f"ext-{user}",
        email=f"{user}@example.org",
        endpoint="chat",
        model_requested="gpt-4o",
        model_served=None,
        requests=1,
        usage=TokenUsage(input_tokens=10, output_tokens=5),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )
    return replace(made, **changes)


FULL = record(
    model_served="gpt-4o-2024-08-06",
    usage=TokenUsage(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    cost_nanos=12_345,
    currency="USD",
    request_id="0d0b3b5c-1111-4222-8333-444455556666",
    origin="0198c0de-0000-7000-8000-00000000000f",
    predicted_input_tokens=11,
    reserved_output_tokens=12,
)


def check(path: Path, *noted: Head) -> None:
    """The chain of the whole file is whole."""
    links = [link for link, _ in reading.records(path, 100_000, 0)]
    sidecar = reading.ledger(path).sidecar
    assert verify(links, reading.gaps(path), sidecar=sidecar, noted=noted) == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
async def outbox(path: Path) -> AsyncIterator[Outbox]:
    opened = Outbox(path)
    opened.open()
    yield opened
    await opened.aclose()


async def all_of(outbox: Outbox) -> list[str]:
    return [queued.item.id for queued in await outbox.sending(await outbox.claim(1000))]


async def test_every_field_comes_back(outbox: Outbox, path: Path) -> None:
    await outbox.append(FULL)
    await outbox.append(record())
    (link, found), (_, plain) = reading.records(path, 10, 0)
    assert (link.seq, found) == (1, FULL)
    assert plain.cost_nanos is None
    assert plain.request_id is None
    check(path, outbox.head)


texts = st.text(max_size=300)
amounts = st.integers(-(2**70), 2**70)


@settings(max_examples=60)
@given(
    st.lists(
        st.builds(
            UsageRecord,
            id=st.text(min_size=1),
            occurred_at_ms=st.integers(-(2**63), 2**63 - 1),
            external_id=texts,
            email=texts,
            endpoint=texts,
            model_requested=texts,
            model_served=st.none() | texts,
            requests=amounts,
            usage=st.builds(TokenUsage, amounts, amounts, image_output_tokens=amounts),
            provenance=st.sampled_from(Provenance),
            outcome=st.sampled_from(Outcome),
            cost_nanos=st.none() | amounts,
            currency=st.none() | texts,
            request_id=st.none() | texts,
        ),
        max_size=9,
    )
)
def test_what_is_read_back_is_what_was_hashed(
    tmp_path_factory: pytest.TempPathFactory, records: list[UsageRecord]
) -> None:
    path = tmp_path_factory.mktemp("any") / "outbox.db"
    database = Database(path, max_file_bytes=1 << 30, fsync=False, new_id=lambda: "me")
    rows = [record_row(made) for made in records]
    database.append(rows)
    database.append(rows)
    database.close()
    check(path, database.head)
    assert database.head.seq == len({row[0] for row in rows})
    assert {record_row(found)[0] for _, found in reading.records(path, 100, 0)} == {
        row[0] for row in rows
    }
    assert all(record_row(record_of(row)) == row for row in rows)


async def test_numbers_have_no_gap_whatever_comes_twice_or_is_no_good(
    outbox: Outbox, path: Path
) -> None:
    good = [record() for _ in range(300)]
    bad = record(occurred_at_ms=2**70)
    wave = [*good[:100], bad, *good[:150], *good[50:200]]
    await asyncio.gather(*map(outbox.append, wave), return_exceptions=True)
    for made in good[190:]:
        await outbox.append(made)
    await outbox.append(replace(good[0], external_id="other"))
    found = reading.records(path, 1000, 0)
    assert [link.seq for link, _ in found] == list(range(1, 301))
    assert {kept.id: kept for _, kept in found} == {made.id: made for made in good}
    assert outbox.counters.appended == 300
    assert outbox.counters.duplicates == len(wave) - 201 + 10 + 1
    assert outbox.head.seq == 300
    check(path, outbox.head)


async def test_the_chain_goes_on_after_a_restart(path: Path) -> None:
    heads, sidecars = [], set()
    for _ in range(3):
        outbox = Outbox(path, name="gateway-1")
        outbox.open()
        for _ in range(5):
            await outbox.append(record())
        heads.append(outbox.head)
        sidecars.add(outbox.sidecar)
        await outbox.aclose()
    assert [head.seq for head in heads] == [5, 10, 15]
    assert len(sidecars) == 1
    check(path, *heads)
    state = reading.ledger(path)
    assert (state.sidecar, state.name, state.head) == (sidecars.pop(), "gateway-1", heads[-1])


async def test_a_tampered_file_is_shown_to_be(outbox: Outbox, path: Path) -> None:
    for _ in range(5):
        await outbox.append(record())
    connection = sqlite3.connect(path)
    connection.execute("UPDATE records SET input_tokens = 1 WHERE seq = 2")
    connection.execute("DELETE FROM records WHERE seq = 4")
    connection.commit()
    connection.close()
    links = [link for link, _ in reading.records(path, 10, 0)]
    found = verify(links, reading.gaps(path), sidecar=outbox.sidecar)
    assert [(one.kind.value, one.first) for one in found] == [("altered", 2), ("missing", 4)]


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_acknowledged_records_are_kept_for_a_while(path: Path) -> None:
    clock = Clock()
    outbox = Outbox(path, retain_s=100, wall_clock=clock)
    outbox.open()
    for _ in range(5):
        await outbox.append(record())
    await outbox.settle(Settlement(acknowledged=tuple(await all_of(outbox))))
    state = await outbox.ledger()
    assert (state.retained, state.unsealed, state.items["done"]) == (5, 0, 1)
    clock.now += 99
    await all_of(outbox)
    assert (await outbox.ledger()).retained == 5
    clock.now += 2
    await all_of(outbox)
    state = await outbox.ledger()
    assert (state.retained, state.items["done"], state.head) == (0, 0, outbox.head)
    assert reading.records(path, 10, 0) == []
    check(path, outbox.head)
    await outbox.append(record())
    check(path, outbox.head)
    await outbox.aclose()
    outbox = Outbox(path)
    outbox.open()
    assert outbox.head.seq == 6
    await outbox.aclose()


async def test_what_is_not_acknowledged_is_never_deleted_however_old_and_leaves_an_island(
    path: Path,
) -> None:
    clock = Clock()
    outbox = Outbox(path, retain_s=0, wall_clock=clock)
    outbox.open()
    held: list[str] = []
    for turn in range(30):
        for _ in range(3):
            await outbox.append(record(f"u{turn}"))
        (item,) = await all_of(outbox)
        if turn % 10 == 4:
            held.append(item)
            await outbox.settle(Settlement(refused=(Refusal(item, "never", None),)))
        else:
            await outbox.settle(Settlement(acknowledged=(item,)))
        clock.now += 1000
    await all_of(outbox)
    assert [link.seq for link, _ in reading.records(path, 1000, 0)] == [
        13, 14, 15, 43, 44, 45, 73, 74, 75,
    ]  # fmt: skip
    assert [(gap.first, gap.last) for gap in reading.gaps(path)] == [
        (1, 12),
        (16, 42),
        (46, 72),
        (76, 90),
    ]
    check(path, outbox.head)
    assert await outbox.replay(held) == 3
    await outbox.settle(Settlement(acknowledged=tuple(await all_of(outbox))))
    clock.now += 1
    await all_of(outbox)
    assert [(gap.first, gap.last) for gap in reading.gaps(path)] == [(1, 90)]
    check(path, outbox.head)
    await outbox.aclose()


async def test_acknowledged_records_make_room_oldest_first(path: Path) -> None:
    outbox = Outbox(path, max_bytes=1 << 20)
    outbox.open()
    dead: str | None = None
    for turn in range(12):
        await asyncio.gather(*(outbox.append(record(f"u{turn}")) for _ in range(400)))
        items = await all_of(outbox)
        if dead is None:
            dead = items.pop()
            await outbox.settle(Settlement(refused=(Refusal(dead, "never", None),)))
        await outbox.settle(Settlement(acknowledged=tuple(items)))
    async with asyncio.timeout(10):
        while outbox.fill > 0.5:  # noqa: ASYNC110  makes room by itself
            await asyncio.sleep(0.01)
    kept = [link.seq for link, _ in reading.records(path, 10_000, 0)]
    assert kept[-1] == 4800
    assert 200 < len(kept) < 4800
    assert (await outbox.held())[0].item.id == dead
    item = (await outbox.held())[0].item
    assert set(range(item.first_seq, item.last_seq + 1)) <= set(kept)
    check(path, outbox.head)
    await outbox.aclose()


async def test_an_exchange_of_unknown_end_is_on_record_once_and_never_billed(
    outbox: Outbox, path: Path
) -> None:
    known = record()
    await outbox.append(known)
    lost = Intent(
        id=str(uuid_utils.uuid7()), occurred_at_ms=1, external_id="ext-a", email="a@example.org",
        endpoint="chat", model="gpt-4o", request_id="r", predicted_input_tokens=100,
        reserved_output_tokens=500,
    )  # fmt: skip
    await outbox.add_unknown(lost, origin="another")
    await outbox.add_unknown(lost, origin="another")
    await outbox.add_unknown(replace(lost, id=known.id))
    items = [queued.item for queued in await outbox.claim(10)]
    assert [(item.records, item.input_tokens, item.output_tokens) for item in items] == [(1, 10, 5)]
    state = await outbox.ledger()
    assert (state.unknown, state.head.seq, state.unsealed) == (1, 2, 0)
    _, found = reading.records(path, 1, 1)[0]
    assert (found.outcome, found.origin) == (Outcome.UNKNOWN, "another")
    assert (found.predicted_input_tokens, found.reserved_output_tokens) == (100, 500)
    assert found.usage == TokenUsage()
    assert outbox.counters.unknown == 1
    check(path, outbox.head)


async def test_which_item_billed_which_record(outbox: Outbox, path: Path) -> None:
    day = 86_400_000
    made = [record(user, occurred_at_ms=at) for user in "ab" for at in (1, day) for _ in range(2)]
    for one in made:
        await outbox.append(one)
    await all_of(outbox)
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT id, occurred_at_ms / 86400000, item FROM records JOIN record_items USING (seq)"
    ).fetchall()
    connection.close()
    assert len(rows) == 8
    assert len({item for _, _, item in rows}) == 4
    for item in {item for _, _, item in rows}:
        own = [one for one in made if (one.id, one.occurred_at_ms // day, item) in rows]
        assert len({(one.external_id, one.occurred_at_ms) for one in own}) == 1


async def test_counts_are_kept_right_through_everything(path: Path) -> None:
    outbox = Outbox(path, retain_s=0)
    outbox.open()
    for turn in range(6):
        for user in "abcdef":
            await outbox.append(record(f"{user}{turn % 2}"))
        ids = await all_of(outbox)
        await outbox.settle(
            Settlement(
                acknowledged=tuple(ids[:2]),
                again=tuple(ids[2:3]),
                refused=(Refusal(ids[3], "no", None), Refusal(ids[4], "later", 1000.0)),
                parked=tuple(ids[5:6]),
            )
        )
    await outbox.replay([held.item.id for held in (await outbox.held())[:3]])
    backlog = await outbox.backlog()
    state = await outbox.ledger()
    connection = sqlite3.connect(path)
    counted = dict(connection.execute("SELECT state, count(*) FROM items GROUP BY state"))
    (retained,) = connection.execute(
        "SELECT count(*) FROM records WHERE seq NOT IN (SELECT seq FROM record_items"
        " WHERE state <> 'done')"
    ).fetchone()
    connection.close()
    assert {name: n for name, n in state.items.items() if n} == counted
    assert backlog.items == {kind: counted.get(kind.value, 0) for kind in ItemState}
    assert state.retained <= retained
    await outbox.aclose()


V1 = """
CREATE TABLE records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    occurred_at_ms INTEGER NOT NULL, external_id TEXT NOT NULL, email TEXT NOT NULL,
    endpoint TEXT NOT NULL, model_requested TEXT NOT NULL, model_served TEXT,
    requests INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL,
    audio_input_tokens INTEGER NOT NULL, audio_output_tokens INTEGER NOT NULL,
    provenance TEXT NOT NULL, outcome TEXT NOT NULL, item_group TEXT) STRICT;
CREATE INDEX records_unsealed ON records (seq) WHERE item_group IS NULL;
CREATE INDEX records_by_group ON records (item_group) WHERE item_group IS NOT NULL;
CREATE TABLE items (
    n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, item_group TEXT NOT NULL,
    external_id TEXT NOT NULL, email TEXT NOT NULL, model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, requests INTEGER NOT NULL,
    records INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'ready', batch TEXT, refusals INTEGER NOT NULL DEFAULT 0,
    due_ms INTEGER NOT NULL DEFAULT 0, reason TEXT) STRICT;
CREATE TABLE released (item_group TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE INDEX items_by_state ON items (state, n);
CREATE INDEX items_by_group ON items (item_group);
PRAGMA application_id = 0x53454E54;
PRAGMA user_version = 1;
"""


def old_file(path: Path, groups: list[str | None], states: dict[str, str]) -> None:
    """An outbox of version 1: a record for each of ``groups`` (None: unsealed, ``gone``: billed
    and not deleted yet), an item for each of ``states``."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(V1)
    for n, group in enumerate(groups):
        connection.execute(
            "INSERT INTO records (id, occurred_at_ms, external_id, email, endpoint,"
            " model_requested, requests, input_tokens, output_tokens, cached_input_tokens,"
            " reasoning_tokens, audio_input_tokens, audio_output_tokens, provenance, outcome,"
            " item_group) VALUES (?, 5, 'ext-a', 'a@example.org', 'chat', 'm', 1, 10, 5, 1, 2, 3,"
            " 4, 'provider', 'completed', ?)",
            (f"record-{n}", group),
        )
    for group, state in states.items():
        records = groups.count(group)
        connection.execute(
            "INSERT INTO items (id, item_group, external_id, email, model, input_tokens,"
            " output_tokens, requests, records, first_ms, last_ms, state, batch, reason)"
            " VALUES (?1, ?1, 'ext-a', 'a@example.org', 'm', ?2, ?3, ?4, ?4, 5, 5, ?5, ?6, ?7)",
            (group, 10 * records, 5 * records, records, state,
             "b" if state == "sent" else None, "why" if state in ("dead", "parked") else None),
        )  # fmt: skip
    connection.execute("INSERT INTO released VALUES ('gone')")
    connection.commit()
    connection.close()


async def test_an_outbox_of_version_1_opens_and_loses_nothing(path: Path) -> None:
    states = {"g1": "sent", "g2": "ready", "g3": "dead", "g4": "parked"}
    groups = ["gone", "g1", "g1", "g2", "gone", "g3", "g4", *([None] * 2500)]
    old_file(path, groups, states)
    outbox = Outbox(path, retain_s=0)
    outbox.open()
    backlog = await outbox.backlog()
    assert backlog.records == 2500
    assert {kind.value: n for kind, n in backlog.items.items() if n} == dict.fromkeys(
        ("ready", "sent", "parked", "dead"), 1
    )
    found = [kept for _, kept in reading.records(path, 10_000, 0)]
    assert [kept.id for kept in found] == [
        f"record-{n}" for n, group in enumerate(groups) if group != "gone"
    ]
    assert found[0].usage == TokenUsage(10, 5, 1, 2, 3, 4)
    ((interrupted,),) = await outbox.interrupted()
    assert (interrupted.item.id, interrupted.item.input_tokens) == ("g1", 20)
    assert [held.item.id for held in await outbox.held()] == ["g3", "g4"]
    await outbox.replay(["g3", "g4"])
    claimed = [queued.item for queued in await outbox.claim(1000)]
    assert {"g2", "g3", "g4"} <= {item.id for item in claimed}
    assert sum(item.requests for item in claimed) == 2503
    check(path, outbox.head)
    ids = (interrupted.item.id, *(item.id for item in claimed))
    await outbox.settle(Settlement(acknowledged=ids))
    while reading.records(path, 1, 0):
        await all_of(outbox)
    check(path, outbox.head)
    assert (await outbox.ledger()).items["done"] == 0
    await outbox.aclose()


async def test_items_of_version_1_without_records(path: Path) -> None:
    old_file(path, [None], {"g": "ready"})
    outbox = Outbox(path, retain_s=0)
    outbox.open()
    ids = await all_of(outbox)
    assert len(ids) == 2
    await outbox.settle(Settlement(acknowledged=tuple(ids)))
    await all_of(outbox)
    await all_of(outbox)
    state = await outbox.ledger()
    assert (state.retained, state.items["done"]) == (0, 0)
    check(path, outbox.head)
    await outbox.aclose()


async def test_a_migration_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_file(path, [None] * 10, {})
    monkeypatch.setattr("sentinel_extproc.usage.migration._V1_ITEMS", "INSERT INTO nonsense")
    with pytest.raises(Exception, match="incomplete"):
        Outbox(path).open()
    monkeypatch.undo()
    outbox = Outbox(path)
    outbox.open()
    assert (await outbox.backlog()).records == 10
    await outbox.aclose()
