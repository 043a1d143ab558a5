"""The reporter between a real outbox and a scripted Zion: every outcome, and what it leads to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from msgspec.structs import replace

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage.item_queue import ItemState, QueuedItem, Settlement
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.reporter import Reporter
from sentinel_extproc.usage.reporting import OnAmbiguous
from sentinel_extproc.usage.retry import Backoff
from sentinel_extproc.zion.answers import BatchRefusedError, Reason, ZionUnavailable
from sentinel_extproc.zion.batches import RowOutcome, RowResult, UsageIncrement

RECORDED = RowResult(RowOutcome.RECORDED)
REFUSED = RowResult(RowOutcome.REFUSED, "no such user")
UNKNOWN = RowResult(RowOutcome.UNKNOWN)


def record(user: str, tokens: int = 10) -> UsageRecord:
    return UsageRecord(
        id=str(uuid_utils.uuid7()),
        occurred_at_ms=1_767_225_600_000,
        external_id=f"ext-{user}",
        email=f"{user}@example.org",
        endpoint="chat",
        model_requested="gpt-4o",
        model_served=None,
        requests=1,
        usage=TokenUsage(input_tokens=tokens),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )


Behaviour = Callable[[Sequence[UsageIncrement]], Sequence[RowResult]]


def accept(increments: Sequence[UsageIncrement]) -> Sequence[RowResult]:
    return [RECORDED] * len(increments)


def failing(error: Exception) -> Behaviour:
    def behave(_: Sequence[UsageIncrement]) -> Sequence[RowResult]:
        raise error

    return behave


def down(*, ambiguous: bool = False, reason: Reason = Reason.STATUS) -> Behaviour:
    return failing(ZionUnavailable("down", reason=reason, ambiguous=ambiguous, retry_after_s=0))


@dataclass
class Zion:
    """Behaves as scripted, then accepts; ``billed`` is what it accepted, per key."""

    script: list[Behaviour] = field(default_factory=list)
    always: Behaviour = accept
    batches: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    billed: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)

    async def report(
        self, increments: Sequence[UsageIncrement], batch_key: str
    ) -> Sequence[RowResult]:
        self.batches.append((batch_key, tuple(i.idempotency_key for i in increments)))
        behave = self.script.pop(0) if self.script else self.always
        rows = behave(increments)
        for item, row in zip(increments, rows, strict=False):
            if row.outcome is RowOutcome.RECORDED:
                self.billed[item.idempotency_key] += 1
                self.tokens[item.external_id] += item.input_tokens
        return rows


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    opened = Outbox(tmp_path / "outbox.sqlite3")
    opened.open()
    yield opened
    await opened.aclose()


async def fill(outbox: Outbox, users: str) -> None:
    for user in users:
        await outbox.append(record(user))


def reporter(outbox: Outbox, zion: Zion, **options: Any) -> Reporter:
    quick = Backoff(base_s=0.0, cap_s=0.0)
    return Reporter(outbox, zion, **{"backoff": quick, "interval_s": 0.01, **options})


async def states(outbox: Outbox) -> dict[str, int]:
    backlog = await outbox.backlog()
    counts = {state.value: count for state, count in backlog.items.items() if count}
    return counts | ({"unsealed": backlog.records} if backlog.records else {})


async def test_all_is_billed_once_and_then_gone(outbox: Outbox) -> None:
    await fill(outbox, "aabbb")
    zion = Zion()
    reporting = reporter(outbox, zion)
    result = await reporting.drain(10)
    assert (result.delivered, result.left) == (2, 0)
    assert zion.tokens == {"ext-a": 20, "ext-b": 30}
    assert await states(outbox) == {}


async def test_it_reports_by_itself_while_records_come(outbox: Outbox) -> None:
    zion = Zion()
    reporting = reporter(outbox, zion)
    reporting.start()
    async with asyncio.timeout(10):
        for total in range(1, 6):
            await fill(outbox, "a")
            while zion.tokens["ext-a"] < 10 * total:  # noqa: ASYNC110  polls with a deadline
                await asyncio.sleep(0.005)
    assert (await reporting.drain(10)).left == 0
    assert set(zion.billed.values()) == {1}
    with pytest.raises(RuntimeError, match="started"):
        reporting.start()


async def test_batches_are_bounded(outbox: Outbox) -> None:
    await fill(outbox, "abcdefg")
    zion = Zion()
    await reporter(outbox, zion, batch_size=3).drain(10)
    assert [len(keys) for _, keys in zion.batches] == [3, 3, 1]
    for size in (0, 1001):
        with pytest.raises(ValueError, match="1 to 1000"):
            reporter(outbox, zion, batch_size=size)


async def test_only_recorded_rows_are_acknowledged(outbox: Outbox) -> None:
    await fill(outbox, "abc")
    zion = Zion(script=[lambda _: [RECORDED, REFUSED, UNKNOWN]])
    reporting = reporter(outbox, zion)
    assert (await reporting.drain(10)).left == 0
    assert len(zion.batches) == 2
    assert zion.batches[1][1] == zion.batches[0][1][1:]
    assert set(zion.billed.values()) == {1}
    assert reporting.counters.ambiguous == 1
    assert reporting.counters.acknowledged == 3


async def test_an_answer_of_the_wrong_length_acknowledges_nothing(outbox: Outbox) -> None:
    await fill(outbox, "abc")
    zion = Zion(script=[lambda _: [RECORDED]])
    reporting = reporter(outbox, zion)
    await reporting.drain(10)
    assert reporting.counters.ambiguous == 3
    assert zion.batches[0][1] == zion.batches[1][1]


async def test_a_row_refused_for_good_becomes_a_dead_letter_with_its_reason(
    outbox: Outbox,
) -> None:
    await fill(outbox, "a")
    zion = Zion(always=lambda _: [REFUSED])
    reporting = reporter(outbox, zion, max_refusals=4)
    assert (await reporting.drain(10)).left == 0
    assert len(zion.batches) == 4
    assert len({key for _, keys in zion.batches for key in keys}) == 1
    (dead,) = await outbox.held()
    assert (dead.state, dead.reason) == (ItemState.DEAD, "no such user")
    assert reporting.counters.dead_letters == 1

    # Replayed by a person once the cause is gone, under the same key.
    zion.always = accept
    assert await outbox.replay([dead.item.id]) == 1
    await reporter(outbox, zion).drain(10)
    assert zion.billed == {dead.item.id: 1}


async def test_an_item_that_is_never_matched_is_parked_before_it_is_billed_for_ever(
    outbox: Outbox,
) -> None:
    await fill(outbox, "a")
    zion = Zion(always=lambda _: [UNKNOWN])
    await reporter(outbox, zion).drain(10)
    assert len(zion.batches) == 3
    assert await states(outbox) == {"parked": 1}


@pytest.mark.parametrize("poisoned", ["a", "d", "h", "ah", "bce"])
async def test_poisoned_items_are_found_by_halving(outbox: Outbox, poisoned: str) -> None:
    def refuse(increments: Sequence[UsageIncrement]) -> Sequence[RowResult]:
        if any(item.external_id[4:] in poisoned for item in increments):
            raise BatchRefusedError(400)
        return accept(increments)

    await fill(outbox, "abcdefgh")
    zion = Zion(always=refuse)
    reporting = reporter(outbox, zion)
    await reporting.drain(10)
    held = await outbox.held()
    assert {one.item.external_id[4:] for one in held} == set(poisoned)
    assert {one.reason for one in held} == {"refused with status 400"}
    assert len(zion.billed) == 8 - len(poisoned)
    assert set(zion.billed.values()) == {1}


async def test_a_batch_too_large_is_sent_in_parts_and_nothing_dies(outbox: Outbox) -> None:
    def small_only(increments: Sequence[UsageIncrement]) -> Sequence[RowResult]:
        if len(increments) > 2:
            raise BatchRefusedError(413)
        return accept(increments)

    await fill(outbox, "abcdefgh")
    zion = Zion(always=small_only)
    await reporter(outbox, zion).drain(10)
    assert await states(outbox) == {}
    assert set(zion.billed.values()) == {1}
    assert len(zion.billed) == 8


async def test_when_everything_is_refused_the_queue_is_not_buried(outbox: Outbox) -> None:
    users = "abcdefghijklmnopqrstuvwxyz"
    await fill(outbox, users)
    zion = Zion(always=failing(BatchRefusedError(400)))
    slow = Backoff(base_s=1000, cap_s=1000)
    result = await reporter(outbox, zion, backoff=slow, chance=lambda: 1.0).drain(1.0)
    assert result.left == len(users) - 8
    assert len(await outbox.held()) == 8


@pytest.mark.parametrize("ambiguous", [False, True])
async def test_outages_are_waited_out_under_the_same_keys(outbox: Outbox, ambiguous: bool) -> None:
    await fill(outbox, "abc")
    zion = Zion(script=[down(ambiguous=ambiguous)] * 5)
    reporting = reporter(outbox, zion)
    assert (await reporting.drain(10)).left == 0
    assert len(zion.batches) == 6
    assert len(set(zion.batches)) == 1
    assert reporting.counters.failed_batches == 5
    assert reporting.counters.ambiguous == (15 if ambiguous else 0)


@pytest.mark.parametrize("poisoned", ["a", "h", "cf"])
async def test_items_that_zion_fails_at_are_found_while_the_others_pass(
    outbox: Outbox, poisoned: str
) -> None:
    def fail(increments: Sequence[UsageIncrement]) -> Sequence[RowResult]:
        if any(item.external_id[4:] in poisoned for item in increments):
            raise ZionUnavailable("oops", reason=Reason.STATUS, ambiguous=True, retry_after_s=0)
        return accept(increments)

    await fill(outbox, "abcdefgh")
    zion = Zion(always=fail)
    reporting = reporter(outbox, zion)
    reporting.start()
    fresh = iter(range(10_000))
    async with asyncio.timeout(20):
        while len(await outbox.held()) < len(poisoned):
            await fill(outbox, f"{next(fresh)}"[-1])  # usage goes on, and passes
            await asyncio.sleep(0.005)
    assert (await reporting.drain(10)).left == 0
    held = await outbox.held()
    assert {one.item.external_id[4:] for one in held} == set(poisoned)
    assert all("fails at it" in one.reason for one in held)
    assert {f"ext-{user}" for user in "abcdefgh" if user not in poisoned} <= set(zion.tokens)
    assert set(zion.billed.values()) == {1}


async def test_in_an_outage_nothing_is_buried(outbox: Outbox) -> None:
    await fill(outbox, "abcd")
    zion = Zion(script=[down(ambiguous=True)] * 200)
    reporting = reporter(outbox, zion)
    assert (await reporting.drain(10)).left == 0
    assert len(zion.batches) > 200
    assert await outbox.held() == []
    assert len(zion.billed) == 4
    assert set(zion.billed.values()) == {1}


async def test_an_uncertain_batch_keeps_its_composition_and_a_certain_one_grows(
    outbox: Outbox,
) -> None:
    zion = Zion(always=down(ambiguous=True))
    reporting = reporter(outbox, zion)
    await fill(outbox, "ab")
    await reporting._step()
    await fill(outbox, "c")
    zion.always = down()
    await reporting._step()
    assert zion.batches[0] == zion.batches[1]
    zion.always = accept
    await reporting.drain(10)
    assert zion.batches[2] == zion.batches[0]

    zion.always = down()
    await fill(outbox, "d")
    await reporting._step()
    await fill(outbox, "e")
    await reporting._step()
    assert [len(keys) for _, keys in zion.batches[-2:]] == [1, 2]


async def test_lost_answers_are_parked_if_so_configured(outbox: Outbox) -> None:
    await fill(outbox, "ab")
    zion = Zion(script=[down(ambiguous=True)])
    reporting = reporter(outbox, zion, on_ambiguous=OnAmbiguous.PARK)
    assert (await reporting.drain(10)).left == 0
    assert len(zion.batches) == 1
    assert await states(outbox) == {"parked": 2}
    assert (reporting.counters.ambiguous, reporting.counters.parked) == (2, 2)


async def test_what_was_surely_not_sent_is_not_parked(outbox: Outbox) -> None:
    await fill(outbox, "ab")
    zion = Zion(script=[down(), down(reason=Reason.RATE_LIMITED)])
    reporting = reporter(outbox, zion, on_ambiguous=OnAmbiguous.PARK)
    assert (await reporting.drain(10)).left == 0
    assert await states(outbox) == {}
    assert reporting.counters.rate_limited_batches == 1
    assert reporting.counters.failed_batches == 1


async def test_retry_after_is_a_floor(outbox: Outbox) -> None:
    await fill(outbox, "a")
    limited = ZionUnavailable("m", reason=Reason.RATE_LIMITED, retry_after_s=17)
    reporting = reporter(outbox, Zion(script=[failing(limited)]))
    assert await reporting._step() == 17


@pytest.mark.parametrize("policy", list(OnAmbiguous))
async def test_what_a_former_process_left_unsettled(tmp_path: Path, policy: OnAmbiguous) -> None:
    path = tmp_path / "left.sqlite3"
    outbox = Outbox(path)
    outbox.open()
    await fill(outbox, "abc")
    left = [queued.item.id for queued in await outbox.sending(await outbox.claim(2))]
    await outbox.claim(1)  # never sent, so nobody need wonder about it
    await outbox.aclose()

    outbox = Outbox(path)
    outbox.open()
    zion = Zion()
    reporting = reporter(outbox, zion, on_ambiguous=policy)
    await reporting.drain(10)
    assert reporting.counters.ambiguous == 2
    if policy is OnAmbiguous.RETRY:
        assert zion.batches[0][1] == tuple(left)
        assert len(zion.billed) == 3
        assert await states(outbox) == {}
    else:
        assert len(zion.billed) == 1
        assert not set(left) & set(zion.billed)
        assert await states(outbox) == {"parked": 2}
    await outbox.aclose()


async def test_a_drain_that_runs_out_of_time_leaves_the_rest_for_the_next_process(
    outbox: Outbox,
) -> None:
    await fill(outbox, "abc")
    entered = asyncio.Event()

    class Hanging(Zion):
        async def report(
            self, increments: Sequence[UsageIncrement], batch_key: str
        ) -> Sequence[RowResult]:
            entered.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    reporting = reporter(outbox, Hanging())
    reporting.start()
    await entered.wait()
    result = await reporting.drain(0.05)
    assert (result.delivered, result.left) == (0, 3)
    assert await states(outbox) == {"sent": 3}


class Broken:
    """An outbox whose store fails at chosen calls."""

    def __init__(self, outbox: Outbox, **failures: int) -> None:
        self._outbox = outbox
        self._failures = failures

    def _maybe_fail(self, call: str) -> None:
        if self._failures.get(call, 0):
            self._failures[call] -= 1
            raise Unavailable("disk")

    async def claim(self, limit: int) -> Any:
        self._maybe_fail("claim")
        return await self._outbox.claim(limit)

    async def sending(self, items: Sequence[QueuedItem]) -> Any:
        self._maybe_fail("sending")
        return await self._outbox.sending(items)

    async def interrupted(self) -> Any:
        self._maybe_fail("interrupted")
        return await self._outbox.interrupted()

    async def settle(self, settlement: Settlement) -> None:
        self._maybe_fail("settle")
        await self._outbox.settle(settlement)

    async def backlog(self) -> Any:
        return await self._outbox.backlog()


@pytest.mark.parametrize("stuck_in", ["claim", "sending", "report"])
async def test_what_a_drain_cut_off_before_sending_is_ready_again(
    outbox: Outbox, stuck_in: str
) -> None:
    await fill(outbox, "abc")
    entered = asyncio.Event()

    async def hang() -> None:
        entered.set()
        await asyncio.Event().wait()

    class Stuck(Broken):
        async def claim(self, limit: int) -> Any:
            claimed = await super().claim(limit)
            if stuck_in == "claim":
                await hang()
            return claimed

        async def sending(self, items: Sequence[QueuedItem]) -> Any:
            await super().sending(items)
            if stuck_in == "sending":
                await hang()
            return list(items)

    class Hanging(Zion):
        async def report(
            self, increments: Sequence[UsageIncrement], batch_key: str
        ) -> Sequence[RowResult]:
            await hang()
            return []

    reporting = Reporter(Stuck(outbox), Hanging(), on_ambiguous=OnAmbiguous.PARK)
    reporting.start()
    await entered.wait()
    await reporting.drain(0.01)
    assert await states(outbox) == ({"sent": 3} if stuck_in == "report" else {"ready": 3})


async def test_a_batch_that_waits_for_its_turn_is_ready_again_after_a_drain(
    outbox: Outbox,
) -> None:
    def poisoned(increments: Sequence[UsageIncrement]) -> Sequence[RowResult]:
        if len(increments) > 1:
            raise BatchRefusedError(400)
        raise ZionUnavailable("down", reason=Reason.STATUS, retry_after_s=100)

    await fill(outbox, "abcd")
    reporting = reporter(outbox, Zion(always=poisoned))
    result = await reporting.drain(1.0)
    assert (result.delivered, result.left) == (0, 4)
    assert await states(outbox) == {"ready": 4}


async def test_items_that_may_have_been_sent_by_somebody_else_are_not_mixed_with_others(
    outbox: Outbox,
) -> None:
    class Half(Broken):
        async def claim(self, limit: int) -> Any:
            claimed = await self._outbox.sending(await super().claim(limit))
            return [replace(q, maybe_billed=n % 2 == 1) for n, q in enumerate(claimed)]

    await fill(outbox, "abcd")
    zion = Zion()
    reporting = Reporter(Half(outbox), zion)
    assert (await reporting.drain(10)).left == 0
    assert [len(keys) for _, keys in zion.batches] == [2, 2]
    assert reporting.counters.ambiguous == 2

    await fill(outbox, "abcd")
    parking = Reporter(Half(outbox), zion, on_ambiguous=OnAmbiguous.PARK)
    assert (await parking.drain(10)).left == 0
    assert await states(outbox) == {"parked": 2}


@pytest.mark.parametrize("call", ["claim", "sending", "interrupted", "settle"])
async def test_a_store_that_fails_for_a_while_doubles_nothing(outbox: Outbox, call: str) -> None:
    await fill(outbox, "abc")
    zion = Zion()
    reporting = Reporter(
        Broken(outbox, **{call: 3}), zion, backoff=Backoff(base_s=0, cap_s=0), interval_s=0.01
    )
    assert (await reporting.drain(10)).left == 0
    assert len(zion.billed) == 3
    assert set(zion.billed.values()) == {1}


async def test_a_fault_of_our_own_does_not_end_reporting(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(outbox, "a")
    zion = Zion(script=[failing(KeyError("bug"))])
    assert (await reporter(outbox, zion).drain(10)).left == 0
    assert "reporting usage failed" in caplog.text
    assert len(zion.billed) == 1
