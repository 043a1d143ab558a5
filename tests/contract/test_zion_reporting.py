"""Outbox, reporter and client against the stand-in Zion: what was used is what is billed, through
every fault that the stand-in can be given."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uuid_utils

from sentinel_extproc.demo.hosting import HostedApp, serve_app
from sentinel_extproc.demo.zion_standin import FaultKind, ZionCall, ZionStandIn, ZionUser
from sentinel_extproc.usage.item_queue import ItemState
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.reporter import Reporter
from sentinel_extproc.usage.reporting import OnAmbiguous
from sentinel_extproc.usage.retry import Backoff
from sentinel_extproc.zion.breaker import Breaker, BreakerPolicy
from sentinel_extproc.zion.client import ZionClient
from sentinel_extproc.zion.wire import Dialect

USERS = [
    ZionUser(id=f"u{n}", token=f"t{n}", email=f"{n}@example.org", external_id=f"ext-{n}")
    for n in range(5)
]


def record(number: int) -> UsageRecord:
    user = USERS[number % len(USERS)]
    assert user.external_id is not None
    return UsageRecord(
        id=str(uuid_utils.uuid7()),
        occurred_at_ms=1_767_225_600_000 + number,
        external_id=user.external_id,
        email=user.email,
        endpoint="chat",
        model_requested="gpt-4o" if number % 3 else "o3",
        model_served=None,
        requests=1,
        usage=TokenUsage(input_tokens=number, output_tokens=2 * number),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )


def used(records: list[UsageRecord]) -> Counter[tuple[str, str]]:
    total: Counter[tuple[str, str]] = Counter()
    for one in records:
        total[one.external_id, "input"] += one.usage.input_tokens
        total[one.external_id, "output"] += one.usage.output_tokens
        total[one.external_id, "requests"] += one.requests
    return total


def billed(zion: ZionStandIn) -> Counter[tuple[str, str]]:
    total: Counter[tuple[str, str]] = Counter()
    for entry in zion.ledger():
        total[entry.external_id, "input"] += entry.input_tokens
        total[entry.external_id, "output"] += entry.output_tokens
        total[entry.external_id, "requests"] += entry.requests
    return total


@pytest.fixture(params=list(Dialect))
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return Dialect(request.param)


@pytest.fixture
def zion(dialect: Dialect) -> ZionStandIn:
    return ZionStandIn(api_key="zion-key", users=USERS, dialect=dialect.value)


@pytest.fixture
def hosted(zion: ZionStandIn) -> Iterator[HostedApp]:
    with serve_app(zion.app, name="zion") as running:
        yield running


@pytest.fixture
async def client(hosted: HostedApp, dialect: Dialect) -> AsyncIterator[ZionClient]:
    made = ZionClient(
        base_url=f"http://127.0.0.1:{hosted.port}",
        api_key="zion-key",
        dialect=dialect,
        report_deadline_s=0.5,
        report_breaker=Breaker(BreakerPolicy(min_calls=10_000)),
    )
    yield made
    await made.aclose()


@pytest.fixture
async def outbox(tmp_path: Path, dialect: Dialect) -> AsyncIterator[Outbox]:
    made = Outbox(tmp_path / "outbox.sqlite3", split_metrics=dialect is Dialect.PER_METRIC)
    made.open()
    yield made
    await made.aclose()


def reporter(
    outbox: Outbox, client: ZionClient, on_ambiguous: OnAmbiguous = OnAmbiguous.RETRY
) -> Reporter:
    quick = Backoff(base_s=0.001, cap_s=0.01)
    return Reporter(outbox, client, backoff=quick, batch_size=4, on_ambiguous=on_ambiguous)


async def fill(outbox: Outbox, count: int = 60) -> list[UsageRecord]:
    records = [record(number) for number in range(count)]
    for one in records:
        await outbox.append(one)
    return records


async def test_what_was_used_is_what_is_billed(
    outbox: Outbox, client: ZionClient, zion: ZionStandIn
) -> None:
    records = await fill(outbox)
    result = await reporter(outbox, client).drain(30)
    assert result.left == 0
    assert billed(zion) == used(records)
    assert zion.duplicates == 0


@pytest.mark.parametrize("dialect", [Dialect.UNIFIED])
@pytest.mark.parametrize(
    "kind",
    [
        FaultKind.ERROR_500,
        FaultKind.HANG,
        FaultKind.MALFORMED,
        FaultKind.OVERSIZED,
        FaultKind.DROP,
        FaultKind.COMMIT_THEN_DROP,
        FaultKind.UNAUTHORIZED,
        FaultKind.FORBIDDEN,
    ],
)
async def test_after_every_fault_all_is_billed_once(
    outbox: Outbox, client: ZionClient, zion: ZionStandIn, kind: FaultKind
) -> None:
    records = await fill(outbox)
    zion.set_fault(ZionCall.BATCH, kind, times=1)
    result = await reporter(outbox, client).drain(30)
    assert result.left == 0
    assert billed(zion) == used(records)
    keys = [entry.key for entry in zion.ledger()]
    assert len(set(keys)) == len(keys)


async def test_lost_answers_are_known_and_counted(
    outbox: Outbox, client: ZionClient, zion: ZionStandIn
) -> None:
    records = await fill(outbox)
    zion.set_fault(ZionCall.BATCH, FaultKind.COMMIT_THEN_DROP, times=1)
    reporting = reporter(outbox, client, on_ambiguous=OnAmbiguous.PARK)
    await reporting.drain(30)
    held = await outbox.held()
    assert len(held) == reporting.counters.ambiguous == 4
    assert {one.state for one in held} == {ItemState.PARKED}
    # They were billed, as a person finds out; replayed, Zion knows them again by their keys.
    assert billed(zion) == used(records)
    await outbox.replay([one.item.id for one in held])
    await reporter(outbox, client).drain(30)
    assert billed(zion) == used(records)
    assert zion.duplicates == 4


async def test_a_zion_that_does_not_know_keys_bills_no_more_twice_than_was_counted(
    outbox: Outbox, client: ZionClient, zion: ZionStandIn
) -> None:
    zion._state.deduplicate = False
    records = await fill(outbox)
    zion.set_fault(ZionCall.BATCH, FaultKind.COMMIT_THEN_DROP, times=1)
    reporting = reporter(outbox, client)
    await reporting.drain(30)
    keys = Counter(entry.key for entry in zion.ledger())
    twice = sum(times - 1 for times in keys.values())
    assert 0 < twice <= reporting.counters.ambiguous
    once = Counter[tuple[str, str]]()
    for entry in {entry.key: entry for entry in zion.ledger()}.values():
        once[entry.external_id, "input"] += entry.input_tokens
        once[entry.external_id, "output"] += entry.output_tokens
        once[entry.external_id, "requests"] += entry.requests
    assert once == used(records)


async def test_an_unknown_user_is_refused_row_by_row(
    outbox: Outbox, client: ZionClient, zion: ZionStandIn
) -> None:
    records = await fill(outbox)
    assert USERS[1].token is not None
    zion.revoke(USERS[1].token)
    async with asyncio.timeout(30):
        while (await reporter(outbox, client).drain(30)).left:  # what is refused is due later
            pass
    held = await outbox.held()
    assert {one.item.external_id for one in held} == {"ext-1"}
    assert {one.reason for one in held} == {"User not found"}
    assert billed(zion) == used([one for one in records if one.external_id != "ext-1"])
