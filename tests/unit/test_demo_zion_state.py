"""The stand-in Zion's rules, without HTTP."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sentinel_extproc.demo.zion_state import RowError, ZionState, ZionUser, period

ADA = ZionUser("t-ada", "u1", "ext-1", "ada@example.com", "Ada", requests=2)
NOW = datetime(2026, 12, 16, 13, 14, 15, tzinfo=UTC)  # a Wednesday


def state(*, per_metric: bool = False, deduplicate: bool = True) -> ZionState:
    return ZionState(users=[ADA], per_metric=per_metric, deduplicate=deduplicate)


def item(**fields: object) -> dict[str, object]:
    return {
        "email": "ada@example.com",
        "externalId": "ext-1",
        "aiInputTokens": 3,
        "aiOutputTokens": 5,
        "aiRequests": 1,
        "model": "gpt-4o",
        "idempotencyKey": "k1",
    } | fields


def test_a_profile_leaves_out_what_is_not_there() -> None:
    bare = ZionUser("t", "u2", None, "x@example.com")
    assert "externalId" not in state().profile(bare)
    assert state().profile(ADA)["externalId"] == "ext-1"


@pytest.mark.parametrize(("deduplicate", "applied"), [(True, 1), (False, 2)])
def test_a_repeated_key_counts_once_only_when_told(deduplicate: bool, applied: int) -> None:
    zion = state(deduplicate=deduplicate)
    results = [zion.result(item(), batch_key=key) for key in ("b1", "b2")]
    assert [result["success"] for result in results] == [True, True]
    assert len(zion.entries) == applied
    assert zion.duplicates == 1
    assert zion.metrics(ADA)["aiInputTokens"]["used"] == 3 * applied


def test_usage_is_recorded_past_the_cap_and_remaining_goes_negative() -> None:
    zion = state()
    zion.apply(item(aiRequests=5), batch_key=None)
    assert zion.metrics(ADA)["aiRequests"] == {"limit": 2, "used": 5, "remaining": -3}


@pytest.mark.parametrize(
    "bad",
    [
        item(email="nobody@example.com"),
        item(email=None),
        item(aiInputTokens=-1),
        item(aiInputTokens=1.5),
        item(aiInputTokens=True),
        {"email": "ada@example.com"},
        "text",
    ],
)
def test_a_bad_row_fails_alone_and_changes_nothing(bad: object) -> None:
    zion = state()
    assert zion.result(bad, batch_key=None)["success"] is False
    assert zion.result(item(), batch_key=None)["success"] is True
    assert len(zion.entries) == 1


def test_a_batch_row_reports_only_the_metrics_it_changed() -> None:
    row = {"email": "ada@example.com", "aiRequests": 1}
    assert state().result(row, batch_key=None) == {
        "email": "ada@example.com",
        "limitName": "ai_usage",
        "success": True,
        "aiRequests": {"newValue": 1, "limit": 2},
    }


def test_the_older_dialect_takes_one_metric_per_item() -> None:
    zion = state(per_metric=True)
    row = {"externalId": "ext-1", "limitName": "ai_input_tokens", "amount": 7}
    assert zion.result(row, batch_key=None) == {
        "externalId": "ext-1",
        "limitName": "ai_input_tokens",
        "success": True,
        "newValue": 7,
        "limit": 1_000_000,
    }
    names = {limit["name"]: limit["used"] for limit in zion.limits(ADA, now=NOW)["limits"]}
    assert names == {"ai_input_tokens": 7, "ai_output_tokens": 0, "ai_requests": 0}
    with pytest.raises(RowError, match="limitName"):
        zion.apply(row | {"limitName": "other"}, batch_key=None)


@pytest.mark.parametrize(
    ("kind", "start", "end"),
    [
        ("DAILY", (2026, 12, 16), (2026, 12, 17)),
        ("WEEKLY", (2026, 12, 14), (2026, 12, 21)),
        ("MONTHLY", (2026, 12, 1), (2027, 1, 1)),
    ],
)
def test_periods_start_at_midnight_utc(
    kind: str, start: tuple[int, int, int], end: tuple[int, int, int]
) -> None:
    assert period(kind, NOW) == (datetime(*start, tzinfo=UTC), datetime(*end, tzinfo=UTC))


@pytest.mark.parametrize("kind", ["NEVER", None])
def test_no_period_without_resets(kind: str | None) -> None:
    assert period(kind, NOW) == (None, None)
    limits = state().limits(ZionUser("t", "u", "e", "m", reset_period=kind), now=NOW)["limits"]
    assert "periodStart" not in limits[0]
