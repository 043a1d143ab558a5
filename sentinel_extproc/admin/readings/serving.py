"""What the numbers of the process that serves are called as metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sentinel_extproc.admin.readings.making import Fields, counters_of, gauge, greatest
from sentinel_extproc.reloading.reloader import ReloadState
from sentinel_extproc.telemetry.across import Across
from sentinel_extproc.telemetry.readings import Kind, Reading
from sentinel_extproc.telemetry.tracing.shipper import SpanCounters
from sentinel_extproc.tokens.remembered import TextCounters
from sentinel_extproc.zion.breaker import State

TEXTS: Fields = {"memory": "remembered", "encoder": "counted"}
TRACE_SPANS: Fields = {"exported": "exported", "dropped": "dropped", "failed": "failed"}


def serving_readings(*, live: Callable[[], int], draining: Callable[[], bool]) -> list[Reading]:
    """Of the main job."""
    return [
        gauge("sentinel_exchanges_live", "Exchanges that have a stream now.", live),
        greatest("sentinel_draining", "1 after the signal to end.", lambda: 1 if draining() else 0),
    ]


def text_readings(counters: Callable[[], TextCounters]) -> list[Reading]:
    """Of the memory of what long texts count."""
    return [
        counters_of(
            "sentinel_long_texts_total",
            "Texts of requests of 1,000 characters and more, by where their count came from.",
            "from",
            counters,
            TEXTS,
        )
    ]


def limit_readings(
    *, down: Callable[[], bool], pending: Callable[[], int], replicas: Callable[[], int]
) -> list[Reading]:
    """Of the limiter and its store."""
    return [
        greatest(
            "sentinel_limit_store_down",
            "1 while limits decide without the store, each by its own rung.",
            lambda: 1 if down() else 0,
        ),
        gauge(
            "sentinel_limit_settlements_pending",
            "Settlements that the store has not taken yet.",
            pending,
        ),
        greatest(
            "sentinel_limit_replicas",
            "Replicas that share the limits, as this one last heard.",
            replicas,
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
    return greatest(
        "sentinel_zion_key_refused",
        "1 while Zion's last word about our own key was that it isn't good.",
        lambda: 1 if refused() else 0,
    )


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
        counters_of(
            "sentinel_trace_spans_total",
            "Spans by what became of them: dropped because too many waited, failed because the "
            "receiver didn't take them.",
            "result",
            lambda: counters,
            TRACE_SPANS,
        )
    ]
