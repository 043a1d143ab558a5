"""What has ended is safe before its commit: in a file, until the database has it, once."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage import ended, reading, writer
from sentinel_extproc.usage.chain import verify
from sentinel_extproc.usage.database import Database
from sentinel_extproc.usage.ended import Ended
from sentinel_extproc.usage.files import ended_path, intents_path
from sentinel_extproc.usage.item_queue import Backlog, Settlement
from sentinel_extproc.usage.outbox import Outbox, OutboxError
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.rows import record_row
from sentinel_extproc.usage.slots import CAPACITY, SLOT_BYTES, TornSlotError, head
from tests.ledger_fakes import intent, run_and_kill


def record(number: int = 0) -> UsageRecord:
    return replace(
        intent(number).unknown(),
        outcome=Outcome.COMPLETED,
        provenance=Provenance.PROVIDER,
        requests=1,
        usage=TokenUsage(3, 2),
        predicted_input_tokens=None,
        reserved_output_tokens=None,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def opened(path: Path) -> Outbox:
    outbox = Outbox(path, gathers=True)
    outbox.open()
    return outbox


def stored(path: Path) -> dict[str, UsageRecord]:
    found = reading.records(path, 100_000, 0)
    state = reading.ledger(path)
    links = [link for link, _ in found]
    assert verify(links, sidecar=state.sidecar, noted=[state.head]) == []
    assert len({kept.id for _, kept in found}) == len(found)
    return {kept.id: kept for _, kept in found}


def waiting(path: Path) -> list[object]:
    """Ids in the file of what has ended, as a process would find it now."""
    data = ended_path(path).read_bytes()[4096:]
    slots = [data[place : place + SLOT_BYTES] for place in range(0, len(data), SLOT_BYTES)]
    return [row[0] for slot in slots if (row := ended.decode(slot)) is not None]


async def until(it_is: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not it_is():  # noqa: ASYNC110  what it waits for is on another thread
            await asyncio.sleep(0.01)


texts = st.text(max_size=400)
numbers = st.integers(-5, 2**70)


@given(
    st.builds(
        UsageRecord,
        id=texts,
        occurred_at_ms=st.integers(0, 2**53),
        external_id=texts,
        email=texts,
        endpoint=texts,
        model_requested=texts,
        model_served=st.none() | texts,
        requests=numbers,
        usage=st.builds(TokenUsage, input_tokens=numbers, image_output_tokens=numbers),
        provenance=st.sampled_from(Provenance),
        outcome=st.sampled_from(Outcome),
        cost_nanos=st.none() | numbers,
        request_id=st.none() | texts,
    )
)
def test_every_row_comes_back(made: UsageRecord) -> None:
    row = record_row(made)
    payload = ended._encode(row)
    if len(payload) <= CAPACITY:
        assert ended.decode((head(payload) + payload).ljust(SLOT_BYTES, b"\0")) == row


@given(st.binary(max_size=300))
def test_a_slot_of_anything_else_is_torn(payload: bytes) -> None:
    if payload:
        with pytest.raises(TornSlotError):
            ended.decode((head(payload) + payload).ljust(SLOT_BYTES, b"\0"))


async def test_an_append_returns_before_its_commit_and_they_share_it(path: Path) -> None:
    outbox = opened(path)
    for number in range(5):
        outbox.begin(intent(number))
        await outbox.append(record(number))
    ids = {record(number).id for number in range(5)}
    assert (outbox.counters.commits, outbox.intents_in_use) == (0, 0)
    assert set(waiting(path)) == ids
    async with asyncio.timeout(10):
        while waiting(path):  # noqa: ASYNC110  what it waits for is on another thread
            await asyncio.sleep(writer.GATHER_S)
    assert outbox.counters.commits == 1
    assert stored(path).keys() == ids
    await outbox.aclose()


async def test_whoever_asks_sees_what_was_appended_before(path: Path) -> None:
    outbox = opened(path)
    await outbox.append(record())
    (queued,) = await outbox.claim(10)
    assert (queued.item.input_tokens, queued.item.records) == (3, 1)
    await outbox.append(record(1))
    await outbox.abandon(record(1).id)
    assert (await outbox.backlog()).records == 1
    await outbox.append(record(2))
    assert (await outbox.ledger()).head.seq == 3
    await outbox.aclose()
    assert {kept.outcome for kept in stored(path).values()} == {Outcome.COMPLETED}
    assert waiting(path) == []


async def test_the_same_id_again_changes_nothing(path: Path) -> None:
    outbox = opened(path)
    await outbox.append(record())
    await outbox.append(replace(record(), external_id="another"))
    await outbox.append(replace(record(), external_id="another"))
    await outbox.aclose()
    assert stored(path) == {record().id: record()}
    assert outbox.counters.duplicates == 2


async def test_what_has_no_room_there_waits_for_its_commit(path: Path) -> None:
    outbox = opened(path)
    large = replace(record(), external_id="x" * 2000)
    await outbox.append(large)
    assert outbox.counters.appended == 1
    many = [record(number) for number in range(1, ended.SLOTS + 10)]
    await asyncio.gather(*map(outbox.append, many))
    assert len(stored(path)) == len(many) + 1
    await outbox.aclose()


async def test_with_fsync_every_append_waits_for_the_disk(path: Path) -> None:
    outbox = Outbox(path, gathers=True, fsync=True)
    outbox.open()
    await outbox.append(record())
    assert outbox.counters.appended == 1
    await outbox.aclose()


async def test_after_a_death_before_the_commit_it_is_stored_and_not_unknown(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = opened(path)
    outbox.begin(intent())
    under_way = intents_path(path).read_bytes()
    await outbox.append(record())
    left = ended_path(path).read_bytes()
    await outbox._writer.run(_forget)  # as if the commit had never been
    await outbox.aclose()
    for _ in range(2):  # as if it had died again, between the commit and freeing the slots
        ended_path(path).write_bytes(left)
        intents_path(path).write_bytes(under_way)
        outbox = opened(path)
        assert (outbox.intents_in_use, waiting(path)) == (0, [])
        assert stored(path) == {record().id: record()}
        assert (await outbox.ledger()).unknown == 0
        await outbox.aclose()
    assert "1 records were not stored" in caplog.text


def _forget(database: Database) -> None:
    database._connection.execute("DELETE FROM records")
    database._read_head()


@pytest.fixture
def synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The file of what has ended as it is on the disk after each flush, the last one last."""
    flushed: list[bytes] = []
    really = os.fdatasync

    def fdatasync(file: int) -> None:
        really(file)
        flushed.append(ended_path(path).read_bytes())

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    return flushed


async def test_power_loss_brings_back_nothing_that_was_billed_and_deleted(
    path: Path, synced: list[bytes]
) -> None:
    outbox = Outbox(path, gathers=True, retain_s=0)
    outbox.open()
    await outbox.append(record())
    synced.append(ended_path(path).read_bytes())  # the kernel may flush at any time
    claimed = await outbox.claim(10)
    assert len(claimed) == 1
    await outbox.settle(Settlement(acknowledged=tuple(queued.item.id for queued in claimed)))
    await outbox.claim(10)
    assert (await outbox.ledger()).retained == 0
    await outbox.aclose()
    ended_path(path).write_bytes(synced[-1])  # what the kernel had not flushed is lost
    outbox = opened(path)
    assert await outbox.claim(10) == []
    await outbox.aclose()


async def test_while_the_disk_fails_billed_records_are_kept_and_usage_is_still_sent(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fdatasync(_: int) -> None:
        raise OSError(5, "Input/output error")

    outbox = Outbox(path, gathers=True, retain_s=0)
    outbox.open()
    await outbox.append(record())
    claimed = await outbox.claim(10)
    await outbox.settle(Settlement(acknowledged=tuple(queued.item.id for queued in claimed)))
    await outbox.append(record(1))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fdatasync)
        (queued,) = await outbox.claim(10)
        assert (await outbox.ledger()).retained == 1
    await outbox.settle(Settlement(acknowledged=(queued.item.id,)))
    await outbox.claim(10)
    assert (await outbox.ledger()).retained == 0
    await outbox.aclose()


async def test_while_the_database_fails_it_stays_there_and_new_traffic_is_refused(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = opened(path)
    await outbox._writer.run(lambda db: _query_only(db, on=True))
    outbox.begin(intent())
    await outbox.append(record())
    async with asyncio.timeout(10):
        while outbox.fault is None:  # noqa: ASYNC110  what it waits for is on another thread
            await asyncio.sleep(0.01)
    with pytest.raises(Unavailable):
        outbox.check_room()
    with pytest.raises(Unavailable):
        await outbox.append(record(1))
    await outbox.aclose()
    assert waiting(path) == [record().id]
    lost = [line for line in caplog.messages if "not stored at shutdown" in line]
    assert [record(1).id in line for line in lost] == [True], "the other would be billed twice"
    outbox = opened(path)
    await outbox.aclose()
    assert stored(path) == {record().id: record()}


def _query_only(database: Database, *, on: bool) -> None:
    database._connection.execute(f"PRAGMA query_only = {int(on)}")


async def test_what_ends_while_the_outbox_closes_is_left_for_the_next_start(path: Path) -> None:
    outbox = opened(path)
    outbox.begin(intent())
    closing = asyncio.create_task(outbox.aclose())
    await asyncio.sleep(0)
    await outbox.append(record())  # nobody is told that it was not stored, and bills it by hand
    await closing
    assert waiting(path) == [record().id]
    outbox = opened(path)
    await outbox.aclose()
    assert stored(path) == {record().id: record()}


async def test_what_the_database_would_not_take_is_not_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = opened(path)
    outbox.begin(intent())
    strange = (*record_row(record())[:8], 1.5, *record_row(record())[9:])
    monkeypatch.setattr("sentinel_extproc.usage.outbox.record_row", lambda _: strange)
    with pytest.raises(Unavailable):
        await outbox.append(record())
    monkeypatch.undo()
    assert outbox.counters.unstorable == 1
    await outbox.aclose()
    outbox = opened(path)
    await outbox.aclose()
    assert {kept.outcome for kept in stored(path).values()} == {Outcome.UNKNOWN}


async def test_what_can_not_be_stored_counts_as_not_delivered(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = opened(path)
    await outbox._writer.run(lambda db: _query_only(db, on=True))
    await outbox.append(record())
    assert (await outbox.backlog()).undelivered == 1
    with pytest.raises(Unavailable):
        await outbox.append(record(1))
    assert (await outbox.backlog()).undelivered == 2
    await outbox._writer.run(lambda db: _query_only(db, on=False))
    async with asyncio.timeout(10):
        while outbox.fault is not None:  # noqa: ASYNC110  what it waits for is on another thread
            await asyncio.sleep(0.01)
    assert (await outbox.backlog()).undelivered == 2
    await outbox._writer.run(lambda db: _query_only(db, on=True))
    await outbox.append(record(2))
    await outbox.aclose()
    assert "left to the next start" in caplog.text
    assert "not stored at shutdown" not in caplog.text


async def test_what_is_stored_during_a_look_is_not_missed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = opened(path)
    await outbox._writer.run(lambda db: _query_only(db, on=True))
    await outbox.append(record())
    await until(lambda: outbox.fault is not None)
    read = reading.backlog

    def slow(of: Path) -> Backlog:
        found = read(of)
        asyncio.run(until(lambda: outbox.fault is None and not waiting(path)))
        return found

    monkeypatch.setattr(reading, "backlog", slow)
    looking = asyncio.create_task(outbox.backlog())
    await asyncio.sleep(0.1)
    await outbox._writer.run(lambda db: _query_only(db, on=False))
    assert (await looking).undelivered == 1
    await outbox.aclose()


async def test_a_look_that_waits_no_longer_does_not_end_the_writer(path: Path) -> None:
    outbox = opened(path)
    opens, out_of_room = outbox._writer._open_database, threading.Event()

    def open_again(damage: BaseException | None = None, /) -> Database:
        if not out_of_room.is_set():
            raise OSError(28, "No space left on device")
        return opens(damage)

    def stall_and_break(_: Database) -> None:
        time.sleep(0.5)
        error = sqlite3.DatabaseError("malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    outbox._writer._open_database = open_again
    broken = asyncio.create_task(outbox._writer.run(stall_and_break))
    await asyncio.sleep(0.1)
    await outbox.append(record())
    assert (await outbox.backlog()).undelivered == 1  # it gave up waiting: a cancelled job
    with pytest.raises(Unavailable):
        await broken
    out_of_room.set()
    async with asyncio.timeout(10):
        while waiting(path):  # noqa: ASYNC110  what it waits for is on another thread
            await asyncio.sleep(0.05)
    outbox.check_room()
    await outbox.aclose()
    assert stored(path) == {record().id: record()}


async def test_a_file_that_can_be_opened_again_is_used_again(path: Path) -> None:
    outbox = opened(path)
    opens, attempts = outbox._writer._open_database, [1, 2]

    def open_again(damage: BaseException | None = None, /) -> Database:
        if attempts:
            attempts.pop()
            raise OSError(28, "No space left on device")
        return opens(damage)

    def break_down(_: Database) -> None:
        error = sqlite3.DatabaseError("malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    outbox._writer._open_database = open_again
    with pytest.raises(Unavailable):
        await outbox._writer.run(break_down)
    await until(lambda: outbox.fault is not None)
    with pytest.raises(Unavailable):
        outbox.check_room()
    await until(lambda: outbox.fault is None)
    outbox.check_room()
    await outbox.aclose()


async def test_a_torn_one_is_counted_and_told_whole(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = Ended(ended_path(path))
    file.open()
    assert file.keep(record_row(record(0)))
    assert file.keep(record_row(record(1)))
    assert not file.keep(record_row(record(1)))
    file.close()
    data = bytearray(ended_path(path).read_bytes())
    data[data.index(record(0).id.encode())] ^= 1
    ended_path(path).write_bytes(data)
    outbox = opened(path)
    assert outbox.intents_torn == 1
    assert "8c0de-0000-7000-8000-000000000000" in caplog.text
    assert stored(path).keys() == {record(1).id}
    await outbox.aclose()


@pytest.mark.parametrize("hurt", ["shrunk", "header", "cut in a slot"])
async def test_of_a_damaged_file_what_can_be_read_is_stored(
    path: Path, hurt: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Ended(ended_path(path))
    file.open()
    for number in range(3):
        assert file.keep(record_row(record(number)))
    file.close()
    data = bytearray(ended_path(path).read_bytes())
    if hurt == "header":
        data[0] ^= 1
    elif hurt == "shrunk":
        del data[4096 + 300 * SLOT_BYTES :]
    else:
        del data[4096 + 2 * SLOT_BYTES + 20 :]
    ended_path(path).write_bytes(data)
    with monkeypatch.context() as patched:
        full = OSError(28, "No space left on device")
        patched.setattr(os, "posix_fallocate", Mock(side_effect=full))
        for _ in range(2):
            with pytest.raises(OutboxError):
                opened(path)
    outbox = opened(path)
    least = 2 if hurt == "cut in a slot" else 3
    assert len(stored(path)) == least
    (kept,) = outbox.set_aside
    assert kept.read_bytes() == data
    assert f"{least} could be read" in caplog.text
    await outbox.aclose()
    outbox = opened(path)
    assert len(stored(path)) == least
    assert len(outbox.set_aside) == 1
    await outbox.aclose()


WORKER = """
import asyncio, os, sys
from pathlib import Path
from msgspec.structs import replace
import uuid_utils
from sentinel_extproc.usage.outbox import Outbox
sys.path.insert(0, sys.argv[2])
from test_usage_ended import intent, record

async def stream(outbox):
    while True:
        one = str(uuid_utils.uuid7())
        outbox.begin(replace(intent(), id=one))
        os.write(1, f"try {one}\\n".encode())
        await asyncio.sleep(0)
        await outbox.append(replace(record(), id=one))
        os.write(1, f"ack {one}\\n".encode())

async def main():
    outbox = Outbox(Path(sys.argv[1]), gathers=True)
    outbox.open()
    await asyncio.gather(*(stream(outbox) for _ in range(20)))

asyncio.run(main())
"""


async def test_kill_9_loses_nothing_that_was_acknowledged_and_doubles_nothing(path: Path) -> None:
    rng = random.Random(20260101)
    begun: set[str] = set()
    done: set[str] = set()
    rescued = 0
    for _ in range(6):
        more_begun, more_done = run_and_kill(
            WORKER, str(path), str(Path(__file__).parent), least=rng.randrange(50, 1500)
        )
        begun |= more_begun
        done |= more_done
        rescued += len(waiting(path))
    await opened(path).aclose()
    found = stored(path)
    assert len(done) > 100
    assert rescued > 0
    completed = {kept.id for kept in found.values() if kept.outcome is Outcome.COMPLETED}
    assert done <= completed
    assert begun <= found.keys()
    assert all(found[one] == replace(record(), id=one) for one in completed)
    assert waiting(path) == []
