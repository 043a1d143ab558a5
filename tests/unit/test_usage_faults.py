"""What disks and clocks do to the outbox, and what it does then: docs/ledger.md."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import uuid_utils
from msgspec.structs import replace

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage import reading
from sentinel_extproc.usage.chain import verify
from sentinel_extproc.usage.database import Database
from sentinel_extproc.usage.files import intents_path
from sentinel_extproc.usage.item_queue import Refusal, Settlement
from sentinel_extproc.usage.outbox import Outbox, OutboxError
from sentinel_extproc.usage.record import Intent, Outcome, Provenance, TokenUsage, UsageRecord


def record(user: str = "a", at_ms: int = 1_767_225_600_000) -> UsageRecord:
    return UsageRecord(
        id=str(uuid_utils.uuid7()),
        occurred_at_ms=at_ms,
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


def ids(path: Path) -> list[str]:
    links = reading.records(path, 100_000, 0)
    state = reading.ledger(path)
    found = verify(
        [link for link, _ in links], reading.gaps(path), sidecar=state.sidecar, noted=[state.head]
    )
    assert found == []
    return [kept.id for _, kept in links]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110  what it waits for is on another thread
            await asyncio.sleep(0.01)


async def refused(outbox: Outbox, made: UsageRecord) -> None:
    with pytest.raises(Unavailable):
        await outbox.append(made)
    assert outbox.fault is not None
    with pytest.raises(Unavailable) as caught:
        outbox.check_room()
    assert caught.value.code == "usage_unavailable"


async def on_the_writer(outbox: Outbox, work: Callable[[Database], object]) -> None:
    await outbox._writer.run(work)


async def test_a_file_that_becomes_read_only_stops_traffic_and_loses_nothing(path: Path) -> None:
    outbox = Outbox(path)
    outbox.open()
    before, during = record(), record()
    await outbox.append(before)
    await on_the_writer(outbox, lambda db: db._connection.execute("PRAGMA query_only = 1"))
    await refused(outbox, during)
    await on_the_writer(outbox, lambda db: db._connection.execute("PRAGMA query_only = 0"))
    await until(lambda: outbox.fault is None)
    outbox.check_room()
    await outbox.aclose()
    assert ids(path) == [before.id, during.id]


async def test_what_could_not_be_stored_before_the_end_is_unknown_at_the_next_start(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(path)
    outbox.open()
    made = record()
    outbox.begin(Intent(made.id, 1, "ext-a", "a@example.org", "chat", "m", None, 1, 1))
    await on_the_writer(outbox, lambda db: db._connection.execute("PRAGMA query_only = 1"))
    await refused(outbox, made)
    await outbox.aclose()
    assert "not stored at shutdown" in caplog.text
    assert made.id in caplog.text
    outbox = Outbox(path)
    outbox.open()
    assert (await outbox.ledger()).unknown == 1
    await outbox.aclose()
    assert ids(path) == [made.id]


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_usage_faults import ids, record, refused, until
from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage.outbox import Outbox

async def main(path):
    outbox = Outbox(path)
    outbox.open()
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    made = []
    while outbox.fault is None:
        made.append(record())
        try:
            await outbox.append(made[-1])
        except Unavailable:
            pass
        assert len(made) < 10_000
    made.append(record())
    await refused(outbox, made[-1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await until(lambda: outbox.fault is None)
    outbox.check_room()
    await outbox.aclose()
    assert sorted(ids(path)) == sorted(one.id for one in made)
    print(len(made), "kept")

asyncio.run(main(Path(sys.argv[1])))
"""

NO_ROOM_AT_START = """
import resource, sys
from pathlib import Path
from sentinel_extproc.usage.outbox import Outbox, OutboxError
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
try:
    Outbox(Path(sys.argv[1])).open()
except OutboxError as error:
    print("refused:", error)
"""


def run(script: str, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_disk_that_takes_no_more_stops_traffic_and_loses_nothing(path: Path) -> None:
    assert "kept" in run(FULL_DISK, path)


def test_without_room_it_does_not_start_and_says_why(path: Path) -> None:
    assert "refused: can't use the outbox" in run(NO_ROOM_AT_START, path)
    outbox = Outbox(path)  # with room it does
    outbox.open()
    assert outbox.set_aside == []


def test_a_directory_that_can_not_be_written() -> None:
    with pytest.raises(OutboxError, match="can't write"):
        Outbox(Path("/proc/self/outbox.db")).open()


def spoil(path: Path) -> bytes:
    """Everything behind the first page becomes rubbish, as after a fault of the disk."""
    other = sqlite3.connect(path)  # so that the writer can't go by what it remembers
    other.execute("UPDATE ledger SET name = 'spoiled'")
    other.commit()
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    size = path.stat().st_size
    rubbish = random.Random(1).randbytes(size - 4096)
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), rubbish, 4096)
    return rubbish


@pytest.mark.parametrize("first", ["append", "claim", "job"])
async def test_a_file_damaged_while_running_is_kept_aside_and_a_new_one_begun(
    path: Path, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(path)
    outbox.open()
    sidecar = outbox.sidecar
    for _ in range(50):
        await outbox.append(record())
    rubbish = spoil(path)
    made = [record() for _ in range(3)]
    if first == "claim":  # a reader notices
        with pytest.raises(Unavailable):
            await outbox.claim(10)
    elif first == "job":
        with pytest.raises(Unavailable):
            await outbox.replay(["x"])
    for one in made:
        await outbox.append(one)
    outbox.check_room()
    (kept,) = outbox.set_aside
    assert rubbish[-1000:] in kept.read_bytes()
    assert outbox.counters.replaced == 1
    assert outbox.sidecar != sidecar
    assert "is damaged" in caplog.text
    items = [queued.item for queued in await outbox.claim(10)]
    assert [item.records for item in items] == [3]
    await outbox.aclose()
    assert ids(path) == [one.id for one in made]


async def test_a_damaged_file_and_no_room_for_a_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(path)
    outbox.open()
    for _ in range(50):
        await outbox.append(record())
    spoil(path)

    def no_room(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sentinel_extproc.usage.files.make_file", no_room)
    made = record()
    await refused(outbox, made)
    with pytest.raises(Unavailable):
        await outbox.replay(["x"])
    monkeypatch.undo()
    await until(lambda: outbox.fault is None)
    assert len(outbox.set_aside) == 1
    await outbox.aclose()
    assert ids(path) == [made.id]


async def test_under_way_when_the_file_is_damaged_too(path: Path) -> None:
    outbox = Outbox(path)
    outbox.open()
    begun = record()
    outbox.begin(Intent(begun.id, 1, "ext-a", "a@example.org", "chat", "m", None, 1, 1))
    await outbox.aclose()
    path.write_bytes(b"rubbish" * 1000)  # noqa: ASYNC240
    outbox = Outbox(path)
    outbox.open()
    assert len(outbox.set_aside) == 1
    assert (await outbox.ledger()).unknown == 1
    await outbox.aclose()
    assert ids(path) == [begun.id]
    assert intents_path(path).exists()


async def test_for_how_long_the_disk_has_taken_is_known_while_it_takes(path: Path) -> None:
    outbox = Outbox(path)
    outbox.open()
    assert outbox.busy_s == 0.0
    slow = threading.Event()

    def hold() -> None:
        slow.wait(60)

    outbox._writer.post(hold)
    try:
        await until(lambda: outbox.busy_s > 0.0)
        before = outbox.busy_s
        await until(lambda: outbox.busy_s > before)
    finally:
        slow.set()
    await until(lambda: outbox.busy_s == 0.0)
    await outbox.aclose()


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def test_a_clock_that_steps_changes_no_order_and_no_sum(path: Path) -> None:
    midnight = 1_767_225_600.0
    wall = Clock(midnight)
    due = Clock(100.0)
    outbox = Outbox(path, wall_clock=wall, clock=due, retain_s=60)
    outbox.open()
    made = []
    for step in (0, 5, -5, -5, 10, -3600, 3600, -5):
        wall.now += step
        one = record(at_ms=int(wall.now * 1000))
        made.append(one)
        await outbox.append(one)
    later = replace(made[0], id="00000000-0000-7000-8000-000000000000")  # an id of long ago
    await outbox.append(later)
    assert ids(path) == [*(one.id for one in made), later.id]
    claimed = await outbox.claim(10)
    items = [queued.item for queued in claimed]
    assert len(items) == 2  # two UTC days, whatever the order
    assert sum(item.records for item in items) == 9
    assert all(item.first_ms // 86_400_000 == item.last_ms // 86_400_000 for item in items)

    await outbox.sending(claimed)
    await outbox.settle(Settlement(refused=(Refusal(items[0].id, "later", 5.0),)))
    wall.now += 5  # of no account: due times go by a clock that doesn't step
    assert items[0].id not in {queued.item.id for queued in await outbox.claim(10)}
    due.now += 5
    assert items[0].id in {queued.item.id for queued in await outbox.claim(10)}

    await outbox.settle(Settlement(acknowledged=tuple(item.id for item in items)))
    wall.now -= 86_400  # backwards: they are only kept longer
    await outbox.claim(10)
    assert (await outbox.ledger()).retained == 9
    wall.now += 86_400 + 61
    await outbox.claim(10)
    assert (await outbox.ledger()).retained == 0
    await outbox.aclose()


async def test_at_80_percent_it_says_so_and_still_takes_records(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(path, max_bytes=200_000)
    outbox.open()
    while not outbox.degraded:
        await asyncio.gather(*(outbox.append(record()) for _ in range(20)))
        await outbox.replay([])  # measures
    assert outbox.fill < 1
    outbox.check_room()
    assert "80 %" in caplog.text
    assert caplog.text.count("can't be delivered") == 1
    await outbox.settle(
        Settlement(acknowledged=tuple(queued.item.id for queued in await outbox.claim(1000)))
    )
    await until(lambda: not outbox.degraded)
    await until(lambda: "has room again" in caplog.text)
    await outbox.aclose()
