"""kill -9 under load: whatever was acknowledged is in the outbox, once, however often it dies."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.reporter import Reporter
from sentinel_extproc.usage.reporting import increment
from sentinel_extproc.usage.sealing import batch_key
from sentinel_extproc.zion.batches import RowOutcome, RowResult, UsageIncrement
from tests.ledger_fakes import run_and_kill

WORKER = """
import asyncio, os, sys
from pathlib import Path
import uuid_utils
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord

def record(number):
    return UsageRecord(
        id=str(uuid_utils.uuid7()), occurred_at_ms=1_767_225_600_000,
        external_id=f"ext-{number % 5}", email=f"{number % 5}@example.org", endpoint="chat",
        model_requested="m", model_served=None, requests=1, usage=TokenUsage(3, 2),
        provenance=Provenance.PROVIDER, outcome=Outcome.COMPLETED)

async def stream(outbox, number):
    while True:
        made = record(number)
        os.write(1, f"try {made.id}\\n".encode())
        await outbox.append(made)
        os.write(1, f"ack {made.id}\\n".encode())
        if sys.argv[2] == "twice":
            await outbox.append(made)

async def claim(outbox):
    while True:
        await outbox.sending(await outbox.claim(3))
        await asyncio.sleep(0.005)

async def main():
    outbox = Outbox(Path(sys.argv[1]))
    outbox.open()
    await asyncio.gather(claim(outbox), *(stream(outbox, number) for number in range(20)))

asyncio.run(main())
"""


class Zion:
    """Adds up what it is billed, and knows keys again."""

    def __init__(self) -> None:
        self.keys: dict[str, UsageIncrement] = {}

    async def report(
        self, increments: Sequence[UsageIncrement], batch_key: str
    ) -> Sequence[RowResult]:
        for item in increments:
            assert self.keys.setdefault(item.idempotency_key, item) == item
        return [RowResult(RowOutcome.RECORDED)] * len(increments)


async def test_acknowledged_records_survive_kill_9_exactly_once(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    rng = random.Random(20260101)
    tried: set[str] = set()
    acknowledged: set[str] = set()
    for cycle in range(4):
        more_tried, more_acknowledged = run_and_kill(
            WORKER,
            str(path),
            "twice" if cycle % 2 else "once",
            least=rng.randrange(50, 1500),
        )
        tried |= more_tried
        acknowledged |= more_acknowledged
    assert len(acknowledged) > 100
    outbox = Outbox(path, retain_s=0)
    outbox.open()
    ids = [row[0] for row in _rows(path, "SELECT id FROM records")]
    assert len(ids) == len(set(ids))
    assert acknowledged <= set(ids) <= tried

    # The batches that were claimed when it died go out again as they were, and all is billed once.
    zion = Zion()
    interrupted = await outbox.interrupted()
    reporter = Reporter(outbox, zion)
    result = await reporter.drain(30)
    assert result.left == 0
    sent_before = {queued.item.id for batch in interrupted for queued in batch}
    assert sent_before <= zion.keys.keys()
    assert reporter.counters.ambiguous == len(sent_before)
    assert sum(item.requests for item in zion.keys.values()) == len(ids)
    assert sum(item.input_tokens for item in zion.keys.values()) == 3 * len(ids)
    assert sum(item.output_tokens for item in zion.keys.values()) == 2 * len(ids)
    await outbox.claim(1)  # forgets what is acknowledged
    await outbox.aclose()
    assert _rows(path, "SELECT id FROM records") == []


async def test_a_batch_cut_off_by_kill_9_keeps_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    run_and_kill(WORKER, str(path), "once", least=random.Random(7).randrange(50, 1500))
    seen = []
    for _ in range(2):
        outbox = Outbox(path)
        outbox.open()
        batches = await outbox.interrupted()
        seen.append(
            {
                batch_key([queued.item for queued in batch]): [
                    increment(queued.item) for queued in batch
                ]
                for batch in batches
            }
        )
        await outbox.aclose()
    assert seen[0] == seen[1]
    labels = {row[0] for row in _rows(path, "SELECT DISTINCT batch FROM items WHERE state='sent'")}
    assert labels == set(seen[0])


def _rows(path: Path, statement: str) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()
