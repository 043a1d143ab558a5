"""The adapter from facts to Prometheus.

Every label comes from a set that is bounded, whatever clients send; users are never a label. Names
start with ``sentinel_`` and carry their unit. Numbers that other parts count themselves are added
as ``readings``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

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
    EmitLimitFact,
    HoldExhausted,
    LimitFact,
    LimitsDecided,
    SettledBeyond,
    SettlementDropped,
    StoreLost,
    StoreRegained,
)
from sentinel_extproc.telemetry.across import Across, Family, families
from sentinel_extproc.telemetry.batching import Batch
from sentinel_extproc.telemetry.counting import Counts
from sentinel_extproc.telemetry.exchange_metrics import LAGS_S, ExchangeMetrics
from sentinel_extproc.telemetry.facts import Emit, Fact
from sentinel_extproc.telemetry.label_values import FirstValues
from sentinel_extproc.telemetry.readings import Reading, Readings

log = logging.getLogger(__name__)

_MOST_WAITING = 128
"""Facts; an exchange leaves four."""


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
        self._across: dict[str, Across] = {}
        self._limits = FirstValues(max_limits)
        registry = self._registry
        self._exchanges = ExchangeMetrics(
            registry,
            models=FirstValues(max_models),
            codes=FirstValues(max_codes),
            limits=self._limits,
        )
        self._define_limits(registry)
        self._define_credentials(registry)
        self.loop_lag = Histogram(
            "sentinel_event_loop_lag_seconds",
            "How late the event loop runs what is due.",
            buckets=LAGS_S,
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
        self._takers: dict[type, Callable[[Any], None]] = {
            **self._exchanges.takers,
            LimitsDecided: self._took_decision,
            SettledBeyond: self._took_excess,
            HoldExhausted: self._took_exhaustion,
            StoreLost: self._took_outage,
            StoreRegained: self._took_return,
            SettlementDropped: self._took_drop,
        }
        facts: Batch[Fact | LimitFact] = Batch(self._take, most=_MOST_WAITING, done=self._done)
        self._drain = facts.drain
        self.emit: Emit = facts.add
        """Takes a fact."""
        self.emit_limits: EmitLimitFact = facts.add
        """The same for those about limits."""

    def _define_credentials(self, registry: CollectorRegistry) -> None:
        self._key_files = Counts(
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
        self._decided = Counts(
            "sentinel_limit_decisions",
            "Claims on limits; rung is normal, or how it was decided without the store.",
            ("outcome", "rung"),
            registry,
        )
        self._denied = Counts(
            "sentinel_limit_denials", "Claims that a limit denied.", ("limit",), registry
        )
        self._shadowed = Counts(
            "sentinel_limit_shadow_denials",
            "Claims that a shadow limit would have denied.",
            ("limit",),
            registry,
        )
        self._exhausted = Counts(
            "sentinel_limit_holds_exhausted",
            "Answers that outgrew what was held: charged as debt, or cut.",
            ("limit", "action"),
            registry,
        )
        self._beyond_hold = Counts(
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
        self._drain()
        return self._registry

    def _take(self, fact: Fact | LimitFact) -> None:
        try:
            self._takers[type(fact)](fact)
        except Exception:
            log.exception("no metric could be made of %s", type(fact).__name__)
            self._faults.inc()

    def _done(self) -> None:
        try:
            self._exchanges.done()
        except Exception:
            log.exception("no metric could be made of finished exchanges")
            self._faults.inc()

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics and their content type: text, or OpenMetrics if ``accept`` asks for it.

        Takes some milliseconds for thousands of series; may run in another thread.
        """
        return written(self.registry, accept)

    def families(self) -> list[Family]:
        """All metrics, for the process that puts those of several together; costs as much."""
        return families(self.registry, self._across)

    def _took_decision(self, fact: LimitsDecided) -> None:
        self._decided.add(1, fact.outcome, fact.rung or "normal")
        if fact.limit is not None:
            self._denied.add(1, self._limits.label(fact.limit))
        for name in fact.shadowed:
            self._shadowed.add(1, self._limits.label(name))

    def _took_excess(self, fact: SettledBeyond) -> None:
        self._beyond_hold.add(fact.amount, self._limits.label(fact.limit))

    def _took_exhaustion(self, fact: HoldExhausted) -> None:
        action = "cut" if fact.cut else "debt"
        self._exhausted.add(1, self._limits.label(fact.limit), action)

    def _took_outage(self, _fact: StoreLost) -> None:
        self._lost.inc()

    def _took_return(self, fact: StoreRegained) -> None:
        self._away_s.inc(fact.after_s)
        self._replayed.inc(fact.replayed)

    def _took_drop(self, _fact: SettlementDropped) -> None:
        self._dropped.inc()


def written(source: Collector, accept: str) -> tuple[bytes, str]:
    """Metrics and their content type: text, or OpenMetrics if ``accept`` asks for it."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
    return encode(source), content_type
