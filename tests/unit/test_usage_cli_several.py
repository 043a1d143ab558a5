"""Several workers' ledgers read as one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sentinel_extproc.cli import main
from sentinel_extproc.usage.files import outbox_path
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    path = tmp_path / "outbox.db"

    async def fill() -> None:
        for number, at_ms in [(0, 1000), (1, 2000), (3, 3000)]:
            made = Outbox(outbox_path(path, number))
            made.open()
            for more in (0, 5000):
                await made.append(record(at_ms + more))
            await made.aclose()

    asyncio.run(fill())
    return path


def record(at_ms: int) -> UsageRecord:
    return UsageRecord(
        id=f"0190b8b0-0000-7000-8000-{at_ms:012d}",
        occurred_at_ms=at_ms,
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


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["usage", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_status_sums_up_and_tells_of_each(outbox: Path) -> None:
    told = json.loads(run("status", "--outbox", str(outbox), "--json"))
    assert told["records"] == 6
    assert [one["outbox"] for one in told["outboxes"]] == [
        "outbox.db",
        "outbox.worker-1.db",
        "outbox.worker-3.db",
    ]
    assert len({one["sidecar"] for one in told["outboxes"]}) == 3
    assert "outbox.worker-3.db" in run("status", "--outbox", str(outbox))


def test_one_alone_is_told_as_ever(outbox: Path) -> None:
    told = json.loads(run("status", "--outbox", str(outbox_path(outbox, 1)), "--json"))
    assert told["records"] == 2
    assert "outboxes" not in told


@pytest.mark.parametrize("oldest_first", [False, True])
def test_records_come_by_time_whoever_has_them(outbox: Path, oldest_first: bool) -> None:
    order = ["--oldest-first"] if oldest_first else []
    lines = run("list", "--outbox", str(outbox), "--json", *order).splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    assert ids == sorted(ids, reverse=not oldest_first)
    assert len(ids) == 6
    assert len(run("export", "--outbox", str(outbox)).splitlines()) == 6


def test_verify_says_which_chains_it_did_not_look_at(outbox: Path) -> None:
    done = CliRunner().invoke(main, ["usage", "verify", "--outbox", str(outbox), "--json"])
    assert done.exit_code == 0
    assert "outbox.worker-1.db" in done.stderr
    assert json.loads(done.stdout)["records"] == 2
