"""The adapters from facts to the log.

Lines of exchanges are written some at a time, up to ``WITHIN_S`` late, with the time at which they
were told; what is wrong with us is written at once, behind what came before it.
"""

from __future__ import annotations

import json
import logging
import time
from json.encoder import encode_basestring_ascii as _quoted

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
from sentinel_extproc.telemetry.logs import MAX_VALUE_CHARS, Lines, iso, plain_output, stamp
from sentinel_extproc.telemetry.worker_field import WorkerField
from sentinel_extproc.usage.record import UsageRecord

base_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
logger = logging.getLogger("sentinel.telemetry")


WITHIN_S = 0.05


class FactLog:
    """``log_fact``, for a process that serves. For one event loop."""

    def __init__(self) -> None:
        self._told: TimedBatch[tuple[Fact, float]] = TimedBatch(
            self._take, within_s=WITHIN_S, done=self._write_finished
        )
        self._finished: list[tuple[ExchangeFinished, float]] = []

    def emit(self, fact: Fact) -> None:
        """An ``Emit``. Needs a running event loop."""
        kind = type(fact)
        if kind is ExchangeTimed:
            return
        self._told.add((fact, time.time()))
        if kind is InternalFault or kind is RecordNotStored:
            self._told.drain()

    def flush(self) -> None:
        """Write all that waits."""
        self._told.drain()

    def _take(self, told: tuple[Fact, float]) -> None:
        fact, at_s = told
        if type(fact) is ExchangeFinished and not fact.metering_faults and fact.key_refused is None:
            self._finished.append((fact, at_s))
        else:
            self._write_finished()
            _write(fact, at_s)

    def _write_finished(self) -> None:
        """Write what is nearly all of the log, without going through structlog for each line."""
        finished, self._finished = self._finished, []
        if not finished:
            return
        plain = _plain_output()
        if plain is None:
            for fact, at_s in finished:
                _write(fact, at_s)
            return
        out, end = plain
        ready = []
        for fact, at_s in finished:
            try:
                line = _finished_line(fact.record, at_s, end)
            except Exception:  # noqa: BLE001 - it is told what becomes of it below
                line = None
            if line is not None and len(line) <= MAX_VALUE_CHARS:
                ready.append(line)
            else:  # something in it may have to be cut
                out.write(ready)
                ready = []
                _write(fact, at_s)
        out.write(ready)


def _plain_output() -> tuple[Lines, str] | None:
    """Where lines of JSON may go that are made here, and what each ends with; None: nowhere."""
    output = plain_output()
    if output is None:
        return None
    lines, processors = output
    end = "}"
    for one in processors:
        if not isinstance(one, WorkerField):
            return None
        end = f', "worker": {json.dumps(one.worker)}{end}'
    return lines, end


def _finished_line(record: UsageRecord, at_s: float, end: str) -> str:
    """What ``log_fact`` has structlog make of a finished exchange, as one line of JSON."""
    request_id = "null" if record.request_id is None else _quoted(record.request_id)
    usage = record.usage
    return (
        f'{{"time": "{stamp(at_s)}", "level": "info", "logger": "sentinel", '
        f'"event": "exchange_finished", "exchange_id": {_quoted(record.id)}, '
        f'"request_id": {request_id}, "user": {_quoted(record.external_id)}, '
        f'"endpoint": {_quoted(record.endpoint)}, "model": {_quoted(record.model_requested)}, '
        f'"input_tokens": {usage.input_tokens}, "output_tokens": {usage.output_tokens}, '
        f'"provenance": "{record.provenance}", "outcome": "{record.outcome}"{end}'
    )


def _write(fact: Fact, at_s: float) -> None:
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


NO_LINE = frozenset({LimitsDecided, SettlementApplied, SettledBeyond})
"""Facts about limits that the log says nothing of."""


def log_limit_fact(fact: LimitFact) -> None:
    """The adapter from limits' facts to the log; single decisions are not worth a line."""
    if type(fact) in NO_LINE:
        return
    match fact:
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
