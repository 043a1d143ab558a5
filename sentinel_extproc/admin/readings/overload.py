"""What the numbers of admission and shedding are called as metrics."""

from __future__ import annotations

from sentinel_extproc.overload.admission import REASONS, Admission
from sentinel_extproc.telemetry.across import Across
from sentinel_extproc.telemetry.readings import Kind, Reading


def overload_readings(admission: Admission) -> list[Reading]:
    """Of bounds on exchanges at once, and of shedding."""
    return [
        Reading(
            "sentinel_overload_turned_away_total",
            "Requests turned away before anything was spent on them, by what was too much.",
            Kind.COUNTER,
            lambda: {reason: admission.turned_away[reason] for reason in REASONS},
            label="reason",
        ),
        Reading(
            "sentinel_overload_admitted_share",
            "Share of new requests that is let in; below 1 while load is shed.",
            Kind.GAUGE,
            lambda: admission.shedder.share,
            across=Across.LEAST,
        ),
        Reading(
            "sentinel_overload_exchanges_bound",
            "Most exchanges at once in this process; compare sentinel_exchanges_live.",
            Kind.GAUGE,
            lambda: admission.most,
        ),
        Reading(
            "sentinel_overload_busiest_user_exchanges",
            "Exchanges of the user that has most of them now.",
            Kind.GAUGE,
            lambda: admission.busiest,
            across=Across.GREATEST,
        ),
    ]
