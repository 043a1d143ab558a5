"""Workers that are none, for tests of what is told of all of them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sentinel_extproc.admin.inner import METRICS, PICTURE, Shown
from sentinel_extproc.telemetry.across import (
    Across,
    Collected,
    Family,
    families,
    pack,
    unpack,
)
from sentinel_extproc.telemetry.facts import ExchangeFinished
from sentinel_extproc.telemetry.live import Live
from sentinel_extproc.telemetry.prometheus import written
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.workers.asking import Answer
from sentinel_extproc.workers.shelf import Member, Roster


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


def roster(*serials: int, last: int) -> Roster:
    return Roster(2, tuple(Member(n, 0, 100 + n, "serving") for n in serials), last=last)


class Clock:
    def __init__(self, now: float = 10_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def finished(user: str, model: str, given: int, made: int) -> ExchangeFinished:
    record = UsageRecord(
        id="0190",
        occurred_at_ms=1,
        external_id=user,
        email="",
        endpoint="chat.completions",
        model_requested=model,
        model_served=None,
        requests=1,
        usage=TokenUsage(given, made),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )
    return ExchangeFinished(record, 0)


def served(live: Live, user: str, given: int, made: int) -> None:
    live.emit(finished(user, "gpt-4o", given, made))


STATUS: dict[str, Any] = {
    "exchanges": {"live": 3, "draining": False},
    "limits": {"store": "up", "replicas": 2, "pending_settlements": 0},
    "zion": {"lookup_breaker": "closed", "report_breaker": "closed", "own_key": "not refused"},
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


LEDGER = {"under_way": 1, "unknown": 0, "retained": None}
FULL_STATUS: dict[str, Any] = STATUS | {
    "version": "0",
    "uptime_seconds": 5,
    "configuration": {"reloads": 0, "refused_reloads": 0, "faults": [], "needs_restart": []},
    "identity": {},
    "reports": {},
    "top": {"users": {}, "models": {}},
    "outbox": STATUS["outbox"] | {"set_aside": []},
}


class FakeWorkers:
    """Workers that tell what they counted and remember; those that are in neither hang."""

    def __init__(self, *serials: int) -> None:
        self.tell: dict[int, list[Family]] = {}
        self.remember: dict[int, Live] = {}
        self.now = roster(*serials, last=max(serials))
        self.asked = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()
        self.go_on.set()

    def roster(self) -> Roster:
        return self.now

    async def each(self, _: str, path: str, **__: object) -> list[Answer]:
        members = self.now.members
        self.asked.release()
        await self.go_on.wait()
        found = [Answer(m, 200, told) for m in members if (told := self.said(m.serial, path))]
        return sorted(found, key=lambda one: one.worker.seat)

    def said(self, serial: int, path: str) -> bytes | None:
        if path == METRICS:
            return pack(self.tell[serial]) if serial in self.tell else None
        if serial not in self.remember:
            return None
        if path == PICTURE:
            return msgspec.msgpack.encode(Shown(self.remember[serial].past(), [], 1))
        head = {"sidecar": f"s{serial}", "seq": serial, "hash": "ab"}
        return msgspec.json.encode(FULL_STATUS | {"ledger": LEDGER | {"heads": [head]}})
