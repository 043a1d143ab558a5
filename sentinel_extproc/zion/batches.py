"""Zion's batches: increments to rows, and the rows of the answer back to increments. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from sentinel_extproc.zion.wire import Dialect, Envelope, Metric, decode_data

MAX_BATCH = 1000
"""Rows that Zion takes in one batch; more is a 413."""


class UsageIncrement(msgspec.Struct, frozen=True, gc=False):
    """One sum of usage to bill; never changes once it was sent.

    Attributes:
        idempotency_key: stable over every retry.
        occurred_at_ms: milliseconds since the epoch, UTC; decides the period that is charged.
    """

    idempotency_key: str
    external_id: str
    email: str
    model: str | None
    input_tokens: int
    output_tokens: int
    requests: int
    occurred_at_ms: int


class RowOutcome(StrEnum):
    """What became of one increment."""

    RECORDED = "recorded"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """No row of the answer could be told to be its own: it may or may not have been billed."""


class RowResult(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one increment, and Zion's reason when it was refused."""

    outcome: RowOutcome
    error: str | None = None


# --- what travels -----------------------------------------------------------------------------


class _Row(msgspec.Struct, rename="camel"):
    success: bool
    email: str | None = None
    external_id: str | None = None
    limit_name: str | None = None
    error: Any = None


class _Batch(msgspec.Struct):
    results: list[_Row]


class _UnifiedItem(msgspec.Struct, rename="camel", omit_defaults=True):
    email: str
    external_id: str
    idempotency_key: str
    timestamp: str
    model: str | None = None
    ai_input_tokens: int = 0
    ai_output_tokens: int = 0
    ai_requests: int = 0


class _MetricItem(msgspec.Struct, rename="camel"):
    external_id: str
    limit_name: str
    amount: int
    idempotency_key: str


_encoder = msgspec.json.Encoder()


# --- both ways --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """An encoded batch, and what is needed to tell its rows apart in the answer.

    Attributes:
        rows: per row sent: index of its increment, and its limit name in the per-metric dialect.
    """

    body: bytes
    increments: tuple[UsageIncrement, ...]
    rows: tuple[tuple[int, str | None], ...]


def encode_batch(dialect: Dialect, increments: Sequence[UsageIncrement]) -> Batch:
    """Encode increments as one batch.

    In the per-metric dialect an increment becomes a row per metric that isn't zero; rows after
    the first carry their own key, made from the increment's.

    Raises:
        ValueError: no row, or more than ``MAX_BATCH``.
    """
    items: list[_UnifiedItem | _MetricItem] = []
    rows: list[tuple[int, str | None]] = []
    for index, increment in enumerate(increments):
        if dialect is Dialect.UNIFIED:
            items.append(_unified(increment))
            rows.append((index, None))
            continue
        metrics = [(metric, amount) for metric, amount in _amounts(increment).items() if amount]
        for metric, amount in metrics:
            key = increment.idempotency_key
            items.append(
                _MetricItem(
                    external_id=increment.external_id,
                    limit_name=metric.value,
                    amount=amount,
                    idempotency_key=key if len(metrics) == 1 else f"{key}:{metric.value}",
                )
            )
            rows.append((index, metric.value))
    if not 1 <= len(items) <= MAX_BATCH:
        raise ValueError(f"a batch takes 1 to {MAX_BATCH} rows, not {len(items)}")
    return Batch(_encoder.encode({"increments": items}), tuple(increments), tuple(rows))


def _amounts(increment: UsageIncrement) -> Mapping[Metric, int]:
    return {
        Metric.INPUT_TOKENS: increment.input_tokens,
        Metric.OUTPUT_TOKENS: increment.output_tokens,
        Metric.REQUESTS: increment.requests,
    }


def _unified(increment: UsageIncrement) -> _UnifiedItem:
    moment = datetime.fromtimestamp(increment.occurred_at_ms / 1000, UTC)
    return _UnifiedItem(
        email=increment.email,
        external_id=increment.external_id,
        idempotency_key=increment.idempotency_key,
        timestamp=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        model=increment.model,
        ai_input_tokens=increment.input_tokens,
        ai_output_tokens=increment.output_tokens,
        ai_requests=increment.requests,
    )


def decode_rows(batch: Batch, body: bytes) -> tuple[RowResult, ...]:
    """Read a batch answer into one result per increment, in their order.

    Positions are trusted only if every row of the answer names the user it was sent for; else
    only rows whose user occurs exactly once on both sides are matched. What isn't matched is
    ``UNKNOWN``, never assumed to be billed.

    Raises:
        MalformedError: not the contract's shape.
    """
    answer: _Batch = decode_data(body, Envelope[_Batch])
    results = answer.results
    if len(results) == len(batch.rows) and all(
        _same(batch.increments[index], limit_name, row)
        for (index, limit_name), row in zip(batch.rows, results, strict=True)
    ):
        matched: list[_Row | None] = list(results)
    else:
        matched = _by_user(batch, results)
    per_increment: list[list[_Row | None]] = [[] for _ in batch.increments]
    for (index, _), row in zip(batch.rows, matched, strict=True):
        per_increment[index].append(row)
    return tuple(_judge(rows) for rows in per_increment)


def _same(increment: UsageIncrement, limit_name: str | None, row: _Row) -> bool:
    if row.email is None and row.external_id is None:
        return False
    return (
        (row.email is None or row.email.casefold() == increment.email.casefold())
        and (row.external_id is None or row.external_id == increment.external_id)
        and (limit_name is None or row.limit_name == limit_name)
    )


_Name = tuple[str, str, str | None]
"""Whose row it is: by which field, its value, and the metric in the per-metric dialect."""


def _by_user(batch: Batch, results: Sequence[_Row]) -> list[_Row | None]:
    by_metric = any(limit_name is not None for _, limit_name in batch.rows)
    received: dict[_Name, list[_Row]] = {}
    for row in results:
        metric = row.limit_name if by_metric else None
        if row.external_id is not None:
            received.setdefault(("externalId", row.external_id, metric), []).append(row)
        elif row.email is not None:
            received.setdefault(("email", row.email.casefold(), metric), []).append(row)
    sent: list[tuple[_Name, _Name]] = [
        (
            ("externalId", batch.increments[index].external_id, metric),
            ("email", batch.increments[index].email.casefold(), metric),
        )
        for index, metric in batch.rows
    ]
    times = Counter(name for names in sent for name in names)
    matched: list[_Row | None] = []
    for (index, metric), names in zip(batch.rows, sent, strict=True):
        found = [(name, row) for name in names for row in received.get(name, [])]
        certain = len(found) == 1 and times[found[0][0]] == 1
        own = certain and _same(batch.increments[index], metric, found[0][1])
        matched.append(found[0][1] if own else None)
    return matched


def _judge(rows: Sequence[_Row | None]) -> RowResult:
    known = [row for row in rows if row is not None]
    if not rows or len(known) < len(rows):
        return RowResult(RowOutcome.UNKNOWN)
    refused = [row for row in known if not row.success]
    if not refused:
        return RowResult(RowOutcome.RECORDED)
    if len(refused) < len(known):
        return RowResult(RowOutcome.UNKNOWN)
    return RowResult(RowOutcome.REFUSED, _reason(refused[0].error))


def _reason(error: object) -> str:
    text = error if isinstance(error, str) else _encoder.encode(error).decode()
    return text[:200]
