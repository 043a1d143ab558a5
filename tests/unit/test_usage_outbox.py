"""The outbox on a real file: durable, once, bounded, locked."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from msgspec.structs import replace

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage.database import Database
from sentinel_extproc.usage.item_queue import ItemState, Refusal, Settlement
from sentinel_extproc.usage.outbox import Outbox, OutboxError
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord


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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "outbox.sqlite3"


@pytest.fixture
async def outbox(path: Path) -> AsyncIterator[Outbox]:
    opened = Outbox(path)
    opened.open()
    yield opened
    await opened.aclose()


def stored(path: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(
            "SELECT id, model_requested, input_tokens FROM records"
        ).fetchall()
    finally:
        connection.close()


async def test_what_append_acknowledged_is_in_the_file(outbox: Outbox, path: Path) -> None:
    outbox.check_room()
    records = [record() for _ in range(50)]
    await asyncio.gather(*map(outbox.append, records))
    assert {row[0] for row in stored(path)} == {made.id for made in records}
    assert outbox.counters.appended == 50
    assert outbox.counters.commits <= 50


async def test_records_that_wait_together_are_committed_together(path: Path) -> None:
    outbox = Outbox(path)
    outbox.open()
    gate = threading.Event()
    held = asyncio.create_task(outbox._writer.run(lambda _: gate.wait(10)))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(outbox.append(record())) for _ in range(100)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(held, *waiting)
    assert outbox.counters.commits <= 2
    await outbox.aclose()


async def test_appending_again_changes_nothing(outbox: Outbox, path: Path) -> None:
    first = record()
    await outbox.append(first)
    await outbox.append(replace(first, usage=TokenUsage(input_tokens=999)))
    await asyncio.gather(outbox.append(first), outbox.append(first))
    assert stored(path) == [(first.id, "gpt-4o", 10)]


async def test_a_cancelled_waiters_record_is_stored_once(outbox: Outbox, path: Path) -> None:
    records = [record() for _ in range(200)]
    tasks = [asyncio.create_task(outbox.append(made)) for made in records]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    last = record()
    await outbox.append(last)  # behind them in the same queue
    assert {row[0] for row in stored(path)} == {made.id for made in [*records, last]}


async def test_everything_survives_a_reopening(path: Path) -> None:
    records = [record("a"), record("b")]
    for made in records:
        outbox = Outbox(path)
        outbox.open()
        await outbox.append(made)
        await outbox.aclose()
    assert len(stored(path)) == 2
    assert not path.with_name(path.name + "-wal").exists()


async def test_closed_outbox_says_so(outbox: Outbox) -> None:
    await outbox.aclose()
    await outbox.aclose()
    for act in (outbox.append(record()), outbox.claim(1), outbox.backlog()):
        with pytest.raises(Unavailable):
            await act
    with pytest.raises(Unavailable):
        outbox.check_room()


async def test_what_was_appended_before_closing_is_stored(outbox: Outbox, path: Path) -> None:
    tasks = [asyncio.create_task(outbox.append(record())) for _ in range(100)]
    await asyncio.sleep(0)
    await outbox.aclose()
    await asyncio.gather(*tasks)
    assert len(stored(path)) == 100


async def test_strange_values_are_stored_all_the_same(outbox: Outbox, path: Path) -> None:
    strange = [
        record(model_requested="\ud800 lone"),
        record(model_requested="with \0 in it"),
        record(model_requested="x" * 100_000),
        record(model_requested="'; DROP TABLE records; --"),
        record(usage=TokenUsage(input_tokens=10**30)),
        record(usage=TokenUsage(input_tokens=-7)),
    ]
    await asyncio.gather(*map(outbox.append, strange))
    rows = {row[0]: row[1:] for row in stored(path)}
    assert [rows[made.id] for made in strange] == [
        ("? lone", 10),
        ("with \ufffd in it", 10),
        ("x" * 256, 10),
        ("'; DROP TABLE records; --", 10),
        ("gpt-4o", 2**53 - 1),
        ("gpt-4o", 0),
    ]


async def test_one_record_that_can_not_be_stored_takes_no_other_with_it(
    outbox: Outbox, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = record(occurred_at_ms=2**70)
    good = [record() for _ in range(20)]
    results = await asyncio.gather(
        *map(outbox.append, [*good[:10], bad, *good[10:]]), return_exceptions=True
    )
    assert [index for index, result in enumerate(results) if result is not None] == [10]
    assert isinstance(results[10], Unavailable)
    assert {row[0] for row in stored(path)} == {made.id for made in good}
    assert outbox.counters.unstorable == 1
    assert bad.id in caplog.text
    outbox.check_room()


async def test_at_its_bound_new_traffic_is_refused_and_admitted_traffic_stored(path: Path) -> None:
    outbox = Outbox(path, max_bytes=200_000)
    outbox.open()
    count = 0
    while outbox.fill < 1:
        outbox.check_room()
        await asyncio.gather(*(outbox.append(record()) for _ in range(100)))
        count += 100
        await outbox.replay(())  # a job, after which it measures
        assert count < 10_000
    with pytest.raises(Unavailable) as caught:
        outbox.check_room()
    assert caught.value.code == "usage_unavailable"
    await outbox.append(record())
    assert (await outbox.backlog()).records == count + 1
    claimed = await outbox.claim(1000)
    await outbox.settle(Settlement(acknowledged=tuple(queued.item.id for queued in claimed)))
    async with asyncio.timeout(10):
        while outbox.fill > 0.5:  # noqa: ASYNC110  what is acknowledged makes room by itself
            await asyncio.sleep(0.01)
    outbox.check_room()
    await outbox.aclose()


async def test_a_full_disk_stops_traffic_and_keeps_the_records(path: Path) -> None:
    outbox = Outbox(path, max_bytes=200_000, headroom_bytes=0)  # SQLite itself says: full
    outbox.open()
    records, failed = [], 0
    while not failed:
        made = [record() for _ in range(200)]
        records += made
        results = await asyncio.gather(*map(outbox.append, made), return_exceptions=True)
        failed = sum(isinstance(result, Unavailable) for result in results)
        assert len(records) < 10_000
    assert faulty(outbox)
    with pytest.raises(Unavailable):
        outbox.check_room()
    # Space comes back, as if somebody had cleaned up.
    await outbox._writer.run(_raise_the_bound)
    async with asyncio.timeout(10):
        while faulty(outbox):  # noqa: ASYNC110  the writer tries again by itself
            await asyncio.sleep(0.01)
    assert {row[0] for row in stored(path)} == {made.id for made in records}
    await outbox.aclose()


def faulty(outbox: Outbox) -> bool:
    return outbox.fault is not None


def _raise_the_bound(database: Database) -> None:
    database._connection.execute("PRAGMA max_page_count = 100000").fetchall()


async def test_while_too_many_wait_nothing_new_is_admitted_but_all_that_was_is_kept(
    path: Path,
) -> None:
    outbox = Outbox(path, max_waiting=10)
    outbox.open()
    busy = asyncio.create_task(outbox._writer.run(lambda _: time.sleep(0.2)))
    await asyncio.sleep(0)
    appends = [asyncio.create_task(outbox.append(record())) for _ in range(500)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        outbox.check_room()
    await asyncio.gather(busy, *appends)
    outbox.check_room()
    assert len(stored(path)) == 500
    await outbox.aclose()


async def test_a_second_process_is_told_who_has_the_file(outbox: Outbox, path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from sentinel_extproc.usage.outbox import Outbox, OutboxError\n"
        "try: Outbox(Path(sys.argv[1])).open()\n"
        "except OutboxError as error: print(error)\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "in use by another process" in done.stdout
    assert str(os.getpid()) in done.stdout
    with pytest.raises(OutboxError, match="in use"):
        Outbox(path).open()


def test_a_directory_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError, match="directory"):
        Outbox(tmp_path / "file" / "outbox.sqlite3").open()


def test_a_directory_in_the_files_place(tmp_path: Path) -> None:
    (tmp_path / "outbox.sqlite3").mkdir()
    with pytest.raises(OutboxError, match="can't use"):
        Outbox(tmp_path / "outbox.sqlite3").open()


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(OutboxError, match="another program"):
        Outbox(path).open()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM theirs").fetchone() == (0,)
    connection.close()
    assert len(path.read_bytes()) == len(before)


async def test_a_newer_schema_is_left_alone(outbox: Outbox, path: Path) -> None:
    await outbox.aclose()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OutboxError, match="version 99"):
        Outbox(path).open()


@pytest.fixture
def damaged(path: Path) -> Path:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 1000)
    return path


async def test_a_damaged_file_is_kept_aside(damaged: Path) -> None:
    outbox = Outbox(damaged)
    outbox.open()
    await outbox.append(record())
    await outbox.aclose()
    (kept,) = outbox.set_aside
    assert _content(kept) == b"this is no database" * 1000
    assert len(stored(damaged)) == 1


def _content(path: Path) -> bytes:
    return path.read_bytes()


async def test_nobody_else_can_read_it(outbox: Outbox, path: Path) -> None:
    await outbox.append(record())
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_claimed_items_sum_their_records(outbox: Outbox) -> None:
    for user in "aab":
        await outbox.append(record(user))
    claimed = [queued.item for queued in await outbox.sending(await outbox.claim(10))]
    assert [(item.external_id, item.records, item.input_tokens) for item in claimed] == [
        ("ext-a", 2, 20),
        ("ext-b", 1, 10),
    ]
    assert await outbox.claim(10) == []
    assert (await outbox.backlog()).undelivered == 2
    await outbox.settle(Settlement(acknowledged=(claimed[0].id,)))
    await outbox.settle(Settlement(acknowledged=(claimed[0].id,)))
    assert (await outbox.backlog()).items[ItemState.SENT] == 1


async def test_records_are_kept_until_all_their_items_are_acknowledged(path: Path) -> None:
    outbox = Outbox(path, split_metrics=True, retain_s=0)
    outbox.open()
    await outbox.append(record())
    claimed = [queued.item for queued in await outbox.claim(10)]
    assert [(i.input_tokens, i.output_tokens, i.requests) for i in claimed] == [
        (10, 0, 0),
        (0, 5, 0),
        (0, 0, 1),
    ]
    for left, item in zip((1, 1, 0), claimed, strict=True):
        await outbox.settle(Settlement(acknowledged=(item.id,)))
        await outbox.claim(10)  # forgets what is old
        assert len(stored(path)) == left
    await outbox.aclose()


async def test_records_that_come_to_nothing_are_billed_at_once(path: Path) -> None:
    outbox = Outbox(path)
    outbox.open()
    await outbox.append(record(requests=0, usage=TokenUsage()))
    assert (await outbox.backlog()).undelivered == 1
    assert await outbox.claim(10) == []
    assert (await outbox.backlog()).undelivered == 0
    assert (await outbox.ledger()).retained == 1
    await outbox.aclose()


async def test_settling_every_way(path: Path) -> None:
    now = 0.0
    outbox = Outbox(path, clock=lambda: now)
    outbox.open()
    for user in "abcde":
        await outbox.append(record(user))
    a, b, c, d, e = [queued.item.id for queued in await outbox.sending(await outbox.claim(10))]
    await outbox.settle(
        Settlement(
            acknowledged=(a,),
            again=(b,),
            refused=(Refusal(c, "later", 5.0), Refusal(d, "never", None)),
            parked=(e,),
        )
    )
    assert [queued.item.id for queued in await outbox.claim(10)] == [b]
    now = 5.0
    (later,) = await outbox.claim(10)
    assert (later.item.id, later.refusals) == (c, 1)
    held = await outbox.held()
    assert [(one.item.id, one.state, one.reason) for one in held] == [
        (d, ItemState.DEAD, "never"),
        (e, ItemState.PARKED, "the answer was lost"),
    ]
    assert await outbox.held(after=held[0].position) == held[1:]
    assert await outbox.replay([d, "unknown", b]) == 1
    (again,) = await outbox.claim(10)
    assert (again.item.id, again.refusals) == (d, 0)
    await outbox.aclose()


async def test_claims_are_bounded_and_oldest_first(outbox: Outbox) -> None:
    for number in range(30):
        await outbox.append(record(f"u{number}"))
    first = await outbox.claim(20)
    second = await outbox.claim(20)
    users = [queued.item.external_id for queued in [*first, *second]]
    assert (len(first), len(second)) == (20, 10)
    assert users == [f"ext-u{number}" for number in range(30)]


async def test_unsettled_batches_are_found_again_as_they_were(path: Path) -> None:
    outbox = Outbox(path)
    outbox.open()
    for number in range(5):
        await outbox.append(record(f"u{number}"))
    batches = [await outbox.sending(await outbox.claim(2)) for _ in range(2)]
    await outbox.aclose()
    outbox = Outbox(path)
    outbox.open()
    found = await outbox.interrupted()
    assert sorted(found, key=lambda batch: batch[0].item.id) == batches
    assert len(await outbox.claim(10)) == 1
    await outbox.aclose()
