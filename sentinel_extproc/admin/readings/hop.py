"""What the numbers of what sidecars share about usage are called as metrics."""

from __future__ import annotations

from collections.abc import Callable

from sentinel_extproc.admin.readings.making import Fields, counters_of, gauge, greatest
from sentinel_extproc.telemetry.readings import Kind, Reading
from sentinel_extproc.usage.forwarder import ForwarderCounters, StreamState
from sentinel_extproc.usage.orphans import OrphanCounters

HOP_ITEMS: Fields = {
    "handed": "handed",
    "billed": "confirmed",
    "held": "held",
    "lost": "lost",
    "never_arrived": "never_arrived",
}

ORPHANS: Fields = {"adopted": "adopted", "failed": "failures"}


def orphan_readings(counters: Callable[[], OrphanCounters]) -> list[Reading]:
    """Of what dead sidecars left."""
    return [
        counters_of(
            "sentinel_orphans_total",
            "Exchanges of dead sidecars put on record here, and looks for them that failed.",
            "what",
            counters,
            ORPHANS,
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
    return [
        counters_of(
            "sentinel_hop_items_total",
            "Items of this sidecar handed to the stream, and what became of them; lost ones are "
            "ambiguous, too.",
            "result",
            counters,
            HOP_ITEMS,
        ),
        Reading(
            "sentinel_stream_taken_over_total",
            "Entries taken from a replica that may have sent them before it went.",
            Kind.COUNTER,
            taken_over,
        ),
        greatest(
            "sentinel_stream_entries",
            "Items in the stream.",
            lambda: state().entries,
        ),
        greatest(
            "sentinel_stream_pending",
            "Items in the stream that some replica has, or that wait for their time.",
            lambda: state().pending,
        ),
        gauge("sentinel_stream_in_hand", "Those that this replica has.", in_hand),
        greatest(
            "sentinel_stream_oldest_age_seconds",
            "How long the oldest item has been in the stream; 0 when there is none.",
            lambda: state().oldest_s,
        ),
        greatest(
            "sentinel_stream_away",
            "1 while usage goes straight to Zion because Redis failed.",
            lambda: 1 if away() else 0,
        ),
    ]
