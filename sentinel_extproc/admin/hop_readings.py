"""What the numbers of what sidecars share about usage are called as metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sentinel_extproc.telemetry.across import Across
from sentinel_extproc.telemetry.readings import Kind, Reading
from sentinel_extproc.usage.forwarder import ForwarderCounters, StreamState
from sentinel_extproc.usage.orphans import OrphanCounters

HOP_ITEMS: Mapping[str, str] = {
    "handed": "handed",
    "billed": "confirmed",
    "held": "held",
    "lost": "lost",
    "never_arrived": "never_arrived",
}

ORPHANS: Mapping[str, str] = {"adopted": "adopted", "failed": "failures"}


def orphan_readings(counters: Callable[[], OrphanCounters]) -> list[Reading]:
    """Of what dead sidecars left."""

    def looks() -> dict[str, float]:
        return {label: getattr(counters(), field) for label, field in ORPHANS.items()}

    return [
        Reading(
            "sentinel_orphans_total",
            "Exchanges of dead sidecars put on record here, and looks for them that failed.",
            Kind.COUNTER,
            looks,
            label="what",
        )
    ]


def hop_readings(
    counters: Callable[[], ForwarderCounters],
    state: Callable[[], StreamState],
    *,
    away: Callable[[], bool],
    in_hand: Callable[[], int],
    taken_over: Callable[[], int],
) -> list[Reading]:
    """Of the stream, as this replica last saw it."""

    def items() -> dict[str, float]:
        return {label: getattr(counters(), field) for label, field in HOP_ITEMS.items()}

    return [
        Reading(
            "sentinel_hop_items_total",
            "Items of this sidecar handed to the stream, and what became of them; lost ones are "
            "ambiguous, too.",
            Kind.COUNTER,
            items,
            label="result",
        ),
        Reading(
            "sentinel_stream_taken_over_total",
            "Entries taken from a replica that may have sent them before it went.",
            Kind.COUNTER,
            taken_over,
        ),
        Reading(
            "sentinel_stream_entries",
            "Items in the stream.",
            Kind.GAUGE,
            lambda: state().entries,
            across=Across.GREATEST,
        ),
        Reading(
            "sentinel_stream_pending",
            "Items in the stream that some replica has, or that wait for their time.",
            Kind.GAUGE,
            lambda: state().pending,
            across=Across.GREATEST,
        ),
        Reading("sentinel_stream_in_hand", "Those that this replica has.", Kind.GAUGE, in_hand),
        Reading(
            "sentinel_stream_oldest_age_seconds",
            "How long the oldest item has been in the stream; 0 when there is none.",
            Kind.GAUGE,
            lambda: state().oldest_s,
            across=Across.GREATEST,
        ),
        Reading(
            "sentinel_stream_away",
            "1 while usage goes straight to Zion because Redis failed.",
            Kind.GAUGE,
            lambda: 1 if away() else 0,
            across=Across.GREATEST,
        ),
    ]
