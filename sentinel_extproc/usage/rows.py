"""Records as rows of the outbox, and back. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import astuple

from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord

Row = tuple[str | int | None, ...]
"""Of a record, in the order of ``sql.RECORD_COLUMNS``."""

MAX_NAME = 256
"""Code points kept of names that a client chooses freely."""

MAX_REQUEST_ID = 128
"""Code points kept of a request id; Envoy's own has 36."""

MAX_INTEGER = 2**53 - 1

OCCURRED_AT, REQUESTS, PROVENANCE, OUTCOME = 1, 7, 18, 19
"""Places in a row."""

_MOST = {
    4: MAX_NAME,
    5: MAX_NAME,
    6: MAX_NAME,
    21: MAX_NAME,
    22: MAX_REQUEST_ID,
    23: MAX_NAME,
}
"""Code points kept of the texts at these places."""

_USAGE, _COST = 8, 11
"""Places of fields in a record; its own order is that of a row."""


def record_row(record: UsageRecord) -> Row:
    """The row of a record, with every value made storable.

    Client-chosen names are cut at ``MAX_NAME``; what isn't text (lone surrogates, NUL) is
    replaced, numbers are kept within 0 and 2^53 - 1: a strange request must still be billed.
    """
    fields = astuple(record)
    row = (
        *fields[:_USAGE],
        *astuple(record.usage),
        record.provenance._value_,
        record.outcome._value_,
        *fields[_COST:],
    )
    # Nearly every record is storable as it is, which one look at all its texts together, and one
    # at the extremes of its numbers, tells.
    names = f"{record.endpoint}{record.model_requested}{record.model_served}{record.origin}"
    request_id = record.request_id or ""
    texts = f"{names}{request_id}{record.id}{record.external_id}{record.email}{record.currency}"
    amounts = (
        *row[REQUESTS:PROVENANCE],
        record.cost_nanos or 0,
        record.predicted_input_tokens or 0,
        record.reserved_output_tokens or 0,
    )
    if (
        texts.isascii()
        and "\0" not in texts
        and len(names) <= MAX_NAME
        and len(request_id) <= MAX_REQUEST_ID
        and min(amounts) >= 0
        and max(amounts) <= MAX_INTEGER
    ):
        return row
    return tuple(_storable_at(place, value) for place, value in enumerate(row))


def _storable_at(place: int, value: str | int | None) -> str | int | None:
    if value is None or place == OCCURRED_AT:
        return value
    return storable(value[: _MOST.get(place)]) if isinstance(value, str) else amount(value)


def record_of(row: Sequence[str | int | None]) -> UsageRecord:
    """The record of a row."""
    return UsageRecord(
        id=str(row[0]),
        occurred_at_ms=int(row[OCCURRED_AT] or 0),
        external_id=str(row[2]),
        email=str(row[3]),
        endpoint=str(row[4]),
        model_requested=str(row[5]),
        model_served=_some_text(row[6]),
        requests=int(row[REQUESTS] or 0),
        usage=TokenUsage(*(int(value or 0) for value in row[8:PROVENANCE])),
        provenance=Provenance(str(row[PROVENANCE])),
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


def amount(value: int) -> int:
    """``value`` as every reader of JSON can take it, and not negative."""
    return min(max(value, 0), MAX_INTEGER)


def _some_text(value: str | int | None) -> str | None:
    return None if value is None else str(value)


def _some_amount(value: str | int | None) -> int | None:
    return None if value is None else int(value)
