"""Where workers are: addresses, sockets that outlive them, outboxes, and the number of them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
import structlog

from sentinel_extproc.config.load import load
from sentinel_extproc.config.workers import usable_cpus, worker_addresses, worker_count
from sentinel_extproc.errors import Unavailable
from sentinel_extproc.telemetry.logs import configure
from sentinel_extproc.telemetry.worker_field import WorkerField, name_log_lines
from sentinel_extproc.usage import files
from sentinel_extproc.usage.database import Database
from sentinel_extproc.usage.departed import Departed, opened
from sentinel_extproc.usage.ended import Ended
from sentinel_extproc.usage.files import OutboxError, OutboxInUseError, outbox_path, outbox_paths
from sentinel_extproc.usage.item_queue import Settlement
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.rows import record_row
from sentinel_extproc.workers.run import fit_for_successors
from sentinel_extproc.workers.seats import Seats


@pytest.mark.parametrize(
    ("listen", "third"),
    [
        ("unix:/run/x/sentinel.sock", "unix:/run/x/sentinel-2.sock"),
        ("unix:///run/x/sentinel.sock", "unix:/run/x/sentinel-2.sock"),
        ("unix:/run/x.d/socket", "unix:/run/x.d/socket-2"),
        ("127.0.0.1:50051", "127.0.0.1:50053"),
        ("[::]:50051", "[::]:50053"),
    ],
)
def test_workers_listen_beside_the_first_one(listen: str, third: str) -> None:
    assert worker_addresses(listen, 3)[0] == listen
    assert worker_addresses(listen, 3)[2] == third
    assert worker_addresses(listen, 1) == (listen,)


def test_there_must_be_a_port_for_each() -> None:
    with pytest.raises(ValueError, match="65536"):
        worker_addresses("127.0.0.1:65534", 3)


@pytest.mark.parametrize(
    ("quota", "most"), [("max 100000", 64), ("100000 100000", 1), ("50000 100000", 1)]
)
def test_auto_is_a_worker_for_each_cpu_that_the_container_has(
    tmp_path: Path, quota: str, most: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert 1 <= usable_cpus(tmp_path) <= most
    assert usable_cpus(tmp_path / "elsewhere") >= 1
    assert worker_count("auto") == min(64, usable_cpus())
    assert worker_count(5) == 5


def test_a_socket_waits_for_whoever_serves_next_until_it_is_closed(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 's.sock'}"
    seats = Seats([address], socket_mode=0o600)
    assert seats.listening(0) is seats.listening(0)
    assert (tmp_path / "s.sock").stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s.sock"))  # nobody has accepted
    seats.close(0)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(FileNotFoundError):
        client.connect(str(tmp_path / "s.sock"))
    seats.listening(0)
    seats.close_all()
    assert not (tmp_path / "s.sock").exists()


def test_outboxes_of_a_sidecar_are_those_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    ours = [outbox_path(path, number) for number in (0, 1, 10)]
    others = ["outbox.worker-x.db", "outbox.worker-01.db", "outbox.db.workers.lock", "box.db"]
    for file in [*ours, *(tmp_path / name for name in others)]:
        file.touch()
    assert outbox_paths(path) == ours


def record(number: int) -> UsageRecord:
    return UsageRecord(
        id=f"0190b8b0-0000-7000-8000-{number:012d}",
        occurred_at_ms=1_700_000_000_000,
        external_id="ada",
        email="",
        endpoint="chat.completions",
        model_requested="gpt-4o-mini",
        model_served=None,
        requests=1,
        usage=TokenUsage(input_tokens=3, output_tokens=4),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )


async def test_departed_outboxes_are_delivered_and_those_in_use_let_alone(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    used, left = Outbox(outbox_path(path, 1)), Outbox(outbox_path(path, 2))
    for outbox in (used, left):
        outbox.open()
        await outbox.append(record(1))
    await left.aclose()
    billed: list[str] = []

    @asynccontextmanager
    async def delivering(found: Path) -> AsyncIterator[Outbox]:
        async with opened(Outbox(found)) as outbox:
            items = await outbox.claim(10)
            billed.extend(item.item.id for item in items)
            await outbox.settle(Settlement(acknowledged=tuple(i.item.id for i in items)))
            yield outbox

    departed = Departed(path, own=path, delivering=delivering, poll_s=0.01)
    assert await departed.look() == []  # what is billed as it is opened needs no more
    assert len(billed) == 1
    await departed.look()
    assert len(billed) == 1
    with pytest.raises(OutboxInUseError):
        Outbox(outbox_path(path, 1)).open()
    await used.aclose()
    await departed.look()
    assert len(billed) == 2
    await departed.aclose()


async def test_a_departed_outbox_that_could_not_be_opened_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    for number in (1, 2):
        outbox_path(path, number).touch()
    tried: list[str] = []
    faults: list[Exception] = [OutboxError("database is locked"), Unavailable("Zion is away.")]

    @asynccontextmanager
    async def delivering(found: Path) -> AsyncIterator[Outbox]:
        tried.append(found.name)
        if faults:
            raise faults.pop(0)
        async with opened(Outbox(found)) as outbox:
            yield outbox

    departed = Departed(path, own=path, delivering=delivering, poll_s=0.01)
    both = [outbox_path(path, number).name for number in (1, 2)]
    await departed.look()
    assert tried == both  # one that fails is not in the way of the next
    await departed.look()
    assert tried == both * 2
    await departed.look()
    assert tried == both * 2


async def test_a_departed_outbox_is_seen_by_what_lies_beside_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    left = outbox_path(path, 1)
    outbox = Outbox(left)
    outbox.open()
    await outbox.aclose()
    used: list[Outbox] = []

    @asynccontextmanager
    async def delivering(found: Path) -> AsyncIterator[Outbox]:
        async with opened(Outbox(found)) as outbox:
            used.append(outbox)
            yield outbox

    departed = Departed(path, own=path, delivering=delivering, poll_s=0.01)
    assert await departed.look() == []
    assert len(used) == 1
    # A worker that is killed before its first commit; and a disk that is full when we look.
    lock, ended = files.lock(left), Ended(files.ended_path(left))
    ended.open()
    assert ended.keep(record_row(record(0)))
    ended.close()
    os.close(lock)
    with monkeypatch.context() as patch:
        full = sqlite3.OperationalError("database or disk is full")
        patch.setattr(Database, "append", Mock(side_effect=full))
        looking = asyncio.create_task(departed.look())
        await asyncio.sleep(1)
        assert not looking.done()
    async with asyncio.timeout(10):
        while not (items := await used[-1].claim(10)):  # noqa: ASYNC110 - it's a file
            await asyncio.sleep(0.1)
        await used[-1].settle(Settlement(acknowledged=tuple(i.item.id for i in items)))
        assert await looking == [left]
    assert [item.item.records for item in items] == [1]
    await departed.look()
    assert len(used) == 2


def test_successors_get_new_settings_but_for_what_all_have_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = load(to_serve=False)
    changed = {
        "SENTINEL_USAGE__OUTBOX_PATH": str(tmp_path / "other.db"),
        "SENTINEL_USAGE__SIDECAR_NAME": "gateway-2",
        "SENTINEL_SERVER__LISTEN": "unix:/run/other.sock",
        "SENTINEL_SERVER__DRAIN_SECONDS": "7",
        "SENTINEL_ADMIN__ENABLED": "false",
    }
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    new = fit_for_successors(load(to_serve=False), old)
    assert (new.admin, new.server.listen) == (old.admin, old.server.listen)
    assert new.usage.outbox_path == old.usage.outbox_path
    assert (new.usage.sidecar_name, new.server.drain_seconds) == ("gateway-2", 7)


def test_a_line_says_whose_it_is() -> None:
    import logging

    line = logging.makeLogRecord({"msg": "serving"})
    assert WorkerField(2).filter(line)
    assert vars(line)["worker"] == 2


def test_lines_of_either_logger_say_whose_they_are() -> None:
    import logging

    out, root = io.StringIO(), logging.getLogger()
    before = root.handlers[:], root.level
    configure(level="info", json_lines=True, stream=out)
    try:
        name_log_lines(1)
        name_log_lines(2)  # a process has one name
        structlog.get_logger().info("exchange_finished", user="ada")
        logging.getLogger("sentinel.app").info("serving")
    finally:
        structlog.reset_defaults()
        root.handlers[:], root.level = before
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(one["event"], one["worker"]) for one in told] == [
        ("exchange_finished", 2),
        ("serving", 2),
    ]
