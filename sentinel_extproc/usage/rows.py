"""Records as rows of the outbox, and back. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord

Row = tuple[str | int | None, ...]
"""Of a record, in the order of ``sql.RECORD_COLUMNS``."""

MAX_NAME = 256
"""Code points kept of names that a client chooses freely."""

MAX_REQUEST_ID = 128
"""Code points kept of a request id; Envoy's own has 36."""

MAX_INTEGER = 2**53 - 1

OUTCOME = 19
"""Place of the outcome in a row."""


def record_row(record: UsageRecord) -> Row:
    """The row of a record, with every value made storable.

    Client-chosen names are cut at ``MAX_NAME``; what isn't text (lone surrogates, NUL) is
    replaced, numbers are kept within 0 and 2^53 - 1: a strange request must still be billed.
    """
    usage = record.usage
    return (
        storable(record.id),
        record.occurred_at_ms,
        storable(record.external_id),
        storable(record.email),
        storable(record.endpoint[:MAX_NAME]),
        storable(record.model_requested[:MAX_NAME]),
        _maybe_text(record.model_served, MAX_NAME),
        amount(record.requests),
        amount(usage.input_tokens),
        amount(usage.output_tokens),
        amount(usage.cached_input_tokens),
        amount(usage.reasoning_tokens),
        amount(usage.audio_input_tokens),
        amount(usage.audio_output_tokens),
        amount(usage.image_input_tokens),
        amount(usage.image_output_tokens),
        amount(usage.accepted_prediction_tokens),
        amount(usage.rejected_prediction_tokens),
        record.provenance.value,
        record.outcome.value,
        _maybe_amount(record.cost_nanos),
        _maybe_text(record.currency, MAX_NAME),
        _maybe_text(record.request_id, MAX_REQUEST_ID),
        _maybe_text(record.origin, MAX_NAME),
        _maybe_amount(record.predicted_input_tokens),
        _maybe_amount(record.reserved_output_tokens),
    )


def record_of(row: Sequence[str | int | None]) -> UsageRecord:
    """The record of a row."""
    return UsageRecord(
        id=str(row[0]),
        occurred_at_ms=int(row[1] or 0),
        external_id=str(row[2]),
        email=str(row[3]),
        endpoint=str(row[4]),
        model_requested=str(row[5]),
        model_served=_some_text(row[6]),
        requests=int(row[7] or 0),
        usage=TokenUsage(*(int(value or 0) for value in row[8:18])),
        provenance=Provenance(str(row[18])),
        outcome=Outcome(str(row[OUTCOME])),
        cost_nanos=_some_amount(row[20]),
        currency=_some_text(row[21]),
        request_id=_some_text(row[22]),
        origin=_some_text(row[23]),
        predicted_input_tokens=_some_amount(row[24]),
        reserved_output_tokens=_some_amount(row[25]),
    )


def storable(value: str) -> str:
    """``value`` as SQLite and JSON can keep it."""
    if value.isascii() and "\0" not in value:
        return value
    return value.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _maybe_text(value: str | None, most: int) -> str | None:
    return None if value is None else storable(value[:most])


def amount(value: int) -> int:
    """``value`` as every reader of JSON can take it, and not negative."""
    return min(max(value, 0), MAX_INTEGER)


def _maybe_amount(value: int | None) -> int | None:
    return None if value is None else amount(value)


def _some_text(value: str | int | None) -> str | None:
    return None if value is None else str(value)


def _some_amount(value: str | int | None) -> int | None:
    return None if value is None else int(value)
