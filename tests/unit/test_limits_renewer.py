"""Which holds are renewed when, under a clock that the test moves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from sentinel_extproc.limits.limit import Kind, Limit, Period
from sentinel_extproc.limits.model import Unit
from sentinel_extproc.limits.renewer import Renewer
from sentinel_extproc.limits.store import (
    Claim,
    Decision,
    Line,
    StoreError,
    StoreUntriedError,
    Verdict,
)
from sentinel_extproc.limits.store.memory import MemoryStore


def claim(name: str, *kinds: Kind) -> Claim:
    limits = (
        Limit(name=kind.value, unit=Unit.REQUESTS, kind=kind, capacity=10**6, period=Period.MONTH)
        for kind in kinds
    )
    return Claim(name, "user", tuple(Line(limit, limit.name, 5) for limit in limits))


class Recording(MemoryStore):
    """Notes whom it renewed; answers as told."""

    def __init__(self) -> None:
        super().__init__(lambda: 0)
        self.renewed: list[str] = []
        self.broken = self.away = False
        self.silent: frozenset[str] = frozenset()
        self.decision = Decision.ADMITTED
        self.under_way = 0
        self.most_under_way = 0

    async def extend(self, claim: Claim) -> Verdict:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        self.renewed.append(claim.id)
        if self.away or claim.id in self.silent:
            raise StoreUntriedError("the store is away")
        if self.broken:
            raise StoreError("no answer")
        return Verdict(self.decision, 0)


@dataclass
class Bench:
    now_s: float = 0.0
    store: Recording = field(default_factory=Recording)
    longest_s: float = 7200.0

    def __post_init__(self) -> None:
        self.renewer = Renewer(
            self.store,
            lease_every_s=20.0,
            record_every_s=200.0,
            longest_s=self.longest_s,
            clock=lambda: self.now_s,
        )

    async def at(self, now_s: float) -> list[str]:
        """Whom a tick at that time renews."""
        self.now_s = now_s
        self.store.renewed.clear()
        await self.renewer.renew_due()
        return self.store.renewed


async def test_leases_are_renewed_often_and_records_seldom() -> None:
    bench = Bench()
    bench.renewer.watch(claim("bucket", Kind.BUCKET))
    bench.renewer.watch(claim("ring", Kind.RING))
    bench.renewer.watch(claim("mixed", Kind.RING, Kind.CALENDAR))
    bench.renewer.watch(claim("streams", Kind.CONCURRENCY))
    bench.renewer.watch(claim("nothing"))
    assert len(bench.renewer) == 4
    counts = {"bucket": 0, "ring": 0, "mixed": 0, "streams": 0}
    for tick in range(1, 241):
        for name in await bench.at(tick * 5.0):
            counts[name] += 1
    assert counts == {"bucket": 6, "ring": 6, "mixed": 60, "streams": 60}


async def test_what_was_not_answered_is_asked_for_again_soon() -> None:
    bench = Bench()
    bench.renewer.watch(claim("ring", Kind.RING))
    assert await bench.at(199) == []
    bench.store.broken = True
    assert await bench.at(200) == ["ring"]
    assert await bench.at(219) == []
    bench.store.broken = False
    assert await bench.at(220) == ["ring"]
    assert await bench.at(419) == []
    assert await bench.at(420) == ["ring"]


async def test_what_could_not_be_asked_for_is_at_every_tick_until_the_store_is_back() -> None:
    bench = Bench()
    ended, running = claim("ended", Kind.CONCURRENCY), claim("running", Kind.CONCURRENCY)
    bench.renewer.watch(ended)
    bench.renewer.watch(running)
    bench.store.away = True
    assert await bench.at(20) == ["ended", "running"]
    assert await bench.at(25) == ["ended", "running"]
    bench.renewer.forget(ended)
    assert len(bench.renewer) == 1
    bench.store.away = False
    assert await bench.at(30) == ["running"]
    assert await bench.at(49) == []
    assert await bench.at(50) == ["running"]
    bench.store.away = True
    await bench.at(70)
    bench.renewer.renewed(running)
    assert await bench.at(89) == []


async def test_growing_is_renewing() -> None:
    bench = Bench()
    first, second = claim("a", Kind.RING), claim("b", Kind.RING)
    bench.renewer.watch(first)
    bench.renewer.watch(second)
    bench.now_s = 150
    bench.renewer.renewed(replace(first, lines=(replace(first.lines[0], amount=9),)))
    bench.renewer.renewed(claim("stranger", Kind.RING))
    assert await bench.at(200) == ["b"], "one that was renewed is in nobody's way"
    assert await bench.at(350) == ["a"]
    assert len(bench.renewer) == 2


async def test_what_is_settled_or_too_old_is_let_go() -> None:
    bench = Bench(longest_s=100)
    ended, over, old = (claim(name, Kind.CALENDAR) for name in ("ended", "over", "old"))
    for each in (ended, over):
        bench.renewer.watch(each)
    bench.renewer.forget(ended)
    bench.renewer.forget(ended)
    bench.store.decision = Decision.OVER
    assert await bench.at(20) == ["over"]
    assert len(bench.renewer) == 0
    bench.store.decision = Decision.DENIED
    bench.renewer.watch(old)
    for now_s in (40, 60, 80, 100, 120):
        assert await bench.at(now_s) == ["old"]
    assert await bench.at(140) == []
    assert len(bench.renewer) == 0


async def test_one_that_is_settled_while_it_is_renewed_does_not_come_back() -> None:
    bench = Bench()
    ring = claim("ring", Kind.RING)
    bench.renewer.watch(ring)
    bench.now_s = 200
    tick = asyncio.create_task(bench.renewer.renew_due())
    while not bench.store.under_way:  # noqa: ASYNC110 - the store tells by a number
        await asyncio.sleep(0)
    bench.renewer.forget(ring)
    await tick
    assert len(bench.renewer) == 0


@pytest.mark.parametrize("kind", [Kind.CALENDAR, Kind.BUCKET])
async def test_a_tick_does_a_bounded_amount_of_work(kind: Kind) -> None:
    bench = Bench()
    for number in range(5_000):
        bench.renewer.watch(claim(f"x{number}", kind))
    first = list(await bench.at(200))
    assert len(first) == 4096
    assert bench.store.most_under_way == 8
    second = list(await bench.at(205))
    assert len(second) == 5_000 - 4096
    assert {*first, *second} == {f"x{number}" for number in range(5_000)}


async def test_a_silent_shard_holds_up_no_other_and_takes_a_bounded_part_of_a_tick() -> None:
    bench = Bench()
    silent = [f"silent{number}" for number in range(600)]
    for name in silent:
        bench.renewer.watch(claim(name, Kind.CONCURRENCY))
    bench.store.silent = frozenset(silent)
    assert await bench.at(20) == silent
    healthy = ["streams", "ring"]
    bench.now_s = 30
    bench.renewer.watch(claim("streams", Kind.CONCURRENCY))
    bench.renewer.watch(claim("ring", Kind.RING))
    assert await bench.at(230) == healthy + silent[:512]
    assert await bench.at(235) == silent[512:] + silent[: 512 - 88], "those that were left first"
    bench.store.silent = frozenset()
    assert sorted(await bench.at(240)) == sorted(silent), "all, as soon as it is back"
