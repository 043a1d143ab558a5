"""The adapters from facts to the log."""

from __future__ import annotations

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

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def log_fact(fact: Fact) -> None:
    """The adapter from facts to the log."""
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
            log.info("hold_exhausted", limit=limit, cut=cut)
        case StoreLost(reason):
            log.error("limit_store_lost", reason=reason, since=iso(time.time()))
        case StoreRegained(after_s, replayed):
            log.warning(
                "limit_store_regained",
                since=iso(time.time() - after_s),
                after_s=round(after_s, 3),
                replayed=replayed,
            )
        case SettlementDropped(reason):
            log.error("settlement_dropped", reason=reason)


def log_credential_fact(fact: CredentialFact) -> None:
    """The adapter from facts about key files to the log; never a key."""
    match fact:
        case KeysTaken(provider, keys):
            log.warning("provider_keys_taken", provider=provider, keys=keys)
        case KeysRefused(provider, reason):
            log.error("provider_keys_refused", provider=provider, reason=reason)
