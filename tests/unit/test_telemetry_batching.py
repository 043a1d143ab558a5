"""Facts in batches: none is lost, none is late for who reads, order and times stay."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
import time
from collections.abc import Iterator

import pytest
import structlog

from sentinel_extproc.telemetry import fact_logs
from sentinel_extproc.telemetry.batching import Batch, TimedBatch
from sentinel_extproc.telemetry.fact_logs import FactLog, log_fact
from sentinel_extproc.telemetry.facts import (
    ExchangeFinished,
    ExchangeRefused,
    ExchangeTimed,
    InternalFault,
)
from sentinel_extproc.telemetry.live import Live
from sentinel_extproc.telemetry.logs import AT_ONCE_CHARS, configure
from sentinel_extproc.telemetry.prometheus import Metrics
from sentinel_extproc.telemetry.timeline import Timeline
from sentinel_extproc.telemetry.worker_field import name_log_lines
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord


def refused(name: str) -> ExchangeRefused:
    return ExchangeRefused(name, 401, "invalid_api_key", None, None)


def test_a_batch_waits_until_it_is_full_or_drained() -> None:
    told: list[int] = []
    batch = Batch(told.append, most=3)
    batch.add(1)
    batch.add(2)
    assert told == []
    batch.add(3)
    assert told == [1, 2, 3]
    batch.add(4)
    batch.drain()
    assert told == [1, 2, 3, 4]


def test_threads_that_drain_at_once_lose_and_double_nothing() -> None:
    told: list[int] = []
    batch = Batch(told.append, most=7)
    over = threading.Event()

    def drain() -> None:
        while not over.is_set():
            batch.drain()

    threads = [threading.Thread(target=drain) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(20_000):
        batch.add(number)
    over.set()
    for thread in threads:
        thread.join()
    batch.drain()
    assert sorted(told) == list(range(20_000))


async def test_a_timed_one_drains_itself() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    batch = TimedBatch(told.put_nowait, within_s=0.001)
    batch.add("a")
    batch.add("b")
    assert told.empty()
    async with asyncio.timeout(5):
        assert [await told.get(), await told.get()] == ["a", "b"]
        batch.add("c")  # a second time, too
        assert await told.get() == "c"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    out = io.StringIO()
    configure(level="info", json_lines=True, stream=out)
    yield out
    structlog.reset_defaults()
    root.handlers[:], root.level = before


def read(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


async def test_lines_wait_and_keep_the_time_at_which_they_were_told(
    lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FactLog()
    monkeypatch.setattr(time, "time", lambda: 86_400.25)
    log.emit(refused("a"))
    assert read(lines) == []
    monkeypatch.undo()
    log.flush()
    (line,) = read(lines)
    assert (line["exchange_id"], line["time"]) == ("a", "1970-01-02T00:00:00.250Z")


async def test_what_is_wrong_with_us_is_told_at_once_behind_what_came_before(
    lines: io.StringIO,
) -> None:
    log = FactLog()
    log.emit(refused("a"))
    log.emit(InternalFault("b", "exchange", ValueError("a bug"), False))
    assert [line["event"] for line in read(lines)] == ["exchange_refused", "internal_fault"]


async def test_a_fact_that_cannot_be_told_takes_no_other_with_it(
    lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = fact_logs.log_fact

    def fails_for_a(fact: ExchangeRefused, at_s: float | None = None) -> None:
        if fact.exchange_id == "a":
            raise ValueError("a bug")
        true(fact, at_s)

    monkeypatch.setattr(fact_logs, "log_fact", fails_for_a)
    log = FactLog()
    log.emit(refused("a"))
    log.emit(refused("b"))
    log.flush()
    assert [line["event"] for line in read(lines)] == [
        "a fact could not be told",
        "exchange_refused",
    ]


def finished(text: str, *, request_id: str | None = "r", faults: int = 0) -> ExchangeFinished:
    record = UsageRecord(
        id=f"x{text}",
        occurred_at_ms=1,
        external_id=text,
        email="a@example.com",
        endpoint="chat.completions",
        model_requested=f"m{text}",
        model_served=None,
        requests=1,
        usage=TokenUsage(2**53, 0),
        provenance=Provenance.COUNTED,
        outcome=Outcome.PROVIDER_ERROR,
        request_id=request_id,
    )
    return ExchangeFinished(record, faults)


TEXTS = (
    "",
    "a\nb",
    'x","level":"error',
    "\u2028",
    "\ud800",
    "\x7f\x00",
    "世界🎈",
    "m" * 3000,
    "end",
)


@pytest.mark.parametrize("worker", [None, 3, "admin"])
@pytest.mark.parametrize("json_lines", [True, False])
async def test_lines_that_are_made_here_are_those_of_the_logger(
    lines: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    json_lines: bool,
    worker: int | str | None,
) -> None:
    monkeypatch.setattr(time, "time", lambda: 86_400.25)
    facts = [finished(text, request_id=text or None, faults=text == "\u2028") for text in TEXTS]
    told = []
    for here in (False, True):
        out = io.StringIO()
        configure(level="info", json_lines=json_lines, stream=out)
        if worker is not None:
            name_log_lines(worker)
        log = FactLog()
        for fact in facts:
            (log.emit if here else log_fact)(fact)
        log.flush()
        told.append(out.getvalue())
    assert told[0] == told[1]
    assert len(told[0].splitlines()) == len(TEXTS) + 1


@pytest.mark.parametrize("level", ["debug", "INFO", "warning"])
async def test_the_level_holds_for_lines_that_are_made_here(lines: io.StringIO, level: str) -> None:
    configure(level=level, json_lines=True, stream=lines)
    log = FactLog()
    log.emit(finished("a"))
    log.flush()
    assert bool(lines.getvalue()) is (level != "warning")


async def test_each_line_is_written_whole(lines: io.StringIO) -> None:
    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    written: list[str] = []
    configure(level="info", json_lines=True, stream=Pipe())
    log = FactLog()
    for number in range(60):
        log.emit(finished(f"{number}" * 20))
    log.flush()
    assert 1 < len(written) < 20
    assert all(len(text) <= AT_ONCE_CHARS and text.endswith("}\n") for text in written)
    assert len([json.loads(line) for line in "".join(written).splitlines()]) == 60


async def test_times_are_no_lines() -> None:
    log = FactLog()
    log.emit(ExchangeTimed("a", Timeline(), None))
    log.flush()


def test_who_reads_metrics_or_the_page_sees_all() -> None:
    metrics, live = Metrics(), Live()
    for number in range(5):
        metrics.emit(refused(str(number)))
        live.emit(refused(str(number)))
    text = metrics.exposition()[0].decode()
    (line,) = [one for one in text.splitlines() if one.startswith("sentinel_exchanges_total{")]
    assert '"invalid_api_key"' in line
    assert line.endswith(" 5.0")
    assert sum(one.refused for one in live.samples()) == 5
    assert [(one.name, one.count) for one in live.reasons(3)] == [("invalid_api_key", 5)]


def test_a_sample_holds_what_came_in_its_time() -> None:
    now = 1000.0
    live = Live(clock=lambda: now)
    live.emit(refused("a"))
    now += 5
    live.emit(refused("b"))
    now += 5
    assert [one.refused for one in live.samples()[-3:]] == [1, 1, 0]
