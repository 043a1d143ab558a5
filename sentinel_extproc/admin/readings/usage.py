"""What the numbers of the ledger and its reports are called as metrics."""

from __future__ import annotations

import time
from collections.abc import Callable

from sentinel_extproc.admin.readings.making import Fields, counters_of, gauge, greatest
from sentinel_extproc.admin.sampler import Sampler
from sentinel_extproc.telemetry.readings import Kind, Reading
from sentinel_extproc.usage.item_queue import Backlog, ItemState
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.reading import LedgerState
from sentinel_extproc.usage.reporting import ReporterCounters

OUTBOX_RECORDS: Fields = {
    "appended": "appended",
    "duplicate": "duplicates",
    "unknown": "unknown",
    "unstorable": "unstorable",
}
OUTBOX_FILES: Fields = {"replaced": "replaced"}
OUTBOX_COMMITS: Fields = {"all": "commits", "failed": "failed_commits"}

REPORT_BATCHES: Fields = {
    "sent": "batches",
    "rate_limited": "rate_limited_batches",
    "failed": "failed_batches",
    "refused": "refused_batches",
}

REPORT_ITEMS: Fields = {
    "acknowledged": "acknowledged",
    "refused": "refused",
    "dead_letter": "dead_letters",
    "ambiguous": "ambiguous",
    "parked": "parked",
}


def outbox_readings(outbox: Outbox, backlog: Sampler[Backlog]) -> list[Reading]:
    """Of the outbox and what waits in it."""

    def items() -> dict[str, float] | None:
        last = backlog.last
        return None if last is None else {s.value: last.items.get(s, 0) for s in ItemState}

    def records() -> float | None:
        return None if backlog.last is None else backlog.last.records

    def oldest_s() -> float | None:
        last = backlog.last
        if last is None:
            return None
        return 0.0 if last.oldest_ms is None else max(0.0, time.time() - last.oldest_ms / 1000)

    return [
        counters_of(
            "sentinel_outbox_records_total",
            "Usage records made durable, the unknown ones among them; and those that came twice, "
            "or never can be stored.",
            "result",
            lambda: outbox.counters,
            OUTBOX_RECORDS,
        ),
        counters_of(
            "sentinel_outbox_commits_total",
            "Commits, and those of them that failed.",
            "result",
            lambda: outbox.counters,
            OUTBOX_COMMITS,
        ),
        counters_of(
            "sentinel_outbox_files_total",
            "Times that a damaged file was replaced while running.",
            "what",
            lambda: outbox.counters,
            OUTBOX_FILES,
        ),
        gauge("sentinel_outbox_used_bytes", "Bytes in use.", lambda: outbox.used_bytes),
        greatest(
            "sentinel_outbox_fill_ratio",
            "Share of its bound in use; at 1 new metered requests get 503.",
            lambda: outbox.fill,
        ),
        greatest(
            "sentinel_outbox_faulty",
            "1 while records can't be stored.",
            lambda: 0 if outbox.fault is None else 1,
        ),
        gauge("sentinel_outbox_unsealed_records", "Records not summed up yet.", records),
        Reading(
            "sentinel_outbox_items",
            "Items waiting, by state; parked and dead ones wait for a person.",
            Kind.GAUGE,
            items,
            label="state",
        ),
        greatest(
            "sentinel_outbox_oldest_age_seconds",
            "Age of the oldest usage not yet delivered; 0 when there is none.",
            oldest_s,
        ),
    ]


def ledger_readings(outbox: Outbox, ledger: Sampler[LedgerState]) -> list[Reading]:
    """Of the chain of records, of exchanges under way, and of what went wrong with their files."""
    return [
        gauge(
            "sentinel_ledger_head_seq",
            "Number of the last record; without a gap since the outbox was made.",
            lambda: outbox.head.seq,
        ),
        gauge(
            "sentinel_ledger_unknown_records",
            "Exchanges since the outbox was made that nobody saw the end of; not billed.",
            lambda: None if ledger.last is None else ledger.last.unknown,
        ),
        gauge(
            "sentinel_ledger_retained_records",
            "Records that are billed, and kept for audit.",
            lambda: None if ledger.last is None else ledger.last.retained,
        ),
        gauge(
            "sentinel_ledger_intents",
            "Exchanges under way, noted in case this process dies.",
            lambda: outbox.intents_in_use,
        ),
        gauge(
            "sentinel_ledger_torn_intents",
            "Intents that a loss of power had destroyed when this process started.",
            lambda: outbox.intents_torn,
        ),
        gauge(
            "sentinel_outbox_set_aside_files",
            "Damaged files kept beside the outbox, for a person to look at.",
            lambda: len(outbox.set_aside),
        ),
        greatest(
            "sentinel_outbox_degraded",
            "1 from 80 % of the bound on: usage piles up that can't be delivered.",
            lambda: 1 if outbox.degraded else 0,
        ),
    ]


def reporter_readings(counters: Callable[[], ReporterCounters]) -> list[Reading]:
    """Of the reporter."""
    return [
        counters_of(
            "sentinel_report_batches_total",
            "Batches sent to Zion, and those of them that were not taken.",
            "result",
            counters,
            REPORT_BATCHES,
        ),
        counters_of(
            "sentinel_report_items_total",
            "Items by what became of them; ambiguous ones may or may not have been billed.",
            "result",
            counters,
            REPORT_ITEMS,
        ),
    ]
