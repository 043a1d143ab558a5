"""The admin port of all workers, and what those that ended left for it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import cast

import pytest

from sentinel_extproc.admin.page.tables import view
from sentinel_extproc.errors import Unavailable
from sentinel_extproc.telemetry import past
from sentinel_extproc.telemetry.across import Family, growing, merged, pack
from sentinel_extproc.telemetry.live import STEP_S, Live, Sample
from sentinel_extproc.workers import drawer
from sentinel_extproc.workers.asking import Workers
from sentinel_extproc.workers.front import Fleet
from sentinel_extproc.workers.shelf import Member, Roster, Shelf
from tests.fleet_fakes import Clock, FakeWorkers, lines, process, roster, served

REQUESTS = 'x_requests_total{code="ok"}'


def retired(shelf: Shelf, told: Roster) -> list[Family]:
    return shelf.counts.retired(told.alive, told.last)


def test_counts_of_ended_processes_are_put_together_once(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for serial in (1, 2, 3):
        shelf.counts.file_of(serial).write_bytes(pack(growing(process(serial, 0.05))))
    requests = 'x_requests_total{code="ok"}'
    assert requests not in lines(retired(shelf, roster(1, 2, 3, last=3)))
    assert lines(retired(shelf, roster(2, 3, last=3)))[requests] == 1
    assert not shelf.counts.file_of(1).exists()
    assert lines(retired(shelf, roster(3, last=4)))[requests] == 3
    assert lines(retired(shelf, roster(3, last=4)))[requests] == 3
    # Cut off between writing the sum and removing the file: it comes again, and isn't counted.
    shelf.counts.file_of(2).write_bytes(pack(growing(process(2, 0.05))))
    assert lines(retired(shelf, roster(3, last=4)))[requests] == 3
    # What the supervisor hasn't told of yet is no ended process.
    shelf.counts.file_of(9).write_bytes(pack(growing(process(9, 0.05))))
    assert lines(retired(shelf, roster(3, last=4)))[requests] == 3
    assert shelf.counts.file_of(9).exists()


def test_the_roster_comes_as_it_was_written(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.write_roster(told := roster(1, 2, last=2))
    assert shelf.roster() == told


async def counted(fleet: Fleet) -> float:
    return lines(merged(await fleet.families())).get(REQUESTS, 0)


async def test_sums_fall_neither_when_a_worker_hangs_nor_when_it_is_killed(tmp_path: Path) -> None:
    workers, shelf = FakeWorkers(1, 2), Shelf(tmp_path)
    fleet = Fleet(cast("Workers", workers), shelf)
    shelf.counts.file_of(1).write_bytes(pack(growing(process(10, 0.05))))  # some seconds ago
    workers.tell = {1: process(15, 0.05), 2: process(1, 0.05)}
    assert await counted(fleet) == 16
    del workers.tell[1]
    assert await counted(fleet) == 16
    workers.now = roster(2, last=2)
    assert await counted(fleet) == 16
    assert await counted(fleet) == 16


async def test_what_a_worker_wrote_at_its_end_is_more_than_what_it_told(tmp_path: Path) -> None:
    workers, shelf = FakeWorkers(1, 2), Shelf(tmp_path)
    fleet = Fleet(cast("Workers", workers), shelf)
    workers.tell = {1: process(15, 0.05), 2: process(1, 0.05)}
    assert await counted(fleet) == 16
    shelf.counts.file_of(1).write_bytes(pack(growing(process(20, 0.05))))
    workers.now = roster(2, last=2)
    assert await counted(fleet) == 21


async def test_two_that_ask_at_once_count_a_worker_that_ends_meanwhile_once(
    tmp_path: Path,
) -> None:
    workers, shelf = FakeWorkers(1, 2), Shelf(tmp_path)
    fleet = Fleet(cast("Workers", workers), shelf)
    shelf.counts.file_of(1).write_bytes(pack(growing(process(15, 0.05))))
    workers.tell = {1: process(15, 0.05), 2: process(1, 0.05)}
    workers.go_on.clear()
    first = asyncio.create_task(counted(fleet))
    await workers.asked.acquire()
    workers.now = roster(2, last=2)
    second = asyncio.create_task(counted(fleet))
    workers.go_on.set()
    assert [await first, await second] == [16, 16]


async def test_what_a_killed_worker_served_stays_on_the_page_and_in_status(tmp_path: Path) -> None:
    workers, shelf, clock = FakeWorkers(1, 2), Shelf(tmp_path), Clock()
    fleet = Fleet(cast("Workers", workers), shelf)
    workers.remember = {1: Live(clock), 2: Live(clock)}
    served(workers.remember[1], "ada", 100, 10)
    served(workers.remember[2], "bo", 1, 1)
    # Some seconds ago the first had written less than it tells now.
    shelf.pasts.file_of(1).write_bytes(past.pack(Live(clock).past()))
    assert (await fleet.picture()).samples[-1] == Sample(2, 0, 101, 11)
    killed = workers.remember.pop(1)
    assert (await fleet.picture()).samples[-1] == Sample(2, 0, 101, 11)  # it hangs
    workers.now = Roster(2, (Member(2, 1, 102, "serving"),), lost=(0,), failures=(5, 0), last=2)
    clock.now += STEP_S
    for _ in range(2):
        picture = await fleet.picture()
        assert picture.samples[-2:] == [Sample(2, 0, 101, 11), Sample()]
        assert [one.name for one in picture.users] == ["ada", "bo"]
    shown = view(picture)
    assert shown.alert.startswith("Workers: worker 0 keeps failing.")
    assert shown.mood == "bad"
    assert [cell.text for cell in shown.tables["workers"][0]][:4] == [
        "0",
        "keeps failing (down)",
        "5",
        "–",
    ]
    status = await fleet.status()
    assert status["top"]["users"] == {"ada": 110, "bo": 2}
    assert status["ledger"]["heads"] == [{"worker": 1, "sidecar": "s2", "seq": 2, "hash": "ab"}]
    assert status["ledger"]["under_way"] == 1
    # The admin port itself may be started anew: the shelf has it all.
    again = Fleet(cast("Workers", workers), shelf)
    assert (await again.picture()).samples[-2] == Sample(2, 0, 101, 11)
    del killed


async def test_when_nobody_answers_it_is_said_who_keeps_failing(tmp_path: Path) -> None:
    workers = FakeWorkers(1)
    workers.now = Roster(2, (), lost=(0, 1), last=1)
    fleet = Fleet(cast("Workers", workers), Shelf(tmp_path))
    with pytest.raises(Unavailable, match="No worker answers: workers 0, 1 keep failing"):
        await fleet.picture()


async def test_nothing_piles_up_of_workers_that_end_again_and_again(tmp_path: Path) -> None:
    workers, shelf, clock = FakeWorkers(1), Shelf(tmp_path), Clock()
    fleet = Fleet(cast("Workers", workers), shelf)
    live = Live(clock)
    served(live, "ada", 1, 0)
    for serial in range(1, 31):
        shelf.counts.file_of(serial).write_bytes(pack(growing(process(1, 0.05))))
        shelf.pasts.file_of(serial).write_bytes(past.pack(live.past()))
        (tmp_path / f"{serial}.sock").touch()
    workers.now = roster(30, last=30)
    await fleet.tidy()
    left = set(await asyncio.to_thread(os.listdir, tmp_path))
    own = {"30.counts", "30.past", "30.sock"}
    assert left == own | {"retired.counts", "retired.past"}
    assert await counted(fleet) == 30
    assert sum(sample[0] for sample in shelf.pasts.retired({30}, 30).samples) == 29


def test_what_cannot_be_put_together_on_a_full_disk_is_there_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path)
    shelf.counts.file_of(1).write_bytes(pack(growing(process(3, 0.05))))

    def full(_: Path, __: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(drawer, "replace_file", full)
        assert lines(retired(shelf, roster(2, last=2)))[REQUESTS] == 3
    assert lines(retired(shelf, roster(2, last=2)))[REQUESTS] == 3
    assert not shelf.counts.file_of(1).exists()
