"""The adapters from facts to the log.

Lines of exchanges are written some at a time, up to ``WITHIN_S`` late, with the time at which they
were told; what is wrong with us is written at once, behind what came before it.
"""

from __future__ import annotations

import logging
import time

import structlog

from sentinel_extproc.credentials.facts import CredentialFact, KeysRefused, KeysTaken
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
from sentinel_extproc.telemetry.batching import TimedBatch
from sentinel_extproc.telemetry.facts import (
    ExchangeFinished,
    ExchangeNoted,
    ExchangeRefused,
    ExchangeTimed,
    Fact,
    InternalFault,
    RecordNotStored,
)
from sentinel_extproc.telemetry.logs import iso

base_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
logger = logging.getLogger("sentinel.telemetry")


WITHIN_S = 0.05


class FactLog:
    """``log_fact``, for a process that serves. For one event loop."""

    def __init__(self) -> None:
        self._ended: TimedBatch[tuple[Fact, float]] = TimedBatch(_write, within_s=WITHIN_S)

    def emit(self, fact: Fact) -> None:
        """An ``Emit``. Needs a running event loop."""
        if isinstance(fact, ExchangeTimed):
            return
        self._ended.add((fact, time.time()))
        if isinstance(fact, InternalFault | RecordNotStored):
            self._ended.drain()

    def flush(self) -> None:
        """Write all that waits."""
        self._ended.drain()


def _write(told: tuple[Fact, float]) -> None:
    fact, at_s = told
    try:
        log_fact(fact, at_s)
    except Exception:
        logger.exception("a fact could not be told")


def log_fact(fact: Fact, at_s: float | None = None) -> None:
    """The adapter from facts to the log.

    Args:
        at_s: when it was told, in seconds since the epoch; None: now.
    """
    log = base_log if at_s is None else base_log.bind(time=at_s)
    match fact:
        case ExchangeFinished(record, faults):
            if fact.key_refused is not None:
                log.warning(
                    "provider_key_refused",
                    exchange_id=record.id,
                    provider=fact.provider or "default",
                    status=fact.key_refused,
                )
            if faults:
                log.error("metering_fault", exchange_id=record.id, faults=faults)
            log.info(
                "exchange_finished",
                exchange_id=record.id,
                request_id=record.request_id,
                user=record.external_id,
                endpoint=record.endpoint,
                model=record.model_requested,
                input_tokens=record.usage.input_tokens,
                output_tokens=record.usage.output_tokens,
                provenance=record.provenance.value,
                outcome=record.outcome.value,
            )
        case ExchangeNoted():
            log.info(
                "exchange_would_be_refused",
                exchange_id=fact.exchange_id,
                request_id=fact.request_id,
                code=fact.code,
                endpoint=fact.endpoint,
                user=fact.user,
                limit=fact.limit,
                cut=fact.cut,
            )
        case ExchangeRefused():
            log.info(
                "exchange_refused",
                exchange_id=fact.exchange_id,
                request_id=fact.request_id,
                status=fact.status,
                code=fact.code,
                endpoint=fact.endpoint,
                user=fact.user,
            )
        case ExchangeTimed():
            pass
        case RecordNotStored(record, reason):
            # The whole record, so that it can be billed by hand if the process dies now.
            log.error(
                "usage_record_not_stored",
                reason=reason,
                record=str(record),
            )
        case InternalFault():
            log.error(
                "internal_fault",
                exchange_id=fact.exchange_id,
                where=fact.where,
                admitted=fact.admitted,
                exc_info=fact.fault,
            )


def log_limit_fact(fact: LimitFact) -> None:
    """The adapter from limits' facts to the log; single decisions are not worth a line."""
    match fact:
        case LimitsDecided() | SettlementApplied() | SettledBeyond():
            pass
        case HoldExhausted(limit, cut):
            base_log.info("hold_exhausted", limit=limit, cut=cut)
        case StoreLost(reason):
            base_log.error("limit_store_lost", reason=reason, since=iso(time.time()))
        case StoreRegained(after_s, replayed):
            base_log.warning(
                "limit_store_regained",
                since=iso(time.time() - after_s),
                after_s=round(after_s, 3),
                replayed=replayed,
            )
        case SettlementDropped(reason):
            base_log.error("settlement_dropped", reason=reason)


def log_credential_fact(fact: CredentialFact) -> None:
    """The adapter from facts about key files to the log; never a key."""
    match fact:
        case KeysTaken(provider, keys):
            base_log.warning("provider_keys_taken", provider=provider, keys=keys)
        case KeysRefused(provider, reason):
            base_log.error("provider_keys_refused", provider=provider, reason=reason)
