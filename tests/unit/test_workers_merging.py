"""What several workers say, put together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sentinel_extproc.admin.page.tables import TOP, Picture, view
from sentinel_extproc.exchange.running import Running
from sentinel_extproc.telemetry.across import (
    Across,
    Collected,
    Family,
    families,
    growing,
    merged,
    pack,
    unpack,
)
from sentinel_extproc.telemetry.live import SAMPLES, Heavy, Sample
from sentinel_extproc.telemetry.prometheus import written
from sentinel_extproc.workers.asking import Answer, Workers
from sentinel_extproc.workers.front import Fleet
from sentinel_extproc.workers.merging import not_ready, one_effect, one_picture, one_top, one_whoami
from sentinel_extproc.workers.shelf import Member, Roster, Shelf


def process(requests: int, lag_s: float, *, down: int = 0, oldest: float = 0) -> list[Family]:
    registry = CollectorRegistry()
    counter = Counter("x_requests", "Requests.", ("code",), registry=registry)
    counter.labels("ok").inc(requests)
    Histogram("x_lag_seconds", "Lag.", buckets=(0.1, 1), registry=registry).observe(lag_s)
    Gauge("x_live", "Live.", registry=registry).set(requests)
    Gauge("x_down", "Down.", registry=registry).set(down)
    Gauge("x_oldest", "Oldest.", registry=registry).set(oldest)
    found = families(registry, {"x_down": Across.GREATEST, "x_oldest": Across.LEAST})
    return unpack(pack(found))


def lines(found: list[Family]) -> dict[str, float]:
    text = written(Collected(found), "")[0].decode()
    pairs = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def test_counts_are_added_up_and_gauges_are_what_they_say() -> None:
    shown = lines(merged([process(3, 0.05, oldest=7), process(4, 0.5, down=1, oldest=5)]))
    assert shown['x_requests_total{code="ok"}'] == 7
    assert shown['x_lag_seconds_bucket{le="0.1"}'] == 1
    assert shown['x_lag_seconds_bucket{le="+Inf"}'] == 2
    assert shown["x_lag_seconds_sum"] == pytest.approx(0.55)
    assert shown["x_live"] == 7
    assert shown["x_down"] == 1
    assert shown["x_oldest"] == 5


def test_the_top_of_all_is_added_up_and_bounded() -> None:
    first = {"users": {"ada": 5, "bo": 9}, "models": {}}
    second = {"users": {"ada": 6} | {f"u{n}": 1 for n in range(20)}, "models": {"gpt-4o": 3}}
    told = one_top([first, second])
    assert list(told["users"].items())[:3] == [("ada", 11), ("bo", 9), ("u0", 1)]
    assert len(told["users"]) == TOP
    assert told["models"] == {"gpt-4o": 3}


def test_one_process_is_shown_as_it_is() -> None:
    one = process(3, 0.05)
    assert merged([one]) == one


def test_of_those_that_ended_only_what_grows_is_kept() -> None:
    shown = lines(merged([growing(process(3, 0.05)), process(4, 0.5)]))
    assert shown['x_requests_total{code="ok"}'] == 7
    assert shown["x_live"] == 4


def roster(*serials: int, last: int) -> Roster:
    return Roster(2, tuple(Member(n, 0, 100 + n, "serving") for n in serials), last=last)


def test_counts_of_ended_processes_are_put_together_once(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for serial in (1, 2, 3):
        shelf.final_of(serial).write_bytes(pack(growing(process(serial, 0.05))))
    requests = 'x_requests_total{code="ok"}'
    assert requests not in lines(shelf.retired(roster(1, 2, 3, last=3)))
    assert lines(shelf.retired(roster(2, 3, last=3)))[requests] == 1
    assert not shelf.final_of(1).exists()
    assert lines(shelf.retired(roster(3, last=4)))[requests] == 3
    assert lines(shelf.retired(roster(3, last=4)))[requests] == 3
    # Cut off between writing the sum and removing the file: it comes again, and isn't counted.
    shelf.final_of(2).write_bytes(pack(growing(process(2, 0.05))))
    assert lines(shelf.retired(roster(3, last=4)))[requests] == 3
    # What the supervisor hasn't told of yet is no ended process.
    shelf.final_of(9).write_bytes(pack(growing(process(9, 0.05))))
    assert lines(shelf.retired(roster(3, last=4)))[requests] == 3
    assert shelf.final_of(9).exists()


def test_the_roster_comes_as_it_was_written(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.write_roster(told := roster(1, 2, last=2))
    assert shelf.roster() == told


STATUS = {
    "exchanges": {"live": 3, "draining": False},
    "limits": {"store": "up", "replicas": 2, "pending_settlements": 0},
    "zion": {"lookup_breaker": "closed", "report_breaker": "closed"},
    "overload": {"admitted_share": 1.0, "reasons": [], "turned_away": {}},
    "outbox": {
        "fill": 0.0,
        "degraded": False,
        "fault": None,
        "undelivered": 0,
        "oldest_seconds": None,
    },
    "stream": None,
    "ledger": {"unknown": 0},
}


def picture(number: int, started_ms: int) -> Picture:
    samples = [Sample() for _ in range(SAMPLES)]
    samples[-2] = Sample(admitted=number, refused=1, input_tokens=10, output_tokens=20)
    return Picture(
        at_s=1000.0 + number,
        samples=samples,
        users=[Heavy("ada", 30 * number, number, 0), Heavy(f"u{number}", 5, 1, 0)],
        models=[],
        reasons=[],
        running=[Running(f"x{number}", started_ms, "ada", "chat", "gpt", True, 8)],
        running_in_all=number,
        status={},
        not_stored=0,
        faults=1,
    )


def test_a_page_shows_all_workers() -> None:
    pictures = [
        msgspec.json.decode(msgspec.json.encode(one), type=Picture)
        for one in (picture(1, 5000), picture(2, 4000))
    ]
    one = one_picture(pictures, STATUS)
    assert one.samples[-2] == Sample(admitted=3, refused=2, input_tokens=20, output_tokens=40)
    assert [heavy.name for heavy in one.users] == ["ada", "u1", "u2"]
    assert one.users[0] == Heavy("ada", 90, 3, 0)
    assert [running.id for running in one.running] == ["x2", "x1"]
    assert one.running_in_all == 3
    assert one.faults == 2
    assert view(one).tiles["admitted"] == "3"


@pytest.mark.parametrize(
    ("answers", "lost", "reason"),
    [
        ({0: {}, 1: {}}, [], None),
        ({0: {}, 1: None}, [], None),
        ({0: {}, 1: {"outbox": "full"}}, [], None),
        ({0: {"redis": "away"}, 1: None}, [], "worker 0: redis: away; worker 1: no answer"),
        ({0: {}, 1: None}, [1], "worker 1 keeps failing"),
        ({}, [], "no worker has started"),
    ],
)
def test_ready_is_who_has_one_that_is_and_none_that_keeps_failing(
    answers: dict[int, dict[str, str] | None], lost: list[int], reason: str | None
) -> None:
    assert not_ready(answers, lost) == reason


def test_a_revocation_holds_everywhere_only_if_it_does_for_all() -> None:
    one = {"everywhere": True, "replicas": 4, "streams": 1}
    other = {"everywhere": False, "replicas": None, "streams": 2}
    effect = one_effect([one, other])
    assert (effect.everywhere, effect.replicas, effect.streams) == (False, 4, 3)


def test_whoever_remembers_a_token_best_has_the_word() -> None:
    told: list[dict[str, Any]] = [
        {"revoked": False, "remembered": None, "principal": None},
        {"revoked": None, "remembered": "process", "principal": {"external_id": "ada"}},
    ]
    assert one_whoami(told)["principal"] == {"external_id": "ada"}
    assert one_whoami(told)["revoked"] is None
    assert one_whoami([*told, {"revoked": True, "remembered": None}])["revoked"] is True


class FakeWorkers:
    """Workers that tell what they counted; those that are not in ``tell`` hang."""

    def __init__(self, *serials: int) -> None:
        self.tell: dict[int, list[Family]] = {}
        self.now = roster(*serials, last=max(serials))
        self.asked = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()
        self.go_on.set()

    def roster(self) -> Roster:
        return self.now

    async def each(self, *_: object, **__: object) -> list[Answer]:
        members = self.now.members
        self.asked.release()
        await self.go_on.wait()
        return [Answer(m, 200, pack(self.tell[m.serial])) for m in members if m.serial in self.tell]


REQUESTS = 'x_requests_total{code="ok"}'


async def counted(fleet: Fleet) -> float:
    return lines(merged(await fleet.families())).get(REQUESTS, 0)


async def test_sums_fall_neither_when_a_worker_hangs_nor_when_it_is_killed(tmp_path: Path) -> None:
    workers, shelf = FakeWorkers(1, 2), Shelf(tmp_path)
    fleet = Fleet(cast("Workers", workers), shelf)
    shelf.final_of(1).write_bytes(pack(growing(process(10, 0.05))))  # some seconds ago
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
    shelf.final_of(1).write_bytes(pack(growing(process(20, 0.05))))
    workers.now = roster(2, last=2)
    assert await counted(fleet) == 21


async def test_two_that_ask_at_once_count_a_worker_that_ends_meanwhile_once(
    tmp_path: Path,
) -> None:
    workers, shelf = FakeWorkers(1, 2), Shelf(tmp_path)
    fleet = Fleet(cast("Workers", workers), shelf)
    shelf.final_of(1).write_bytes(pack(growing(process(15, 0.05))))
    workers.tell = {1: process(15, 0.05), 2: process(1, 0.05)}
    workers.go_on.clear()
    first = asyncio.create_task(counted(fleet))
    await workers.asked.acquire()
    workers.now = roster(2, last=2)
    second = asyncio.create_task(counted(fleet))
    workers.go_on.set()
    assert [await first, await second] == [16, 16]
