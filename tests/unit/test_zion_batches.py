"""Batches: what is sent per dialect, and which row of an answer is believed to be whose."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel_extproc.zion.batches import (
    MAX_BATCH,
    RowOutcome,
    UsageIncrement,
    decode_rows,
    encode_batch,
)
from sentinel_extproc.zion.wire import Dialect, MalformedError


def increment(key: str = "k1", user: str = "a", **changes: Any) -> UsageIncrement:
    values: dict[str, Any] = {
        "idempotency_key": key,
        "external_id": f"ext-{user}",
        "email": f"{user}@example.org",
        "model": "gpt-4o",
        "input_tokens": 10,
        "output_tokens": 5,
        "requests": 1,
        "occurred_at_ms": 1_767_225_600_123,
    }
    return UsageIncrement(**{**values, **changes})


def answer(*rows: dict[str, Any]) -> bytes:
    failed = sum(not row.get("success") for row in rows)
    data = {"processed": len(rows) - failed, "failed": failed, "results": list(rows)}
    return json.dumps({"success": True, "data": data}).encode()


def row(user: str, *, success: bool = True, **more: Any) -> dict[str, Any]:
    return {"email": f"{user}@example.org", "success": success, **more}


def test_unified_item() -> None:
    batch = encode_batch(Dialect.UNIFIED, [increment(output_tokens=0)])
    assert json.loads(batch.body) == {
        "increments": [
            {
                "email": "a@example.org",
                "externalId": "ext-a",
                "idempotencyKey": "k1",
                "timestamp": "2026-01-01T00:00:00.123Z",
                "model": "gpt-4o",
                "aiInputTokens": 10,
                "aiRequests": 1,
            }
        ]
    }


def test_per_metric_item_for_every_metric_with_a_key_of_its_own() -> None:
    batch = encode_batch(Dialect.PER_METRIC, [increment(output_tokens=0), increment("k2", "b")])
    items = json.loads(batch.body)["increments"]
    assert [(i["externalId"], i["limitName"], i["amount"]) for i in items] == [
        ("ext-a", "ai_input_tokens", 10),
        ("ext-a", "ai_requests", 1),
        ("ext-b", "ai_input_tokens", 10),
        ("ext-b", "ai_output_tokens", 5),
        ("ext-b", "ai_requests", 1),
    ]
    keys = [item["idempotencyKey"] for item in items]
    assert len(set(keys)) == 5
    assert all(key.startswith(("k1:", "k2:")) for key in keys)


def test_per_metric_item_of_one_metric_keeps_the_key() -> None:
    batch = encode_batch(Dialect.PER_METRIC, [increment(output_tokens=0, requests=0)])
    assert json.loads(batch.body)["increments"] == [
        {
            "externalId": "ext-a",
            "limitName": "ai_input_tokens",
            "amount": 10,
            "idempotencyKey": "k1",
        }
    ]


@pytest.mark.parametrize("count", [0, MAX_BATCH + 1])
def test_a_batch_zion_would_refuse_is_not_made(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 1000"):
        encode_batch(Dialect.UNIFIED, [increment(str(n)) for n in range(count)])


def outcomes(users: str, *rows: dict[str, Any]) -> str:
    """``R`` recorded, ``x`` refused, ``?`` unknown, per increment."""
    batch = encode_batch(
        Dialect.UNIFIED, [increment(f"k{n}", user) for n, user in enumerate(users)]
    )
    letters = {RowOutcome.RECORDED: "R", RowOutcome.REFUSED: "x", RowOutcome.UNKNOWN: "?"}
    return "".join(letters[result.outcome] for result in decode_rows(batch, answer(*rows)))


def test_rows_in_order_are_matched_by_position() -> None:
    assert outcomes("ab", row("a"), row("b", success=False)) == "Rx"
    assert outcomes("aab", row("a"), row("a", success=False), row("b")) == "RxR"


def test_emails_are_compared_without_case() -> None:
    assert outcomes("a", {"email": "A@Example.org", "success": True}) == "R"


def test_shuffled_rows_are_matched_only_where_the_user_is_alone() -> None:
    assert outcomes("abc", row("c"), row("a", success=False), row("b")) == "xRR"
    # Which of a's rows failed can't be told, so neither is believed.
    assert outcomes("aab", row("b"), row("a"), row("a", success=False)) == "??R"


def test_missing_rows_are_not_acknowledged() -> None:
    assert outcomes("abc", row("a"), row("c")) == "R?R"
    assert outcomes("aab", row("a"), row("b")) == "??R"
    assert outcomes("ab") == "??"


def test_surplus_rows_change_nothing_for_those_that_are_clear() -> None:
    assert outcomes("ab", row("a"), row("z"), row("b")) == "RR"
    assert outcomes("a", row("a"), row("a", success=False)) == "?"


def test_rows_without_a_user_are_not_acknowledged() -> None:
    assert outcomes("ab", {"success": True}, {"success": True}) == "??"


def test_a_row_of_another_external_id_is_not_its_own() -> None:
    assert outcomes("a", row("a", externalId="ext-z")) == "?"
    assert outcomes("a", row("a", externalId="ext-a")) == "R"


def test_refusals_carry_zions_reason_cut() -> None:
    batch = encode_batch(Dialect.UNIFIED, [increment(), increment("k2", "b")])
    first, second = decode_rows(
        batch,
        answer(
            row("a", success=False, error="x" * 1000),
            row("b", success=False, error={"code": "NO_PLAN"}),
        ),
    )
    assert first.error == "x" * 200
    assert second.error == '{"code":"NO_PLAN"}'


METRIC_ROWS = [
    {"externalId": "ext-a", "limitName": "ai_input_tokens", "success": True},
    {"externalId": "ext-a", "limitName": "ai_output_tokens", "success": True},
    {"externalId": "ext-a", "limitName": "ai_requests", "success": True},
]


def metric_outcome(rows: list[dict[str, Any]]) -> RowOutcome:
    batch = encode_batch(Dialect.PER_METRIC, [increment()])
    return decode_rows(batch, answer(*rows))[0].outcome


def test_per_metric_increment_is_recorded_when_every_metric_is() -> None:
    assert metric_outcome(METRIC_ROWS) is RowOutcome.RECORDED
    refused = [{**metric_row, "success": False} for metric_row in METRIC_ROWS]
    assert metric_outcome(refused) is RowOutcome.REFUSED
    assert metric_outcome([*METRIC_ROWS[:2], refused[2]]) is RowOutcome.UNKNOWN
    assert metric_outcome(METRIC_ROWS[:2]) is RowOutcome.UNKNOWN


def test_per_metric_rows_are_matched_by_external_id_when_shuffled() -> None:
    assert metric_outcome(METRIC_ROWS[::-1]) is RowOutcome.RECORDED


def test_per_metric_rows_of_the_wrong_metric_are_not_its_own() -> None:
    assert metric_outcome([METRIC_ROWS[0], METRIC_ROWS[0], METRIC_ROWS[2]]) is RowOutcome.UNKNOWN


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        answer({"email": "a@example.org"}),
        b'{"success": true, "data": {"results": 5}}',
    ],
)
def test_an_answer_without_rows_is_malformed(body: bytes) -> None:
    batch = encode_batch(Dialect.UNIFIED, [increment()])
    with pytest.raises(MalformedError):
        decode_rows(batch, body)
