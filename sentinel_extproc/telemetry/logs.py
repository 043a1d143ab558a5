"""Logs: one JSON object a line for machines, or a line of text for people.

Bodies, tokens and keys are never given to the logger. Strings from outside are bounded by code
point and travel as JSON strings, so they can neither break a line nor a character.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

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

MAX_VALUE_CHARS = 2000

log = logging.getLogger("sentinel")

_JSON = json.JSONEncoder(default=str)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def clip(value: str, most: int = MAX_VALUE_CHARS) -> str:
    """Cut ``value`` to ``most`` code points, marked with an ellipsis."""
    return value if len(value) <= most else value[: most - 1] + "…"


def configure(*, level: str, json_lines: bool, stream: TextIO | None = None) -> None:
    """Send the program's logs to ``stream`` (standard error by default)."""
    # Nothing that we write has these, and finding out where a line came from costs more than the
    # rest of it (the library's own advice, under "Optimization").
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if json_lines else ConsoleFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    log.setLevel(level.upper())


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {
        name: clip(value) if isinstance(value, str) else value
        for name, value in vars(record).items()
        if name not in _STANDARD
    }


def iso(moment_s: float) -> str:
    """Seconds of the wall clock as text in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment_s))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, ASCII only: safe for every log shipper."""

    _second = (0, "")
    """The second that was written last, and its text."""

    def format(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second[0]:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        line: dict[str, Any] = {
            "time": f"{self._second[1]}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": clip(record.getMessage()),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = clip(self.formatException(record.exc_info), 8000)
        return _JSON.encode(line)


class ConsoleFormatter(logging.Formatter):
    """A line for people: time, level, event, then facts as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts = " ".join(f"{name}={value!r}" for name, value in _fields(record).items())
        line = f"{moment} {record.levelname:<7} {clip(record.getMessage())!s}  {facts}".rstrip()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def log_fact(fact: Fact) -> None:
    """The adapter from facts to the log."""
    match fact:
        case ExchangeFinished(record, faults):
            if fact.key_refused is not None:
                log.warning(
                    "provider_key_refused",
                    extra={
                        "exchange_id": record.id,
                        "provider": fact.provider or "default",
                        "status": fact.key_refused,
                    },
                )
            if faults:
                log.error("metering_fault", extra={"exchange_id": record.id, "faults": faults})
            log.info(
                "exchange_finished",
                extra={
                    "exchange_id": record.id,
                    "user": record.external_id,
                    "endpoint": record.endpoint,
                    "model": record.model_requested,
                    "input_tokens": record.usage.input_tokens,
                    "output_tokens": record.usage.output_tokens,
                    "provenance": record.provenance.value,
                    "outcome": record.outcome.value,
                },
            )
        case ExchangeNoted():
            log.info(
                "exchange_would_be_refused",
                extra={
                    "exchange_id": fact.exchange_id,
                    "code": fact.code,
                    "endpoint": fact.endpoint,
                    "user": fact.user,
                    "limit": fact.limit,
                    "cut": fact.cut,
                },
            )
        case ExchangeRefused():
            log.info(
                "exchange_refused",
                extra={
                    "exchange_id": fact.exchange_id,
                    "status": fact.status,
                    "code": fact.code,
                    "endpoint": fact.endpoint,
                    "user": fact.user,
                },
            )
        case ExchangeTimed():
            pass
        case RecordNotStored(record, reason):
            # The whole record, so that it can be billed by hand if the process dies now.
            log.error(
                "usage_record_not_stored",
                extra={"reason": reason, "record": str(record)},
            )
        case InternalFault():
            log.error(
                "internal_fault",
                extra={
                    "exchange_id": fact.exchange_id,
                    "where": fact.where,
                    "admitted": fact.admitted,
                },
                exc_info=fact.fault,
            )


def log_limit_fact(fact: LimitFact) -> None:
    """The adapter from limits' facts to the log; single decisions are not worth a line."""
    match fact:
        case LimitsDecided() | SettlementApplied() | SettledBeyond():
            pass
        case HoldExhausted(limit, cut):
            log.info("hold_exhausted", extra={"limit": limit, "cut": cut})
        case StoreLost(reason):
            log.error("limit_store_lost", extra={"reason": reason, "since": iso(time.time())})
        case StoreRegained(after_s, replayed):
            log.warning(
                "limit_store_regained",
                extra={
                    "since": iso(time.time() - after_s),
                    "after_s": round(after_s, 3),
                    "replayed": replayed,
                },
            )
        case SettlementDropped(reason):
            log.error("settlement_dropped", extra={"reason": reason})


def log_credential_fact(fact: CredentialFact) -> None:
    """The adapter from facts about key files to the log; never a key."""
    match fact:
        case KeysTaken(provider, keys):
            log.warning("provider_keys_taken", extra={"provider": provider, "keys": keys})
        case KeysRefused(provider, reason):
            log.error("provider_keys_refused", extra={"provider": provider, "reason": reason})
