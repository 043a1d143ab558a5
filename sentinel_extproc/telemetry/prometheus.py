"""The adapter from facts to Prometheus.

Every label comes from a set that is bounded, whatever clients send; users are never a label. Names
start with ``sentinel_`` and carry their unit. Numbers that other parts count themselves are added
as ``readings``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector

from sentinel_extproc import __version__
from sentinel_extproc.credentials.facts import CredentialFact, KeysTaken
from sentinel_extproc.limits.facts import (
    HoldExhausted,
    LimitFact,
    LimitsDecided,
    SettledBeyond,
    SettlementApplied,
    SettlementDropped,
    StoreLost,
    StoreRegained,
)
from sentinel_extproc.telemetry.across import Across, Family, families
from sentinel_extproc.telemetry.batching import Batch
from sentinel_extproc.telemetry.durations import Durations
from sentinel_extproc.telemetry.facts import (
    ExchangeFinished,
    ExchangeNoted,
    ExchangeRefused,
    ExchangeTimed,
    Fact,
    InternalFault,
    RecordNotStored,
)
from sentinel_extproc.telemetry.label_values import FirstValues
from sentinel_extproc.telemetry.readings import Reading, Readings
from sentinel_extproc.telemetry.timeline import PHASES, Timeline
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage

log = logging.getLogger(__name__)

_RATIOS = (0.5, 0.75, 0.9, 0.95, 0.98, 0.995, 1.005, 1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0)
_LAGS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_PHASES_S = (0.0001, 0.00025, 0.0005, *_LAGS_S)


class _Counters:
    """A counter with labels, that finds the one to count in several times faster than ``labels``,
    which locks. The labels' values are bounded, and so is what is remembered here."""

    def __init__(
        self, name: str, text: str, labels: tuple[str, ...], registry: CollectorRegistry
    ) -> None:
        self._counter = Counter(name, text, labels, registry=registry)
        self._children: dict[tuple[str, ...], Counter] = {}

    def add(self, count: float, *labels: str) -> None:
        """Count."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._counter.labels(*labels)
        child.inc(count)


class Metrics:
    """Takes facts, keeps metrics, writes them out. Facts come from one thread.

    Args:
        max_models: distinct models that get series of their own; the first ones that a provider
            has answered for. All others are ``other``.
        max_codes, max_limits: the same for error codes and names of limits, which are ours.
    """

    def __init__(
        self, *, max_models: int = 50, max_codes: int = 100, max_limits: int = 200
    ) -> None:
        # Creation times would double the series, and nobody looks at them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry(auto_describe=True)
        self._facts = Batch(self._take_safely)
        self._limit_facts = Batch(self._take_limits_safely)
        self._across: dict[str, Across] = {}
        self._models = FirstValues(max_models)
        self._codes = FirstValues(max_codes)
        self._limits = FirstValues(max_limits)
        registry = self._registry
        self._define_exchanges(registry)
        self._define_times(registry)
        self._define_limits(registry)
        self._define_credentials(registry)
        self.loop_lag = Histogram(
            "sentinel_event_loop_lag_seconds",
            "How late the event loop runs what is due.",
            buckets=_LAGS_S,
            registry=registry,
        )
        self._faults = Counter(
            "sentinel_telemetry_faults",
            "Facts that could not be turned into metrics: a bug.",
            registry=registry,
        )
        Info("sentinel_build", "What is running.", registry=registry).info({"version": __version__})
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)

    def _define_exchanges(self, registry: CollectorRegistry) -> None:
        self._exchanges = _Counters(
            "sentinel_exchanges",
            "Requests by what we decided, counted when they end; code says why one was refused.",
            ("decision", "code", "endpoint", "model"),
            registry,
        )
        self._noted = _Counters(
            "sentinel_shadow_refusals",
            "Requests that were let pass in shadow mode, and would have been refused or cut.",
            ("code", "endpoint", "limit"),
            registry,
        )
        self._ended = _Counters(
            "sentinel_exchanges_ended",
            "Admitted exchanges by how they ended and where their token numbers come from.",
            ("outcome", "provenance", "endpoint", "model"),
            registry,
        )
        self._tokens = _Counters(
            "sentinel_tokens",
            "Tokens billed. All kinds but input and output are parts of these, not additions to "
            "them.",
            ("kind", "provenance", "model"),
            registry,
        )
        self._estimated = _Counters(
            "sentinel_estimated_input_tokens",
            "Our estimates of prompts whose size the provider then reported, by how far they could "
            "be trusted: exact, close or rough.",
            ("model", "confidence"),
            registry,
        )
        self._reported = _Counters(
            "sentinel_reported_input_tokens",
            "What the provider reported for the same prompts.",
            ("model", "confidence"),
            registry,
        )
        self._ratio = Histogram(
            "sentinel_input_estimate_ratio",
            "Estimated over reported input tokens, one per prompt; 1 is exact.",
            ("model", "confidence"),
            buckets=_RATIOS,
            registry=registry,
        )
        self._reserved_output = _Counters(
            "sentinel_reserved_output_tokens",
            "Output reserved for answers that came to their end, by what it was taken from: the "
            "request's cap, what was learned (user, model), or the default.",
            ("basis", "model"),
            registry,
        )
        self._used_output = _Counters(
            "sentinel_used_output_tokens",
            "Output of the same answers.",
            ("basis", "model"),
            registry,
        )
        self._metering_faults = _Counters(
            "sentinel_metering_faults",
            "Bugs in counting an answer that were kept from the client.",
            ("endpoint",),
            registry,
        )
        self._not_stored = Counter(
            "sentinel_records_not_stored",
            "Usage records that were not durable when they should have been.",
            registry=registry,
        )
        self._internal = _Counters(
            "sentinel_internal_faults",
            "Exceptions that nothing should have raised.",
            ("where", "admitted"),
            registry,
        )

    def _define_times(self, registry: CollectorRegistry) -> None:
        self._phases = Durations(
            "sentinel_phase_seconds",
            "What exchanges spent time on here. Nobody waits for settle, which is from the end of "
            "an exchange until the limit store has taken it.",
            label="phase",
            values=PHASES,
            bounds_s=_PHASES_S,
        )
        self._added = Durations(
            "sentinel_added_latency_seconds",
            "How long Envoy waited for our replies: until a request was let through or refused, "
            "and over the whole exchange, every piece of the answer included.",
            label="part",
            values=("request", "exchange"),
            bounds_s=_PHASES_S,
        )
        registry.register(self._phases)
        registry.register(self._added)

    def _define_credentials(self, registry: CollectorRegistry) -> None:
        self._key_refused = _Counters(
            "sentinel_provider_key_refusals",
            "Answers with which a provider refused our key, not the caller's.",
            ("provider", "status"),
            registry,
        )
        self._key_files = _Counters(
            "sentinel_provider_key_changes",
            "Changed key files of providers: taken, or refused, which leaves the old keys in use.",
            ("provider", "result"),
            registry,
        )

    def emit_credentials(self, fact: CredentialFact) -> None:
        """Take a fact about a key file. Providers are named by the settings."""
        result = "taken" if isinstance(fact, KeysTaken) else "refused"
        self._key_files.add(1, fact.provider, result)

    def _define_limits(self, registry: CollectorRegistry) -> None:
        self._decided = _Counters(
            "sentinel_limit_decisions",
            "Claims on limits; rung is normal, or how it was decided without the store.",
            ("outcome", "rung"),
            registry,
        )
        self._denied = _Counters(
            "sentinel_limit_denials", "Claims that a limit denied.", ("limit",), registry
        )
        self._shadowed = _Counters(
            "sentinel_limit_shadow_denials",
            "Claims that a shadow limit would have denied.",
            ("limit",),
            registry,
        )
        self._exhausted = _Counters(
            "sentinel_limit_holds_exhausted",
            "Answers that outgrew what was held: charged as debt, or cut.",
            ("limit", "action"),
            registry,
        )
        self._beyond_hold = _Counters(
            "sentinel_limit_beyond_hold",
            "Used beyond what was held, in the limit's unit (cost in millionths): charged all the "
            "same, as debt where there was no room.",
            ("limit",),
            registry,
        )
        self._lost = Counter(
            "sentinel_limit_store_outages", "Times the limit store went away.", registry=registry
        )
        self._away_s = Counter(
            "sentinel_limit_store_away_seconds",
            "How long it was away, counted when it is back.",
            registry=registry,
        )
        self._replayed = Counter(
            "sentinel_limit_store_replayed_exchanges",
            "Exchanges admitted without the store and charged to it as debt while still running.",
            registry=registry,
        )
        self._dropped = Counter(
            "sentinel_limit_settlements_dropped",
            "Settlements given up; their holds lapse by themselves, over-counted.",
            registry=registry,
        )

    def add_readings(self, readings: Iterable[Reading]) -> None:
        """Serve these too.

        Raises:
            ValueError: a name is in use already.
        """
        readings = list(readings)
        self._registry.register(Readings(readings))
        self._across |= {one.name: one.across for one in readings}

    @property
    def registry(self) -> CollectorRegistry:
        """All of it, up to date."""
        self._facts.drain()
        self._limit_facts.drain()
        return self._registry

    def emit(self, fact: Fact) -> None:
        """An ``Emit``."""
        self._facts.add(fact)

    def emit_limits(self, fact: LimitFact) -> None:
        """An ``EmitLimitFact``."""
        self._limit_facts.add(fact)

    def _take_safely(self, fact: Fact) -> None:
        try:
            self._take(fact)
        except Exception:
            log.exception("no metric could be made of %s", type(fact).__name__)
            self._faults.inc()

    def _take_limits_safely(self, fact: LimitFact) -> None:
        try:
            self._take_limits(fact)
        except Exception:
            log.exception("no metric could be made of %s", type(fact).__name__)
            self._faults.inc()

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics and their content type: text, or OpenMetrics if ``accept`` asks for it.

        Takes some milliseconds for thousands of series; may run in another thread.
        """
        return written(self.registry, accept)

    def families(self) -> list[Family]:
        """All metrics, for the process that puts those of several together; costs as much."""
        return families(self.registry, self._across)

    def _take(self, fact: Fact) -> None:
        match fact:
            case ExchangeFinished():
                self._finished(fact)
            case ExchangeNoted():
                reason = "answer_cut" if fact.cut else self._codes.label(fact.code)
                limit = self._limits.label(fact.limit) if fact.limit else ""
                self._noted.add(1, reason, fact.endpoint or "unknown", limit)
            case ExchangeRefused():
                self._exchanges.add(
                    1,
                    "refused",
                    self._codes.label(fact.code),
                    fact.endpoint or "unknown",
                    self._models.label(fact.model, may_claim=False),
                )
            case ExchangeTimed():
                self._took(fact.timeline)
            case RecordNotStored():
                self._not_stored.inc()
            case InternalFault():
                self._internal.add(1, fact.where, "yes" if fact.admitted else "no")

    def _finished(self, fact: ExchangeFinished) -> None:
        record = fact.record
        # Only what a provider has answered for is certainly a model, and not an invention.
        answered = record.outcome is Outcome.COMPLETED or record.model_served is not None
        model = self._models.label(record.model_requested, may_claim=answered)
        self._exchanges.add(1, "admitted", "ok", record.endpoint, model)
        self._ended.add(1, record.outcome.value, record.provenance.value, record.endpoint, model)
        for kind, count in _by_kind(record.usage):
            if count > 0:
                self._tokens.add(count, kind, record.provenance.value, model)
        if fact.metering_faults > 0:
            self._metering_faults.add(fact.metering_faults, record.endpoint)
        self._compare(fact, model)
        if fact.key_refused is not None:
            self._key_refused.add(1, fact.provider or "default", str(fact.key_refused))
        if record.outcome is Outcome.COMPLETED and fact.reserved_output_tokens > 0:
            self._reserved_output.add(fact.reserved_output_tokens, fact.output_basis, model)
            self._used_output.add(record.usage.output_tokens, fact.output_basis, model)

    def _took(self, timeline: Timeline) -> None:
        for name, began_ns, ended_ns, _ in timeline.phases:
            self._phases.add(name, ended_ns - began_ns)
        if timeline.request_ns:
            self._added.add("request", timeline.request_ns)
        if timeline.waited_ns:
            self._added.add("exchange", timeline.waited_ns)

    def _compare(self, fact: ExchangeFinished, model: str) -> None:
        record, predicted = fact.record, fact.predicted_input_tokens
        reported = record.usage.input_tokens
        if predicted is None or record.provenance is not Provenance.PROVIDER or reported <= 0:
            return
        confidence = fact.confidence
        self._estimated.add(predicted, model, confidence)
        self._reported.add(reported, model, confidence)
        self._ratio.labels(model, confidence).observe(predicted / reported)

    def _take_limits(self, fact: LimitFact) -> None:
        match fact:
            case LimitsDecided():
                self._decided.add(1, fact.outcome, fact.rung or "normal")
                if fact.limit is not None:
                    self._denied.add(1, self._limits.label(fact.limit))
                for name in fact.shadowed:
                    self._shadowed.add(1, self._limits.label(name))
            case SettlementApplied():
                self._phases.add("settle", round(fact.after_s * 1e9))
            case SettledBeyond():
                self._beyond_hold.add(fact.amount, self._limits.label(fact.limit))
            case HoldExhausted():
                action = "cut" if fact.cut else "debt"
                self._exhausted.add(1, self._limits.label(fact.limit), action)
            case StoreLost():
                self._lost.inc()
            case StoreRegained():
                self._away_s.inc(fact.after_s)
                self._replayed.inc(fact.replayed)
            case SettlementDropped():
                self._dropped.inc()


def written(source: Collector, accept: str) -> tuple[bytes, str]:
    """Metrics and their content type: text, or OpenMetrics if ``accept`` asks for it."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
    return encode(source), content_type


def _by_kind(usage: TokenUsage) -> tuple[tuple[str, int], ...]:
    return (
        ("input", usage.input_tokens),
        ("output", usage.output_tokens),
        ("cached_input", usage.cached_input_tokens),
        ("reasoning", usage.reasoning_tokens),
        ("audio_input", usage.audio_input_tokens),
        ("audio_output", usage.audio_output_tokens),
        ("image_input", usage.image_input_tokens),
        ("image_output", usage.image_output_tokens),
        ("accepted_prediction", usage.accepted_prediction_tokens),
        ("rejected_prediction", usage.rejected_prediction_tokens),
    )
