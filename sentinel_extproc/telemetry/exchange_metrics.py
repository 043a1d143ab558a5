"""What exchanges come to as metrics.

Nearly all of a batch are alike: same endpoint, model and outcome. So what finished exchanges have
is put together by that first, and added to the metrics once for all of a kind.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter, truediv
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from sentinel_extproc.limits.facts import SettlementApplied
from sentinel_extproc.telemetry.counting import Counts, Distribution
from sentinel_extproc.telemetry.durations import Durations
from sentinel_extproc.telemetry.facts import (
    ExchangeFinished,
    ExchangeNoted,
    ExchangeRefused,
    ExchangeTimed,
    InternalFault,
    RecordNotStored,
)
from sentinel_extproc.telemetry.label_values import FirstValues
from sentinel_extproc.telemetry.timeline import PHASES
from sentinel_extproc.usage.record import Outcome, Provenance

LAGS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_PHASES_S = (0.0001, 0.00025, 0.0005, *LAGS_S)
_RATIOS = (0.5, 0.75, 0.9, 0.95, 0.98, 0.995, 1.005, 1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0)

_KINDS = (
    "input",
    "output",
    "cached_input",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
    "accepted_prediction",
    "rejected_prediction",
)
_by_kind = attrgetter(*(f"{kind}_tokens" for kind in _KINDS))
"""All token sums of a ``TokenUsage``."""

_Alike = tuple[Outcome, Provenance, str, str, str, str]
"""Outcome, provenance, endpoint, label of the model, basis of the output, confidence."""


class _Together:
    """Finished exchanges that are alike, until they are added to the metrics.

    Attributes:
        usages: token sums of each, by kind.
        predicted, reported: of those that can be compared, input tokens.
        reserved, used: of those that came to their end, output tokens.
    """

    __slots__ = ("predicted", "reported", "reserved", "usages", "used")

    def __init__(self) -> None:
        self.usages: list[tuple[int, ...]] = []
        self.predicted: list[int] = []
        self.reported: list[int] = []
        self.reserved: list[int] = []
        self.used: list[int] = []


class ExchangeMetrics:
    """Takes facts about exchanges, by type. All is in the metrics after ``done``.

    Args:
        models, codes, limits: labels of what has many values.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        models: FirstValues,
        codes: FirstValues,
        limits: FirstValues,
    ) -> None:
        self._models, self._codes, self._limits = models, codes, limits
        self._alike: dict[_Alike, _Together] = {}
        self._spent_ns: dict[str, list[int]] = {phase: [] for phase in PHASES}
        self._until_decided_ns: list[int] = []
        self._waited_ns: list[int] = []
        self._define_ends(registry)
        self._define_times(registry)
        self.takers: dict[type, Callable[[Any], None]] = {
            ExchangeFinished: self._finished,
            ExchangeTimed: self._timed,
            ExchangeRefused: self._refused,
            ExchangeNoted: self._noted,
            RecordNotStored: self._unstored,
            InternalFault: self._fault,
            SettlementApplied: self._settled,
        }
        """What takes facts of a type."""

    def _define_ends(self, registry: CollectorRegistry) -> None:
        self._exchanges = Counts(
            "sentinel_exchanges",
            "Requests by what we decided, counted when they end; code says why one was refused.",
            ("decision", "code", "endpoint", "model"),
            registry,
        )
        self._would_refuse = Counts(
            "sentinel_shadow_refusals",
            "Requests that were let pass in shadow mode, and would have been refused or cut.",
            ("code", "endpoint", "limit"),
            registry,
        )
        self._ended = Counts(
            "sentinel_exchanges_ended",
            "Admitted exchanges by how they ended and where their token numbers come from.",
            ("outcome", "provenance", "endpoint", "model"),
            registry,
        )
        self._tokens = Counts(
            "sentinel_tokens",
            "Tokens billed. All kinds but input and output are parts of these, not additions to "
            "them.",
            ("kind", "provenance", "model"),
            registry,
        )
        self._estimated = Counts(
            "sentinel_estimated_input_tokens",
            "Our estimates of prompts whose size the provider then reported, by how far they could "
            "be trusted: exact, close or rough.",
            ("model", "confidence"),
            registry,
        )
        self._reported = Counts(
            "sentinel_reported_input_tokens",
            "What the provider reported for the same prompts.",
            ("model", "confidence"),
            registry,
        )
        self._ratio = Distribution(
            "sentinel_input_estimate_ratio",
            "Estimated over reported input tokens, one per prompt; 1 is exact.",
            ("model", "confidence"),
            _RATIOS,
            registry,
        )
        self._reserved_output = Counts(
            "sentinel_reserved_output_tokens",
            "Output reserved for answers that came to their end, by what it was taken from: the "
            "request's cap, what was learned (user, model), or the default.",
            ("basis", "model"),
            registry,
        )
        self._used_output = Counts(
            "sentinel_used_output_tokens",
            "Output of the same answers.",
            ("basis", "model"),
            registry,
        )
        self._metering_faults = Counts(
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
        self._internal = Counts(
            "sentinel_internal_faults",
            "Exceptions that nothing should have raised.",
            ("where", "admitted"),
            registry,
        )
        self._key_refused = Counts(
            "sentinel_provider_key_refusals",
            "Answers with which a provider refused our key, not the caller's.",
            ("provider", "status"),
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

    def done(self) -> None:
        """Put what was taken into the metrics."""
        for what in tuple(self._alike):
            self._add(what, self._alike.pop(what))
        for phase, spent_ns in self._spent_ns.items():
            if spent_ns:
                self._phases.add_all(phase, spent_ns)
                spent_ns.clear()
        for part, waits_ns in (("request", self._until_decided_ns), ("exchange", self._waited_ns)):
            if waits_ns:
                self._added.add_all(part, waits_ns)
                waits_ns.clear()

    def _noted(self, fact: ExchangeNoted) -> None:
        reason = "answer_cut" if fact.cut else self._codes.label(fact.code)
        limit = self._limits.label(fact.limit) if fact.limit else ""
        self._would_refuse.add(1, reason, fact.endpoint or "unknown", limit)

    def _refused(self, fact: ExchangeRefused) -> None:
        self._exchanges.add(
            1,
            "refused",
            self._codes.label(fact.code),
            fact.endpoint or "unknown",
            self._models.label(fact.model, may_claim=False),
        )

    def _unstored(self, _fact: RecordNotStored) -> None:
        self._not_stored.inc()

    def _fault(self, fact: InternalFault) -> None:
        self._internal.add(1, fact.where, "yes" if fact.admitted else "no")

    def _finished(self, fact: ExchangeFinished) -> None:
        record = fact.record
        usage, outcome = record.usage, record.outcome
        tokens = _by_kind(usage)
        completed = outcome is Outcome.COMPLETED
        # Only what a provider has answered for is certainly a model, and not an invention.
        answered = completed or record.model_served is not None
        model = self._models.label(record.model_requested, may_claim=answered)
        what = (
            outcome,
            record.provenance,
            record.endpoint,
            model,
            fact.output_basis,
            fact.confidence,
        )
        together = self._alike.get(what)
        if together is None:
            together = self._alike[what] = _Together()
        together.usages.append(tokens)
        predicted, reported = fact.predicted_input_tokens, usage.input_tokens
        if predicted is not None and reported > 0 and record.provenance is Provenance.PROVIDER:
            together.predicted.append(predicted)
            together.reported.append(reported)
        if completed and fact.reserved_output_tokens > 0:
            together.reserved.append(fact.reserved_output_tokens)
            together.used.append(usage.output_tokens)
        if fact.metering_faults > 0:
            self._metering_faults.add(fact.metering_faults, record.endpoint)
        if fact.key_refused is not None:
            self._key_refused.add(1, fact.provider or "default", str(fact.key_refused))

    def _add(self, what: _Alike, together: _Together) -> None:
        outcome, provenance, endpoint, model, basis, confidence = what
        many = len(together.usages)
        self._exchanges.add(many, "admitted", "ok", endpoint, model)
        self._ended.add(many, outcome.value, provenance.value, endpoint, model)
        for kind, counts in zip(_KINDS, zip(*together.usages, strict=True), strict=True):
            count = sum(counts)
            if count > 0:
                self._tokens.add(count, kind, provenance.value, model)
        if together.predicted:
            self._estimated.add(sum(together.predicted), model, confidence)
            self._reported.add(sum(together.reported), model, confidence)
            ratios = tuple(map(truediv, together.predicted, together.reported))
            self._ratio.add_all(ratios, model, confidence)
        if together.reserved:
            self._reserved_output.add(sum(together.reserved), basis, model)
            self._used_output.add(sum(together.used), basis, model)

    def _timed(self, fact: ExchangeTimed) -> None:
        timeline, spent_ns = fact.timeline, self._spent_ns
        for phase in timeline.phases:
            spent_ns[phase.name].append(phase.ended_ns - phase.began_ns)
        if timeline.request_ns:
            self._until_decided_ns.append(timeline.request_ns)
        if timeline.waited_ns:
            self._waited_ns.append(timeline.waited_ns)

    def _settled(self, fact: SettlementApplied) -> None:
        self._spent_ns["settle"].append(round(fact.after_s * 1e9))
