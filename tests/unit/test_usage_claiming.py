"""Which items the outbox hands out first, and that nothing is handed out twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uuid_utils

from sentinel_extproc.usage.item_queue import QueuedItem, Refusal, Settlement
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord

NOW_S = 1_767_225_600.0


def record(user: str, age_s: float) -> UsageRecord:
    return UsageRecord(
        id=str(uuid_utils.uuid7()),
        occurred_at_ms=int((NOW_S - age_s) * 1000),
        external_id=user,
        email=f"{user}@example.org",
        endpoint="chat",
        model_requested="gpt-4o",
        model_served=None,
        requests=1,
        usage=TokenUsage(input_tokens=1),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    opened = Outbox(tmp_path / "outbox.sqlite3", wall_clock=lambda: NOW_S)
    opened.open()
    yield opened
    await opened.aclose()


async def append(outbox: Outbox, name: str, count: int, age_s: float) -> None:
    for number in range(count):
        await outbox.append(record(f"{name}-{number}", age_s))


def names(items: list[QueuedItem]) -> list[str]:
    return [queued.item.external_id for queued in items]


def kinds(items: list[QueuedItem]) -> dict[str, int]:
    found = [name.split("-")[0] for name in names(items)]
    return {kind: found.count(kind) for kind in sorted(set(found))}


async def test_settlements_then_fresh_then_a_tenth_of_backlog(outbox: Outbox) -> None:
    await append(outbox, "refused", 5, age_s=7200)
    refused = await outbox.sending(await outbox.claim(100))
    await outbox.settle(
        Settlement(refused=tuple(Refusal(queued.item.id, "no", 0.0) for queued in refused))
    )
    await append(outbox, "old", 60, age_s=3600)
    await append(outbox, "new", 60, age_s=1)
    first = await outbox.claim(50)
    assert kinds(first) == {"new": 40, "old": 5, "refused": 5}
    assert names(first)[:5] == [f"refused-{n}" for n in range(5)]
    assert names(first)[-5:] == [f"old-{n}" for n in range(5)], "the oldest of the backlog"
    assert names(first)[5] == "new-59", "the newest of the fresh"
    assert kinds(await outbox.claim(50)) == {"new": 20, "old": 30}
    assert kinds(await outbox.claim(50)) == {"old": 25}
    assert await outbox.claim(50) == []


@pytest.mark.parametrize("ages", [[0, 7200], [7200, 0], [-7200, 7200], [0, 0]])
async def test_whatever_the_clock_did_every_item_has_its_turn(
    outbox: Outbox, ages: list[float]
) -> None:
    for place, age_s in enumerate(ages):
        await append(outbox, f"u{place}", 20, age_s)
    seen: list[str] = []
    while items := await outbox.claim(3):
        seen += names(items)
    assert len(seen) == len(set(seen)) == 40


async def test_two_who_claim_at_once_never_get_the_same_item(outbox: Outbox) -> None:
    await append(outbox, "u", 60, age_s=0)
    batches = await asyncio.gather(*(outbox.claim(7) for _ in range(12)))
    seen = [name for batch in batches for name in names(batch)]
    assert len(seen) == len(set(seen)) == 60


async def test_a_claim_that_is_let_go_can_be_claimed_again(outbox: Outbox) -> None:
    await append(outbox, "u", 2, age_s=0)
    claimed = await outbox.claim(2)
    await outbox.settle(Settlement(again=(claimed[0].item.id,)))
    assert await outbox.claim(2) == claimed[:1]
