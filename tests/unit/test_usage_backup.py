"""A copy of the outbox that is taken while it is written, as docs/operations.md says."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

from click.testing import CliRunner

from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage_cli.group import usage


def record(number: int) -> UsageRecord:
    return UsageRecord(
        id=f"r{number}",
        occurred_at_ms=1_795_392_000_000 + number,
        external_id="ext-ada",
        email="ada@example.com",
        endpoint="chat.completions",
        model_requested="gpt-4o",
        model_served=None,
        requests=1,
        usage=TokenUsage(10, 20),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )


def copy(path: Path, target: Path) -> None:
    """What ``sqlite3 outbox.db ".backup copy.db"`` does."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(target)) as backup:
        source.backup(backup, pages=1)


async def test_a_copy_beside_the_writer_is_whole(tmp_path: Path) -> None:
    path, target = tmp_path / "outbox.db", tmp_path / "copy.db"
    outbox = Outbox(path)
    outbox.open()
    for number in range(50):
        await outbox.append(record(number))
    copying = asyncio.create_task(asyncio.to_thread(copy, path, target))
    for number in range(50, 100):
        await outbox.append(record(number))
    await copying
    await outbox.aclose()

    result = CliRunner().invoke(usage, ["verify", "--outbox", str(target), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["records"] >= 50
    restored = Outbox(target)
    restored.open()
    items = await restored.claim(1000)
    assert sum(queued.item.requests for queued in items) >= 50
    await restored.aclose()
