"""What the ledger's commands write: harmless text, exact money, FOCUS' columns, and filters."""

from __future__ import annotations

import csv
import dataclasses
import io
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sentinel_extproc.safe_text import for_csv, for_terminal
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage_cli.columns import (
    Delivery,
    Entry,
    csv_cells,
    delivery,
    focus,
    headings,
    iso,
    money,
    plain,
)
from sentinel_extproc.usage_cli.filters import moment_ms

RECORD = UsageRecord(
    id="r1",
    occurred_at_ms=1_795_466_701_909,
    external_id="ext-ada",
    email="ada@example.com",
    endpoint="chat.completions",
    model_requested="gpt-4o",
    model_served="gpt-4o-2024-08-06",
    requests=1,
    usage=TokenUsage(10, 20, cached_input_tokens=3),
    provenance=Provenance.PROVIDER,
    outcome=Outcome.COMPLETED,
    cost_nanos=1_500_000,
    currency="USD",
    request_id="req-1",
)
ENTRY = Entry(7, "sidecar-1", RECORD, Delivery.BILLED, ("key-1",))
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gpt-4o", "gpt-4o"),
        ("Grüße 世界", "Grüße 世界"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m", "\\x9b31m"),
        ("a\r\nb\tc\x7f", "a\\r\\nb\\tc\\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066x\u2028", "\\u2066x\\u2028"),
    ],
)
def test_what_isn_t_visible_is_spelt_out(text: str, shown: str) -> None:
    assert for_terminal(text) == shown


@given(st.text())
def test_nothing_reaches_a_terminal_but_what_can_be_seen(text: str) -> None:
    shown = for_terminal(text)
    assert all(unicodedata.category(char)[0] != "C" for char in shown)
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r", "  =", "＝", "－"])
def test_no_cell_is_a_formula(start: str) -> None:
    assert for_csv(f"{start}cmd|'/c calc'!A1").startswith("'")


@given(st.text())
def test_no_text_makes_a_second_cell_or_line(text: str) -> None:
    out = io.StringIO()
    named = replace(RECORD, model_requested=text, model_served=None)
    entry = dataclasses.replace(ENTRY, record=named)
    csv.writer(out).writerow(csv_cells(plain(entry)))
    [row] = list(csv.reader(io.StringIO(out.getvalue(), newline="")))
    cell = row[headings(plain).index("model_requested")]
    assert len(row) == len(headings(plain))
    assert cell in (for_terminal(text), "'" + for_terminal(text))
    assert cell[:1] not in tuple("=+-@")


def test_numbers_are_never_made_text() -> None:
    assert csv_cells({"a": -1, "b": None, "c": ["x", "=y"]}) == [-1, "", "x =y"]


@pytest.mark.parametrize(
    ("nanos", "shown"),
    [
        (None, None),
        (0, "0"),
        (1, "0.000000001"),
        (1_500_000_000, "1.5"),
        (10**10, "10"),
        (2**53 - 1, "9007199.254740991"),
    ],
)
def test_money(nanos: int | None, shown: str | None) -> None:
    assert money(nanos) == shown


def test_focus_columns() -> None:
    row = focus(ENTRY)
    assert row["BilledCost"] == "0.0015"
    assert (row["BillingAccountId"], row["BillingCurrency"]) == ("ext-ada", "USD")
    assert row["ChargePeriodStart"] == "2026-11-23T20:00:00Z"
    assert row["ChargePeriodEnd"] == "2026-11-23T21:00:00Z"
    assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == (
        "2026-11-01T00:00:00Z",
        "2026-12-01T00:00:00Z",
    )
    assert (row["ConsumedQuantity"], row["ConsumedUnit"]) == (30, "Tokens")
    assert (row["ServiceName"], row["ResourceId"]) == ("chat.completions", "gpt-4o-2024-08-06")
    assert row["Tags"] == '{"provenance":"provider","outcome":"completed"}'
    assert (row["x_InputTokens"], row["x_OutputTokens"], row["x_CachedInputTokens"]) == (10, 20, 3)


def test_without_a_price_there_is_no_cost_in_focus_not_0() -> None:
    row = focus(dataclasses.replace(ENTRY, record=replace(RECORD, cost_nanos=None)))
    assert row["BilledCost"] is None


@given(st.integers(0, 2**53 - 1))
def test_any_time_can_be_shown(moment: int) -> None:
    assert iso(moment).endswith("Z")
    focus(dataclasses.replace(ENTRY, record=replace(RECORD, occurred_at_ms=moment)))


@pytest.mark.parametrize(
    ("sealed", "states", "outcome", "expected"),
    [
        (False, set(), Outcome.COMPLETED, Delivery.UNSEALED),
        (True, {"done"}, Outcome.COMPLETED, Delivery.BILLED),
        (True, {"done", "handed"}, Outcome.COMPLETED, Delivery.HANDED),
        (True, {"done", "dead", "ready"}, Outcome.COMPLETED, Delivery.DEAD),
        (True, {"done", "sent"}, Outcome.COMPLETED, Delivery.SENT),
        (True, {"streamed"}, Outcome.COMPLETED, Delivery.SENT),
        (True, set(), Outcome.PROVIDER_ERROR, Delivery.NOTHING),
        (False, set(), Outcome.UNKNOWN, Delivery.UNKNOWN),
    ],
)
def test_delivery(sealed: bool, states: set[str], outcome: Outcome, expected: Delivery) -> None:
    record = replace(RECORD, outcome=outcome)
    assert delivery(record, sealed=sealed, item_states=frozenset(states)) is expected


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23", datetime(2026, 11, 23, tzinfo=UTC)),
        ("2026-11-23T10:00", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        ("2026-11-23T10:00+02:00", datetime(2026, 11, 23, 8, tzinfo=UTC)),
        ("2026-11-23T10:00Z", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        ("90m", datetime(2026, 11, 23, 10, 30, tzinfo=UTC)),
        ("2d", datetime(2026, 11, 21, 12, tzinfo=UTC)),
    ],
)
def test_times(text: str, moment: datetime) -> None:
    assert moment_ms(text, now=NOW) == int(moment.timestamp() * 1000)


@pytest.mark.parametrize("text", ["", "yesterday", "5", "5y", "-1d", "999999w"])
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        moment_ms(text, now=NOW)
