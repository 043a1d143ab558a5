"""Every number that a part counts is a metric, with the part's own value."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from msgspec.structs import replace

from sentinel_extproc.admin.readings.hop import HOP_ITEMS, ORPHANS, hop_readings, orphan_readings
from sentinel_extproc.admin.readings.identity import (
    CACHE_ANSWERS,
    CACHE_HELD_BACK,
    DENIALS,
    IDENTITY_ANSWERS,
    IDENTITY_FORGOTTEN,
    IDENTITY_HELD_BACK,
    IDENTITY_SOURCE,
    SHARED_RESULTS,
    identity_readings,
    quota_readings,
    revocation_readings,
    shared_cache_readings,
)
from sentinel_extproc.admin.readings.serving import (
    TEXTS,
    TRACE_SPANS,
    breaker_readings,
    limit_readings,
    reload_readings,
    serving_readings,
    text_readings,
    trace_readings,
)
from sentinel_extproc.admin.readings.usage import (
    OUTBOX_COMMITS,
    OUTBOX_FILES,
    OUTBOX_RECORDS,
    REPORT_BATCHES,
    REPORT_ITEMS,
    ledger_readings,
    outbox_readings,
    reporter_readings,
)
from sentinel_extproc.admin.sampler import Sampler
from sentinel_extproc.errors import Unavailable
from sentinel_extproc.identity.contract import IdentityCounters
from sentinel_extproc.identity.denylist import DenyCounters
from sentinel_extproc.identity.effect import EffectTimes
from sentinel_extproc.identity.refreshing import CacheCounters
from sentinel_extproc.identity.shared import SharedCounters
from sentinel_extproc.reloading.reloader import ReloadState
from sentinel_extproc.telemetry.prometheus import Metrics
from sentinel_extproc.telemetry.readings import Kind, Reading
from sentinel_extproc.telemetry.tracing.shipper import SpanCounters
from sentinel_extproc.tokens.remembered import TextCounters
from sentinel_extproc.usage.forwarder import ForwarderCounters, StreamState
from sentinel_extproc.usage.item_queue import Backlog, ItemState
from sentinel_extproc.usage.orphans import OrphanCounters
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.reading import LedgerState
from sentinel_extproc.usage.record import Intent
from sentinel_extproc.usage.reporting import ReporterCounters
from sentinel_extproc.usage.writer import WriterCounters
from sentinel_extproc.zion.breaker import State

TABLES: list[tuple[type, list[Mapping[str, str]]]] = [
    (
        IdentityCounters,
        [
            IDENTITY_ANSWERS,
            IDENTITY_SOURCE,
            IDENTITY_HELD_BACK,
            IDENTITY_FORGOTTEN,
        ],
    ),
    (DenyCounters, [DENIALS]),
    (CacheCounters, [CACHE_ANSWERS, CACHE_HELD_BACK]),
    (SharedCounters, [SHARED_RESULTS]),
    (TextCounters, [TEXTS]),
    (WriterCounters, [OUTBOX_RECORDS, OUTBOX_COMMITS, OUTBOX_FILES]),
    (ReporterCounters, [REPORT_BATCHES, REPORT_ITEMS]),
    (ForwarderCounters, [HOP_ITEMS]),
    (OrphanCounters, [ORPHANS]),
    (SpanCounters, [TRACE_SPANS]),
]


@pytest.mark.parametrize(("counters", "tables"), TABLES, ids=lambda value: str(value)[:40])
def test_every_counter_is_shown_once(counters: type, tables: list[Mapping[str, str]]) -> None:
    shown = [field for table in tables for field in table.values()]
    assert sorted(shown) == sorted(field.name for field in fields(counters))


def values(readings: list[Reading]) -> dict[str, object]:
    return {reading.name: reading.read() for reading in readings}


def test_identity() -> None:
    counters = IdentityCounters(fresh=3, source_failures=2, gated=1, revoked=4)
    found = values(identity_readings(lambda: counters))
    answers = found["sentinel_identity_answers_total"]
    assert isinstance(answers, dict)
    assert answers["fresh"] == 3
    assert found["sentinel_identity_forgotten_total"] == {"revoked": 4}
    counters.fresh = 9
    again = values(identity_readings(lambda: counters))["sentinel_identity_answers_total"]
    assert isinstance(again, dict)
    assert again["fresh"] == 9


def test_traces() -> None:
    counters = SpanCounters(exported=3, dropped=2, failed=1)
    found = values(trace_readings(counters))
    assert found == {"sentinel_trace_spans_total": {"exported": 3, "dropped": 2, "failed": 1}}
    assert trace_readings(None) == []


def test_revocations() -> None:
    effect = EffectTimes()
    effect.applied(1_000_000, 1_002.5)
    effect.applied(1_000_000, 1_000.5)
    effect.applied(1_000_000, 999.0)  # by a clock that is behind
    found = values(revocation_readings(lambda: DenyCounters(added=2), lambda: effect))
    assert found == {
        "sentinel_identity_denied_tokens_total": {"added": 2, "refused": 0, "unsure": 0},
        "sentinel_revocations_applied_total": 3,
        "sentinel_revocation_effect_seconds_total": 3.0,
        "sentinel_revocation_effect_last_seconds": 0.0,
        "sentinel_revocation_effect_longest_seconds": 2.5,
    }


def test_breakers_and_limits() -> None:
    found = values(
        breaker_readings({"zion_lookup": lambda: State.OPEN, "zion_report": lambda: State.CLOSED})
    )
    assert found == {"sentinel_breaker_state": {"zion_lookup": 2, "zion_report": 0}}
    found = values(limit_readings(down=lambda: True, pending=lambda: 7, replicas=lambda: 2))
    assert found == {
        "sentinel_limit_store_down": 1,
        "sentinel_limit_settlements_pending": 7,
        "sentinel_limit_replicas": 2,
    }


async def test_the_outbox_and_its_backlog(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db", max_bytes=1 << 20)
    outbox.open()
    backlog = Sampler(outbox.backlog)
    found = values(outbox_readings(outbox, backlog))
    assert found["sentinel_outbox_items"] is None
    assert found["sentinel_outbox_oldest_age_seconds"] is None
    backlog.last = await outbox.backlog()
    found = values(outbox_readings(outbox, backlog))
    assert found["sentinel_outbox_items"] == {state.value: 0 for state in ItemState}
    assert found["sentinel_outbox_unsealed_records"] == 0
    assert found["sentinel_outbox_oldest_age_seconds"] == 0
    assert found["sentinel_outbox_faulty"] == 0
    fill = found["sentinel_outbox_fill_ratio"]
    assert isinstance(fill, float)
    assert 0 <= fill < 1
    await outbox.aclose()


def hop(counters: ForwarderCounters, state: StreamState) -> list[Reading]:
    return hop_readings(
        lambda: counters,
        lambda: state,
        away=lambda: True,
        in_hand=lambda: 4,
        taken_over=lambda: 5,
    )


def test_the_stream() -> None:
    counters = ForwarderCounters(handed=9, confirmed=6, held=1, lost=2, never_arrived=3)
    found = values(hop(counters, StreamState(entries=7, pending=5, oldest_s=1.5)))
    assert found == {
        "sentinel_hop_items_total": {
            "handed": 9,
            "billed": 6,
            "held": 1,
            "lost": 2,
            "never_arrived": 3,
        },
        "sentinel_stream_taken_over_total": 5,
        "sentinel_stream_entries": 7,
        "sentinel_stream_pending": 5,
        "sentinel_stream_in_hand": 4,
        "sentinel_stream_oldest_age_seconds": 1.5,
        "sentinel_stream_away": 1,
    }


async def test_the_ledger(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.open()
    ledger = Sampler(outbox.ledger)
    assert values(ledger_readings(outbox, ledger))["sentinel_ledger_unknown_records"] is None
    lost = Intent("1", 1, "ext-a", "a@example.org", "chat", "gpt-4o", None, 1, 1)
    outbox.begin(replace(lost, id="2"))
    await outbox.add_unknown(lost)
    await outbox.claim(1)
    (tmp_path / "outbox.db.damaged-20260101T000000000000Z").touch()
    (tmp_path / "outbox.db.damaged-20260101T000000000000Z-wal").touch()
    ledger.last = await outbox.ledger()
    assert values(ledger_readings(outbox, ledger)) == {
        "sentinel_ledger_head_seq": 1,
        "sentinel_ledger_unknown_records": 1,
        "sentinel_ledger_retained_records": 1,
        "sentinel_ledger_intents": 1,
        "sentinel_ledger_torn_intents": 0,
        "sentinel_outbox_set_aside_files": 1,
        "sentinel_outbox_degraded": 0,
    }
    await outbox.aclose()


async def test_the_backlogs_age_is_of_now() -> None:
    async def count() -> Backlog:
        return Backlog(3, dict.fromkeys(ItemState, 1), oldest_ms=1000)

    backlog = Sampler(count)
    backlog.last = await count()
    outbox = Outbox(Path("unused.db"))
    found = values(outbox_readings(outbox, backlog))
    age = found["sentinel_outbox_oldest_age_seconds"]
    assert isinstance(age, float)
    assert age > 1_000_000_000
    assert found["sentinel_outbox_unsealed_records"] == 3


async def test_a_backlog_that_cannot_be_counted_is_unknown() -> None:
    faults: list[Exception] = [ValueError("bug"), Unavailable("disk")]
    counted = asyncio.Event()

    async def count() -> Backlog:
        if faults:
            raise faults.pop()
        counted.set()
        return Backlog(0, {})

    backlog = Sampler(count, every_s=0.001)
    backlog.last = Backlog(9, {})
    backlog.start()
    async with asyncio.timeout(10):
        await counted.wait()
    await backlog.aclose()
    await backlog.aclose()
    assert not faults


def test_reloads_are_told_and_whether_the_last_one_was_refused() -> None:
    found = values(reload_readings(lambda: ReloadState(taken=2, refused=1, faults=("x",))))
    assert found["sentinel_reloads_total"] == {"taken": 2, "refused": 1}
    assert found["sentinel_configuration_refused"] == 1.0


def test_all_of_them_fit_into_one_exposition() -> None:
    metrics = Metrics()
    backlog: Sampler[Backlog] = Sampler(lambda: None)  # type: ignore[arg-type,return-value]
    ledger: Sampler[LedgerState] = Sampler(lambda: None)  # type: ignore[arg-type,return-value]
    readings = [
        *identity_readings(IdentityCounters),
        *quota_readings(CacheCounters),
        *shared_cache_readings(SharedCounters),
        *text_readings(TextCounters),
        *outbox_readings(Outbox(Path("unused.db")), backlog),
        *ledger_readings(Outbox(Path("unused.db")), ledger),
        *reporter_readings(ReporterCounters),
        *hop(ForwarderCounters(), StreamState()),
        *orphan_readings(OrphanCounters),
        *breaker_readings({"zion_lookup": lambda: State.CLOSED}),
        *limit_readings(down=lambda: False, pending=lambda: 0, replicas=lambda: 1),
        *serving_readings(live=lambda: 0, draining=lambda: False),
        *reload_readings(ReloadState),
    ]
    metrics.add_readings(readings)
    text = metrics.exposition()[0].decode()
    assert "sentinel_reading_faults_total{" not in text
    for reading in readings:
        assert f"# HELP {reading.name} " in text
        assert reading.name.startswith("sentinel_")
        assert reading.name.endswith("_total") == (reading.kind is Kind.COUNTER)
