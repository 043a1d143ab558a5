"""Zion's bodies: both dialects of limits become one shape, and what doesn't fit is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from sentinel_extproc.zion.wire import (
    Dialect,
    MalformedError,
    Metric,
    ResetPeriod,
    decode_limits,
    decode_profile,
)


def wrapped(data: object) -> bytes:
    return json.dumps({"success": True, "data": data}).encode()


PROFILE = {
    "id": "u1",
    "email": "a@example.org",
    "name": "A",
    "externalId": "ext-1",
    "emailVerified": True,
    "createdAt": "2026-01-01T00:00:00Z",
    "lastLoginAt": None,
}


def test_profile() -> None:
    profile = decode_profile(wrapped(PROFILE))
    assert (profile.id, profile.email, profile.external_id) == ("u1", "a@example.org", "ext-1")
    assert profile.email_verified


def test_profile_without_external_id_is_read_and_left_to_be_judged() -> None:
    without = {key: value for key, value in PROFILE.items() if key != "externalId"}
    assert decode_profile(wrapped(without)).external_id is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"success": true}',
        b'{"success": true, "data": null}',
        b'{"success": false, "data": {"id": "u1"}}',
        b'{"success": "yes", "data": {"id": "u1"}}',
        b'{"success": true, "data": []}',
        b'{"success": true, "data": {"id": 7}}',
        b'{"success": true, "data": {"id": "u1", "externalId": 5}}',
        b'{"success": true, "data": {"id": "\xff"}}',
        b'{"success": true, "data": {"id": "u1"}',
        b'{"success": true, "data": {"id": "u1", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}}",
        b"<html>502 Bad Gateway</html>",
    ],
)
def test_a_body_that_is_no_profile_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_profile(body)


def test_unified_limits_become_a_quota_per_metric() -> None:
    limits = decode_limits(
        Dialect.UNIFIED,
        wrapped(
            {
                "userId": "u1",
                "externalId": "ext-1",
                "limits": [
                    {
                        "name": "pro",
                        "displayName": "Pro",
                        "aiInputTokens": {"limit": 100, "used": 130, "remaining": -30},
                        "aiOutputTokens": {"limit": 50, "used": 0, "remaining": 50},
                        "aiRequests": {"limit": 10, "used": 1, "remaining": 9},
                        "resetPeriod": "MONTHLY",
                        "periodStart": "2026-01-01T00:00:00.000Z",
                        "periodEnd": "2026-02-01T00:00:00.000Z",
                    }
                ],
            }
        ),
    )
    assert [(q.metric, q.limit, q.used, q.remaining) for q in limits.quotas] == [
        (Metric.INPUT_TOKENS, 100, 130, -30),
        (Metric.OUTPUT_TOKENS, 50, 0, 50),
        (Metric.REQUESTS, 10, 1, 9),
    ]
    first = limits.quotas[0]
    assert first.resets is ResetPeriod.MONTHLY
    assert first.period_start == datetime(2026, 1, 1, tzinfo=UTC)
    assert first.period_end == datetime(2026, 2, 1, tzinfo=UTC)


FLAT = [
    {"limitId": "1", "name": "ai_input_tokens", "limit": 100, "used": 1, "remaining": 99},
    {"limitId": "2", "name": "ai_requests", "limit": 5, "used": 0, "remaining": 5},
]


@pytest.mark.parametrize("data", [FLAT, {"limits": FLAT, "userId": "u1", "externalId": "e"}])
def test_per_metric_limits_come_flat_or_in_a_list_of_limits(data: object) -> None:
    quotas = decode_limits(Dialect.PER_METRIC, wrapped(data)).quotas
    assert [(q.metric, q.limit, q.remaining, q.resets) for q in quotas] == [
        (Metric.INPUT_TOKENS, 100, 99, None),
        (Metric.REQUESTS, 5, 5, None),
    ]


@pytest.mark.parametrize(
    ("dialect", "data"),
    [
        (Dialect.UNIFIED, {"limits": [{"name": "pro", "resetPeriod": "FORTNIGHTLY"}]}),
        (Dialect.UNIFIED, {"limits": [{"name": "p", "aiRequests": {"limit": "many"}}]}),
        (Dialect.UNIFIED, {"limits": [{"name": "p", "periodEnd": "tomorrow"}]}),
        (Dialect.UNIFIED, {"limits": None}),
        (Dialect.PER_METRIC, [{"name": "ai_wishes", "limit": 1, "used": 0, "remaining": 1}]),
        (Dialect.PER_METRIC, [{"name": "ai_requests", "limit": 1.5, "used": 0, "remaining": 1}]),
    ],
)
def test_limits_that_can_not_be_understood_are_malformed_not_skipped(
    dialect: Dialect, data: object
) -> None:
    with pytest.raises(MalformedError):
        decode_limits(dialect, wrapped(data))
