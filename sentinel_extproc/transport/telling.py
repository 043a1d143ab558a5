"""What an exchange tells, as facts. Pure."""

from __future__ import annotations

from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.telemetry.facts import ExchangeFinished, ExchangeNoted, ExchangeRefused
from sentinel_extproc.usage.record import UsageRecord


def finished(exchange: Exchange, record: UsageRecord) -> ExchangeFinished:
    """An admitted exchange has its record."""
    output = exchange.reserved_output
    return ExchangeFinished(
        record,
        exchange.metering_faults,
        exchange.counted_input,
        output.tokens,
        output.basis._value_,
        exchange.confidence._value_,
        exchange.provider,
        exchange.key_refused,
    )


def noted(exchange: Exchange, note: do.Note) -> ExchangeNoted:
    """Nothing is enforced, and this would have been."""
    facts, limit = note.metadata, note.error.details.get("limit_name")
    texts = {name: str(facts[name]) for name in ("endpoint", "user", "model") if name in facts}
    return ExchangeNoted(
        exchange_id=exchange.exchange_id,
        at_ms=exchange.started_at_ms,
        status=note.error.status,
        code=note.error.code,
        endpoint=texts.get("endpoint"),
        user=texts.get("user"),
        model=texts.get("model"),
        limit=None if limit is None else str(limit),
        cut=facts.get("decision") == "cut",
        request_id=exchange.request_id,
    )


def refused(exchange: Exchange, respond: do.Respond) -> ExchangeRefused:
    """We answered."""
    facts = respond.metadata or {}
    endpoint, user = facts.get("endpoint"), facts.get("user")
    model = facts.get("model")
    return ExchangeRefused(
        exchange_id=exchange.exchange_id,
        status=respond.error.status,
        code=respond.error.code,
        endpoint=None if endpoint is None else str(endpoint),
        user=None if user is None else str(user),
        model=None if model is None else str(model),
        request_id=exchange.request_id,
    )
