"""What the parts' own numbers are called as metrics. One function a part.

Each counter of a part appears in exactly one table here; a test holds the tables to the parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from sentinel_extproc.admin.sampler import Sampler
from sentinel_extproc.identity.contract import IdentityCounters
from sentinel_extproc.identity.denylist import DenyCounters
from sentinel_extproc.identity.effect import EffectTimes
from sentinel_extproc.identity.refreshing import CacheCounters
from sentinel_extproc.identity.shared import SharedCounters
from sentinel_extproc.reloading.reloader import ReloadState
from sentinel_extproc.telemetry.across import Across
from sentinel_extproc.telemetry.readings import Kind, Reading
from sentinel_extproc.telemetry.tracing.shipper import SpanCounters
from sentinel_extproc.tokens.remembered import TextCounters
from sentinel_extproc.usage.item_queue import Backlog, ItemState
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.reading import LedgerState
from sentinel_extproc.usage.reporting import ReporterCounters
from sentinel_extproc.zion.breaker import State

_Fields = Mapping[str, str]
"""From a label's value to the counters' field."""

IDENTITY_ANSWERS: _Fields = {
    "fresh": "fresh",
    "stale": "stale",
    "stale_on_error": "stale_on_error",
    "denied_from_cache": "denied_from_cache",
    "looked_up": "looked_up",
    "shed": "shed",
}
IDENTITY_SOURCE: _Fields = {
    "called": "source_calls",
    "denied": "source_denials",
    "failed": "source_failures",
}
IDENTITY_HELD_BACK: _Fields = {"refresh": "refreshes_shed", "gate": "gated"}
IDENTITY_FORGOTTEN: _Fields = {"revoked": "revoked"}

DENIALS: _Fields = {"added": "added", "refused": "refused", "unsure": "unsure"}

CACHE_ANSWERS: _Fields = {
    "fresh": "fresh",
    "stale": "stale",
    "stale_on_error": "stale_on_error",
    "looked_up": "looked_up",
    "shed": "shed",
}
CACHE_HELD_BACK: _Fields = {"refresh": "refreshes_shed"}

SHARED_RESULTS: _Fields = {
    "hit": "hits",
    "miss": "misses",
    "failure": "failures",
    "skipped": "skipped",
}

TEXTS: _Fields = {"memory": "remembered", "encoder": "counted"}

OUTBOX_RECORDS: _Fields = {
    "appended": "appended",
    "duplicate": "duplicates",
    "unknown": "unknown",
    "unstorable": "unstorable",
}
OUTBOX_FILES: _Fields = {"replaced": "replaced"}
OUTBOX_COMMITS: _Fields = {"all": "commits", "failed": "failed_commits"}

REPORT_BATCHES: _Fields = {
    "sent": "batches",
    "rate_limited": "rate_limited_batches",
    "failed": "failed_batches",
    "refused": "refused_batches",
}
REPORT_ITEMS: _Fields = {
    "acknowledged": "acknowledged",
    "refused": "refused",
    "dead_letter": "dead_letters",
    "ambiguous": "ambiguous",
    "parked": "parked",
}


TRACE_SPANS: _Fields = {"exported": "exported", "dropped": "dropped", "failed": "failed"}


def identity_readings(counters: Callable[[], IdentityCounters]) -> list[Reading]:
    """Of the authenticator."""
    return [
        _counters(
            "sentinel_identity_answers_total",
            "Credentials checked, by where the answer came from.",
            "from",
            counters,
            IDENTITY_ANSWERS,
        ),
        _counters(
            "sentinel_identity_source_calls_total",
            "Calls to the identity source: all of them, and those that were denied or failed.",
            "result",
            counters,
            IDENTITY_SOURCE,
        ),
        _counters(
            "sentinel_identity_held_back_total",
            "Look-ups not made: refreshes because too many ran, and unknown tokens at the gate.",
            "by",
            counters,
            IDENTITY_HELD_BACK,
        ),
        _counters(
            "sentinel_identity_forgotten_total",
            "Times that cached identities were forgotten on demand.",
            "why",
            counters,
            IDENTITY_FORGOTTEN,
        ),
    ]


def revocation_readings(
    denials: Callable[[], DenyCounters], effect: Callable[[], EffectTimes]
) -> list[Reading]:
    """Of revoked tokens, and of how soon revocations hold here."""
    return [
        _counters(
            "sentinel_identity_denied_tokens_total",
            "Tokens revoked here, requests refused for one, and looks that Redis didn't answer.",
            "what",
            denials,
            DENIALS,
        ),
        Reading(
            "sentinel_revocations_applied_total",
            "Revocations that took effect here, by a message or because an epoch had moved.",
            Kind.COUNTER,
            lambda: effect().count,
        ),
        Reading(
            "sentinel_revocation_effect_seconds_total",
            "Sum of the seconds from each of them to its effect here.",
            Kind.COUNTER,
            lambda: effect().seconds,
        ),
        _greatest(
            "sentinel_revocation_effect_last_seconds",
            "From the latest revocation to its effect here.",
            lambda: effect().last_s,
        ),
        _greatest(
            "sentinel_revocation_effect_longest_seconds",
            "The longest that a revocation took to its effect here.",
            lambda: effect().longest_s,
        ),
    ]


def quota_readings(counters: Callable[[], CacheCounters]) -> list[Reading]:
    """Of the cache of Zion's quotas."""
    return [
        _counters(
            "sentinel_quota_answers_total",
            "Quotas asked for, by where the answer came from.",
            "from",
            counters,
            CACHE_ANSWERS,
        ),
        _counters(
            "sentinel_quota_held_back_total",
            "Refreshes not made because too many ran.",
            "by",
            counters,
            CACHE_HELD_BACK,
        ),
    ]


def shared_cache_readings(counters: Callable[[], SharedCounters]) -> list[Reading]:
    """Of the identities shared in Redis."""
    return [
        _counters(
            "sentinel_identity_shared_total",
            "Look-ups in the cache that replicas share.",
            "result",
            counters,
            SHARED_RESULTS,
        )
    ]


def text_readings(counters: Callable[[], TextCounters]) -> list[Reading]:
    """Of the memory of what long texts count."""
    return [
        _counters(
            "sentinel_long_texts_total",
            "Texts of requests of 1,000 characters and more, by where their count came from.",
            "from",
            counters,
            TEXTS,
        )
    ]


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
        _counters(
            "sentinel_outbox_records_total",
            "Usage records made durable, the unknown ones among them; and those that came twice, "
            "or never can be stored.",
            "result",
            lambda: outbox.counters,
            OUTBOX_RECORDS,
        ),
        _counters(
            "sentinel_outbox_commits_total",
            "Commits, and those of them that failed.",
            "result",
            lambda: outbox.counters,
            OUTBOX_COMMITS,
        ),
        _counters(
            "sentinel_outbox_files_total",
            "Times that a damaged file was replaced while running.",
            "what",
            lambda: outbox.counters,
            OUTBOX_FILES,
        ),
        _gauge("sentinel_outbox_used_bytes", "Bytes in use.", lambda: outbox.used_bytes),
        _greatest(
            "sentinel_outbox_fill_ratio",
            "Share of its bound in use; at 1 new metered requests get 503.",
            lambda: outbox.fill,
        ),
        _greatest(
            "sentinel_outbox_faulty",
            "1 while records can't be stored.",
            lambda: 0 if outbox.fault is None else 1,
        ),
        _gauge("sentinel_outbox_unsealed_records", "Records not summed up yet.", records),
        Reading(
            "sentinel_outbox_items",
            "Items waiting, by state; parked and dead ones wait for a person.",
            Kind.GAUGE,
            items,
            label="state",
        ),
        _greatest(
            "sentinel_outbox_oldest_age_seconds",
            "Age of the oldest usage not yet delivered; 0 when there is none.",
            oldest_s,
        ),
    ]


def ledger_readings(outbox: Outbox, ledger: Sampler[LedgerState]) -> list[Reading]:
    """Of the chain of records, of exchanges under way, and of what went wrong with their files."""
    return [
        _gauge(
            "sentinel_ledger_head_seq",
            "Number of the last record; without a gap since the outbox was made.",
            lambda: outbox.head.seq,
        ),
        _gauge(
            "sentinel_ledger_unknown_records",
            "Exchanges since the outbox was made that nobody saw the end of; not billed.",
            lambda: None if ledger.last is None else ledger.last.unknown,
        ),
        _gauge(
            "sentinel_ledger_retained_records",
            "Records that are billed, and kept for audit.",
            lambda: None if ledger.last is None else ledger.last.retained,
        ),
        _gauge(
            "sentinel_ledger_intents",
            "Exchanges under way, noted in case this process dies.",
            lambda: outbox.intents_in_use,
        ),
        _gauge(
            "sentinel_ledger_torn_intents",
            "Intents that a loss of power had destroyed when this process started.",
            lambda: outbox.intents_torn,
        ),
        _gauge(
            "sentinel_outbox_set_aside_files",
            "Damaged files kept beside the outbox, for a person to look at.",
            lambda: len(outbox.set_aside),
        ),
        _greatest(
            "sentinel_outbox_degraded",
            "1 from 80 % of the bound on: usage piles up that can't be delivered.",
            lambda: 1 if outbox.degraded else 0,
        ),
    ]


def reporter_readings(counters: Callable[[], ReporterCounters]) -> list[Reading]:
    """Of the reporter."""
    return [
        _counters(
            "sentinel_report_batches_total",
            "Batches sent to Zion, and those of them that were not taken.",
            "result",
            counters,
            REPORT_BATCHES,
        ),
        _counters(
            "sentinel_report_items_total",
            "Items by what became of them; ambiguous ones may or may not have been billed.",
            "result",
            counters,
            REPORT_ITEMS,
        ),
    ]


def breaker_readings(states: Mapping[str, Callable[[], State]]) -> list[Reading]:
    """Of circuit breakers, by name."""
    numbers = {State.CLOSED: 0.0, State.HALF_OPEN: 1.0, State.OPEN: 2.0}
    return [
        Reading(
            "sentinel_breaker_state",
            "Circuit breakers: 0 closed, 1 half open, 2 open.",
            Kind.GAUGE,
            lambda: {name: numbers[state()] for name, state in states.items()},
            label="breaker",
            across=Across.GREATEST,
        )
    ]


def zion_key_reading(refused: Callable[[], bool]) -> Reading:
    """Of our own key at Zion."""
    return _greatest(
        "sentinel_zion_key_refused",
        "1 while Zion's last word about our own key was that it isn't good.",
        lambda: 1 if refused() else 0,
    )


def limit_readings(
    *, down: Callable[[], bool], pending: Callable[[], int], replicas: Callable[[], int]
) -> list[Reading]:
    """Of the limiter and its store."""
    return [
        _greatest(
            "sentinel_limit_store_down",
            "1 while limits decide without the store, each by its own rung.",
            lambda: 1 if down() else 0,
        ),
        _gauge(
            "sentinel_limit_settlements_pending",
            "Settlements that the store has not taken yet.",
            pending,
        ),
        _greatest(
            "sentinel_limit_replicas",
            "Replicas that share the limits, as this one last heard.",
            replicas,
        ),
    ]


def reload_readings(state: Callable[[], ReloadState]) -> list[Reading]:
    """Of settings that are read while it runs."""
    return [
        Reading(
            "sentinel_reloads_total",
            "Times that settings were read again, by what became of it.",
            Kind.COUNTER,
            lambda: {"taken": state().taken, "refused": state().refused},
            label="result",
        ),
        Reading(
            "sentinel_configuration_refused",
            "1 when the settings as they are now were refused, so that older ones hold.",
            Kind.GAUGE,
            lambda: float(bool(state().faults)),
            across=Across.GREATEST,
        ),
    ]


def trace_readings(counters: SpanCounters | None) -> list[Reading]:
    """Of traces, if any are made."""
    if counters is None:
        return []
    return [
        _counters(
            "sentinel_trace_spans_total",
            "Spans by what became of them: dropped because too many waited, failed because the "
            "receiver didn't take them.",
            "result",
            lambda: counters,
            TRACE_SPANS,
        )
    ]


def serving_readings(*, live: Callable[[], int], draining: Callable[[], bool]) -> list[Reading]:
    """Of the main job."""
    return [
        _gauge("sentinel_exchanges_live", "Exchanges that have a stream now.", live),
        _greatest(
            "sentinel_draining", "1 after the signal to end.", lambda: 1 if draining() else 0
        ),
    ]


def _counters(
    name: str, text: str, label: str, counters: Callable[[], object], fields: _Fields
) -> Reading:
    def read() -> dict[str, float]:
        now = counters()
        return {value: getattr(now, field) for value, field in fields.items()}

    return Reading(name, text, Kind.COUNTER, read, label=label)


def _gauge(
    name: str,
    text: str,
    read: Callable[[], float | None],
    across: Across = Across.SUM,
) -> Reading:
    return Reading(name, text, Kind.GAUGE, read, across=across)


def _greatest(name: str, text: str, read: Callable[[], float | None]) -> Reading:
    return _gauge(name, text, read, Across.GREATEST)
