"""Facts and readings as Prometheus reads them, parsed back from the exposition itself."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sentinel_extproc.limits import facts as limits
from sentinel_extproc.telemetry.facts import (
    ExchangeFinished,
    ExchangeRefused,
    ExchangeTimed,
    Fact,
    InternalFault,
    RecordNotStored,
    to_all,
)
from sentinel_extproc.telemetry.prometheus import Metrics
from sentinel_extproc.telemetry.readings import Kind, Reading
from sentinel_extproc.telemetry.timeline import PhaseTimed, Timeline
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord

SOME = TokenUsage(input_tokens=10, output_tokens=4)


def record(
    *,
    model: str = "gpt-4o-mini",
    usage: TokenUsage = SOME,
    provenance: Provenance = Provenance.PROVIDER,
    outcome: Outcome = Outcome.COMPLETED,
    served: str | None = None,
) -> UsageRecord:
    return UsageRecord(
        id="x",
        occurred_at_ms=0,
        external_id="user-7",
        email="a@b",
        endpoint="chat_completions",
        model_requested=model,
        model_served=served,
        requests=1,
        usage=usage,
        provenance=provenance,
        outcome=outcome,
    )


def refused(code: str = "invalid_api_key", model: str | None = None) -> ExchangeRefused:
    return ExchangeRefused("x", 401, code, "chat_completions", None, model)


def read(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text, _ = metrics.exposition()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, /, **labels: str) -> float | None:
    return read(metrics).get((name, frozenset(labels.items())))


def labels(metrics: Metrics, name: str, label: str) -> set[str]:
    return {dict(found)[label] for (sample, found) in read(metrics) if sample == name}


def test_an_admitted_exchange() -> None:
    metrics = Metrics()
    usage = TokenUsage(input_tokens=100, output_tokens=20, cached_input_tokens=64)
    metrics.emit(ExchangeFinished(record(usage=usage), metering_faults=2))
    chat = {"endpoint": "chat_completions", "model": "gpt-4o-mini"}
    assert value(metrics, "sentinel_exchanges_total", decision="admitted", code="ok", **chat) == 1
    ended = {"outcome": "completed", "provenance": "provider"} | chat
    assert value(metrics, "sentinel_exchanges_ended_total", **ended) == 1
    tokens = {"provenance": "provider", "model": "gpt-4o-mini"}
    assert value(metrics, "sentinel_tokens_total", kind="input", **tokens) == 100
    assert value(metrics, "sentinel_tokens_total", kind="output", **tokens) == 20
    assert value(metrics, "sentinel_tokens_total", kind="cached_input", **tokens) == 64
    assert labels(metrics, "sentinel_tokens_total", "kind") == {"input", "output", "cached_input"}
    assert value(metrics, "sentinel_metering_faults_total", endpoint="chat_completions") == 2


def test_a_refused_exchange() -> None:
    metrics = Metrics()
    metrics.emit(refused())
    metrics.emit(refused("rate_limit_exceeded"))
    metrics.emit(refused("rate_limit_exceeded"))
    known = {"decision": "refused", "endpoint": "chat_completions", "model": "unknown"}
    name = "sentinel_exchanges_total"
    assert value(metrics, name, code="invalid_api_key", **known) == 1
    assert value(metrics, name, code="rate_limit_exceeded", **known) == 2


def test_what_went_wrong_inside() -> None:
    metrics = Metrics()
    metrics.emit(RecordNotStored(record(), "disk full"))
    metrics.emit(InternalFault("x", "exchange", ValueError(), admitted=False))
    assert value(metrics, "sentinel_records_not_stored_total") == 1
    assert value(metrics, "sentinel_internal_faults_total", where="exchange", admitted="no") == 1


def test_reserved_output_is_compared_with_what_was_used() -> None:
    metrics = Metrics()
    used = record(usage=TokenUsage(output_tokens=30))
    metrics.emit(ExchangeFinished(used, 0, reserved_output_tokens=64, output_basis="user"))
    metrics.emit(ExchangeFinished(used, 0, reserved_output_tokens=128, output_basis="user"))
    cut = record(usage=TokenUsage(output_tokens=30), outcome=Outcome.DISCONNECTED)
    metrics.emit(ExchangeFinished(cut, 0, reserved_output_tokens=64, output_basis="user"))
    user = {"basis": "user", "model": "gpt-4o-mini"}
    assert value(metrics, "sentinel_reserved_output_tokens_total", **user) == 192
    assert value(metrics, "sentinel_used_output_tokens_total", **user) == 60


def test_estimates_are_compared_with_what_the_provider_reported() -> None:
    metrics = Metrics()
    metrics.emit(ExchangeFinished(record(), 0, predicted_input_tokens=11))
    metrics.emit(ExchangeFinished(record(), 0, predicted_input_tokens=10))
    # Nothing to compare: our own count, nothing reported, nothing predicted.
    metrics.emit(
        ExchangeFinished(record(provenance=Provenance.COUNTED), 0, predicted_input_tokens=99)
    )
    metrics.emit(ExchangeFinished(record(usage=TokenUsage()), 0, predicted_input_tokens=99))
    metrics.emit(ExchangeFinished(record(), 0))
    sure = ExchangeFinished(record(), 0, predicted_input_tokens=10, confidence="exact")
    metrics.emit(sure)
    exact = {"model": "gpt-4o-mini", "confidence": "exact"}
    assert value(metrics, "sentinel_reported_input_tokens_total", **exact) == 10
    assert value(metrics, "sentinel_input_estimate_ratio_count", **exact) == 1
    model = {"model": "gpt-4o-mini", "confidence": "rough"}
    assert value(metrics, "sentinel_estimated_input_tokens_total", **model) == 21
    assert value(metrics, "sentinel_reported_input_tokens_total", **model) == 20
    ratio = "sentinel_input_estimate_ratio"
    assert value(metrics, f"{ratio}_count", **model) == 2
    assert value(metrics, f"{ratio}_bucket", le="0.995", **model) == 0
    assert value(metrics, f"{ratio}_bucket", le="1.005", **model) == 1
    assert value(metrics, f"{ratio}_bucket", le="1.1", **model) == 2


def test_what_took_how_long() -> None:
    metrics = Metrics()
    timeline = Timeline(
        phases=[
            PhaseTimed("authenticate", 0, 2_000_000),
            PhaseTimed("reserve", 0, 1_000_000, "token_revoked"),
            PhaseTimed("reserve", 0, 3_000_000),
        ],
        request_ns=7_000_000,
        waited_ns=9_000_000,
    )
    metrics.emit(ExchangeTimed("x", timeline, refused()))
    metrics.emit(ExchangeTimed("y", Timeline(), None))
    assert value(metrics, "sentinel_phase_seconds_sum", phase="authenticate") == 0.002
    assert value(metrics, "sentinel_phase_seconds_sum", phase="reserve") == 0.004
    assert value(metrics, "sentinel_phase_seconds_count", phase="reserve") == 2
    assert value(metrics, "sentinel_phase_seconds_count", phase="count") == 0
    added = "sentinel_added_latency_seconds"
    assert value(metrics, f"{added}_sum", part="request") == 0.007
    assert value(metrics, f"{added}_sum", part="exchange") == 0.009
    assert value(metrics, f"{added}_count", part="exchange") == 1


def test_a_provider_that_refuses_our_key() -> None:
    metrics = Metrics()
    failed = record(outcome=Outcome.PROVIDER_ERROR)
    metrics.emit(ExchangeFinished(failed, 0, key_refused=401))
    metrics.emit(ExchangeFinished(failed, 0, provider="azure", key_refused=403))
    metrics.emit(ExchangeFinished(failed, 0))
    name = "sentinel_provider_key_refusals_total"
    assert value(metrics, name, provider="default", status="401") == 1
    assert value(metrics, name, provider="azure", status="403") == 1


def test_models_are_bounded_and_users_never_shown() -> None:
    metrics = Metrics(max_models=3)
    for number in range(10):
        metrics.emit(ExchangeFinished(record(model=f"model-{number}"), 0))
    assert labels(metrics, "sentinel_tokens_total", "model") == {
        "model-0",
        "model-1",
        "model-2",
        "other",
    }
    assert b"user-7" not in metrics.exposition()[0]


@pytest.mark.parametrize("outcome", [Outcome.PROVIDER_ERROR, Outcome.DISCONNECTED])
def test_an_invented_model_takes_no_place(outcome: Outcome) -> None:
    metrics = Metrics(max_models=1)
    metrics.emit(ExchangeFinished(record(model="noise", outcome=outcome), 0))
    metrics.emit(refused(model="more-noise"))
    metrics.emit(ExchangeFinished(record(model="real"), 0))
    assert labels(metrics, "sentinel_exchanges_total", "model") == {"other", "real"}
    metrics.emit(refused(model="real"))
    known = {"decision": "refused", "endpoint": "chat_completions"}
    name = "sentinel_exchanges_total"
    assert value(metrics, name, code="invalid_api_key", model="real", **known) == 1


@pytest.mark.parametrize("model", ["\ud800", 'a"b\\', "a\nb", "世界", "m" * 5000, ""])
def test_any_model_name_can_be_exposed(model: str) -> None:
    metrics = Metrics()
    metrics.emit(ExchangeFinished(record(model=model), 0))
    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        assert metrics.exposition(accept)[0].decode()
    (label,) = labels(metrics, "sentinel_exchanges_total", "model")
    assert len(label) <= 100


def test_limits() -> None:
    metrics = Metrics()
    for fact in (
        limits.LimitsDecided("admitted", shadowed=("cost",)),
        limits.LimitsDecided("denied", "requests"),
        limits.LimitsDecided("denied", "requests", "local"),
        limits.HoldExhausted("tokens", cut=True),
        limits.SettledBeyond("tokens", 40),
        limits.SettledBeyond("tokens", 2),
        limits.SettlementApplied("x", 0.003),
        limits.StoreLost("time-out"),
        limits.StoreRegained(1.5, replayed=3),
        limits.SettlementDropped("too late"),
    ):
        metrics.emit_limits(fact)
    decisions = "sentinel_limit_decisions_total"
    assert value(metrics, decisions, outcome="admitted", rung="normal") == 1
    assert value(metrics, decisions, outcome="denied", rung="normal") == 1
    assert value(metrics, decisions, outcome="denied", rung="local") == 1
    assert value(metrics, "sentinel_limit_denials_total", limit="requests") == 2
    assert value(metrics, "sentinel_limit_shadow_denials_total", limit="cost") == 1
    exhausted = "sentinel_limit_holds_exhausted_total"
    assert value(metrics, exhausted, limit="tokens", action="cut") == 1
    assert value(metrics, "sentinel_limit_beyond_hold_total", limit="tokens") == 42
    assert value(metrics, "sentinel_phase_seconds_sum", phase="settle") == 0.003
    assert value(metrics, "sentinel_limit_store_outages_total") == 1
    assert value(metrics, "sentinel_limit_store_away_seconds_total") == 1.5
    assert value(metrics, "sentinel_limit_store_replayed_exchanges_total") == 3
    assert value(metrics, "sentinel_limit_settlements_dropped_total") == 1


def test_a_fact_that_makes_no_metric_harms_nobody() -> None:
    metrics = Metrics()
    metrics.emit(ExchangeFinished(record(usage=None), 0))  # type: ignore[arg-type]
    metrics.emit_limits(limits.StoreRegained(-1.0, 0))
    assert value(metrics, "sentinel_telemetry_faults_total") == 2


def test_readings_are_taken_at_the_scrape() -> None:
    metrics = Metrics()
    count = {"n": 1}
    parts: Mapping[str, float] = {"lookup": 1, "report": 0}
    metrics.add_readings(
        [
            Reading("sentinel_a_total", "A.", Kind.COUNTER, lambda: count["n"]),
            Reading("sentinel_b_ratio", "B.", Kind.GAUGE, lambda: parts, label="breaker"),
            Reading("sentinel_c_seconds", "C.", Kind.GAUGE, lambda: None),
        ]
    )
    assert value(metrics, "sentinel_a_total") == 1
    count["n"] = 5
    assert value(metrics, "sentinel_a_total") == 5
    assert value(metrics, "sentinel_b_ratio", breaker="lookup") == 1
    assert value(metrics, "sentinel_c_seconds") is None
    with pytest.raises(ValueError, match="sentinel_a"):
        metrics.add_readings([Reading("sentinel_a_total", "A.", Kind.COUNTER, lambda: 0)])


def test_a_reading_that_fails_leaves_the_others() -> None:
    metrics = Metrics()
    metrics.add_readings(
        [
            Reading("sentinel_bad", "Bad.", Kind.GAUGE, lambda: 1 / 0),
            Reading("sentinel_good", "Good.", Kind.GAUGE, lambda: 1),
        ]
    )
    found = read(metrics)
    assert found["sentinel_good", frozenset()] == 1
    assert ("sentinel_bad", frozenset()) not in found
    faults = frozenset({("metric", "sentinel_bad")})
    assert found["sentinel_reading_faults_total", faults] == 1


def test_openmetrics_when_asked_for() -> None:
    metrics = Metrics()
    text, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    for accept in ("", "*/*", "application/openmetrics-text; version=x", "\x00,;=;"):
        assert metrics.exposition(accept)[0]


def test_every_metric_of_ours_has_our_prefix_and_says_what_it_is() -> None:
    text = Metrics().exposition()[0].decode()
    families = list(text_string_to_metric_families(text))
    assert {f.name.partition("_")[0] for f in families} == {"sentinel", "process", "python"}
    assert all(f.documentation for f in families)
    assert "_created" not in text


def test_facts_go_to_all() -> None:
    taken: list[tuple[int, Fact]] = []

    def first(fact: Fact) -> None:
        taken.append((1, fact))

    def second(fact: Fact) -> None:
        taken.append((2, fact))

    emit = to_all(first, second)
    fact = refused()
    emit(fact)
    assert taken == [(1, fact), (2, fact)]


def test_facts_go_to_all_but_the_deaf() -> None:
    first, second, third = list[Fact](), list[Fact](), list[Fact]()
    one, two, three = first.append, second.append, third.append
    emit = to_all(one, two, three, deaf={ExchangeTimed: (one, three), InternalFault: ()})
    facts: list[Fact] = [refused(), ExchangeTimed("x", Timeline(), None)]
    facts.append(InternalFault("x", "exchange", ValueError(), admitted=False))
    for fact in facts:
        emit(fact)
    assert (first, second, third) == ([facts[0], facts[2]], facts, [facts[0], facts[2]])


def test_series_stay_few_whatever_is_sent() -> None:
    metrics = Metrics()
    for number in range(2000):
        model = f"m{number}"
        metrics.emit(ExchangeFinished(record(model=model), 0, predicted_input_tokens=9))
        metrics.emit(refused(f"code{number}", model))
        metrics.emit_limits(limits.LimitsDecided("denied", f"limit{number}"))
    started = time.perf_counter()
    assert len(read(metrics)) < 2000
    print(f"scraped and parsed in {(time.perf_counter() - started) * 1000:.0f} ms")
