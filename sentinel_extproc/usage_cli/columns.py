"""A record as columns: for JSON, for CSV, and as FOCUS names them for finance. Pure.

FOCUS is the FinOps Foundation's specification of cost data (1.2). What it has no column for has a
name that begins with ``x_``, as it says. One record is one row, so token kinds are such columns and
``ConsumedQuantity`` is their total.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from sentinel_extproc.safe_text import for_csv
from sentinel_extproc.usage.item_queue import HeldItem
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord

Cell = str | int | None

_LAST_MS = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp() * 1000)


class Delivery(StrEnum):
    """How far a record has come."""

    UNSEALED = "unsealed"
    """Durable; no item sums it yet."""
    READY = "ready"
    SENT = "sent"
    HANDED = "handed"
    """In the stream that replicas share."""
    PARKED = "parked"
    DEAD = "dead"
    BILLED = "billed"
    UNKNOWN = "unknown"
    """Nobody saw how it ended, so it is never billed."""
    NOTHING = "nothing"
    """There was nothing to bill."""


_WORST_FIRST = ("dead", "parked", "sent", "handed", "ready", "done")


def delivery(record: UsageRecord, *, sealed: bool, item_states: frozenset[str]) -> Delivery:
    """Where a record is, by the states of the items that sum it.

    With several items (one per metric) the one that needs most attention counts.
    """
    if record.outcome is Outcome.UNKNOWN:
        return Delivery.UNKNOWN
    if not sealed:
        return Delivery.UNSEALED
    for state in _WORST_FIRST:
        if state in item_states:
            return Delivery.BILLED if state == "done" else Delivery(state)
    # A state that isn't known here is one on the way.
    return Delivery.SENT if item_states else Delivery.NOTHING


@dataclass(frozen=True, slots=True)
class Entry:
    """A record and where it is.

    Attributes:
        seq: its number in its sidecar's chain.
        sidecar: whose chain that is.
        items: idempotency keys under which Zion knows it.
    """

    seq: int
    sidecar: str
    record: UsageRecord
    state: Delivery
    items: tuple[str, ...]


def plain(entry: Entry) -> dict[str, Any]:
    """Everything, as JSON values."""
    record: dict[str, Any] = msgspec.to_builtins(entry.record)
    usage = record.pop("usage")
    return {
        "seq": entry.seq,
        "sidecar": entry.sidecar,
        "state": entry.state.value,
        "occurred_at": iso(entry.record.occurred_at_ms),
        **record,
        **usage,
        "cost": money(entry.record.cost_nanos),
        "items": list(entry.items),
    }


def focus(entry: Entry) -> dict[str, Cell]:
    """As a row of a FOCUS file. No price, no cost: then the cost columns are empty, never 0."""
    record, usage = entry.record, entry.record.usage
    moment = _moment(record.occurred_at_ms)
    hour = moment.replace(minute=0, second=0, microsecond=0)
    month = hour.replace(day=1, hour=0)
    model = record.model_served or record.model_requested
    cost = money(record.cost_nanos)
    return {
        "BilledCost": cost,
        "BillingAccountId": record.external_id,
        "BillingAccountName": record.email,
        "BillingCurrency": record.currency,
        "BillingPeriodStart": _focus_time(month),
        "BillingPeriodEnd": _focus_time((month + timedelta(days=32)).replace(day=1)),
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": f"{record.endpoint} {model}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _focus_time(hour),
        "ChargePeriodEnd": _focus_time(hour + timedelta(hours=1)),
        "ConsumedQuantity": usage.input_tokens + usage.output_tokens,
        "ConsumedUnit": "Tokens",
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "ListCost": cost,
        "ResourceId": model,
        "ResourceName": model,
        "ResourceType": "Model",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": record.endpoint,
        "SkuId": model,
        "Tags": json.dumps(
            {"provenance": record.provenance.value, "outcome": record.outcome.value},
            separators=(",", ":"),
        ),
        "x_RecordId": record.id,
        "x_RequestId": record.request_id,
        "x_SidecarId": entry.sidecar,
        "x_Sequence": entry.seq,
        "x_DeliveryState": entry.state.value,
        "x_Requests": record.requests,
        "x_InputTokens": usage.input_tokens,
        "x_OutputTokens": usage.output_tokens,
        "x_CachedInputTokens": usage.cached_input_tokens,
        "x_ReasoningTokens": usage.reasoning_tokens,
        "x_AudioInputTokens": usage.audio_input_tokens,
        "x_AudioOutputTokens": usage.audio_output_tokens,
        "x_ImageInputTokens": usage.image_input_tokens,
        "x_ImageOutputTokens": usage.image_output_tokens,
    }


def item_plain(held: HeldItem) -> dict[str, Any]:
    """A dead letter or parked item, as JSON values."""
    item = held.item
    return {
        "id": item.id,
        "state": held.state.value,
        "reason": held.reason,
        "external_id": item.external_id,
        "email": item.email,
        "model": item.model,
        "requests": item.requests,
        "input_tokens": item.input_tokens,
        "output_tokens": item.output_tokens,
        "records": item.records,
        "first_at": iso(item.first_ms),
        "last_at": iso(item.last_ms),
    }


def headings(row_of: Callable[[Entry], Mapping[str, Any]]) -> list[str]:
    """The names of the columns that ``row_of`` makes."""
    nothing = UsageRecord(
        id="",
        occurred_at_ms=0,
        external_id="",
        email="",
        endpoint="",
        model_requested="",
        model_served=None,
        requests=0,
        usage=TokenUsage(),
        provenance=Provenance.COUNTED,
        outcome=Outcome.COMPLETED,
    )
    return list(row_of(Entry(0, "", nothing, Delivery.NOTHING, ())))


def csv_cells(row: Mapping[str, Any]) -> list[str | int]:
    """The cells of a row, text made harmless for spreadsheets; lists are joined by blanks."""
    return [_csv_cell(value) for value in row.values()]


def _csv_cell(value: Any) -> str | int:
    match value:
        case None:
            return ""
        case int():
            return value
        case list():
            return for_csv(" ".join(map(str, value)))
        case _:
            return for_csv(str(value))


def money(nanos: int | None) -> str | None:
    """Billionths as a decimal number; never through a float."""
    if nanos is None:
        return None
    whole, rest = divmod(nanos, 10**9)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")


def iso(moment_ms: int) -> str:
    """ISO 8601, UTC, to the millisecond."""
    return _moment(moment_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(moment_ms: int) -> datetime:
    """A clock that is far off must not make its records unreadable."""
    return datetime.fromtimestamp(min(moment_ms, _LAST_MS) / 1000, UTC)


def _focus_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
