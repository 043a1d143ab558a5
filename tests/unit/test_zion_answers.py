"""What a status means, per call, and Retry-After in both forms."""

from __future__ import annotations

import copy

import pytest

from sentinel_extproc.errors import Forbidden, SentinelError, Unauthenticated, Unavailable
from sentinel_extproc.zion.answers import (
    FAULTS,
    BatchRefusedError,
    Call,
    Reason,
    ZionUnavailable,
    failure,
    own_key_refused,
    retry_after,
)

NOW = 1_767_225_600.0  # Thu, 01 Jan 2026 00:00:00 GMT


@pytest.mark.parametrize(
    ("call", "status", "kind", "code"),
    [
        (Call.WHOAMI, 401, Unauthenticated, "invalid_api_key"),
        (Call.WHOAMI, 403, Forbidden, "forbidden"),
        (Call.WHOAMI, 404, Unavailable, "identity_unavailable"),
        (Call.LIMITS, 404, Forbidden, "user_not_found"),
        (Call.LIMITS, 403, Forbidden, "forbidden"),
        # Our own key refused: nothing that the user did, and nothing to tell him.
        (Call.LIMITS, 401, Unavailable, "identity_unavailable"),
        (Call.REPORT, 401, Unavailable, "identity_unavailable"),
        *[
            (call, status, Unavailable, "identity_unavailable")
            for call in Call
            for status in (302, 418, 429, 500, 502, 503, 504, 599)
        ],
    ],
)
def test_status_mapping(call: Call, status: int, kind: type[SentinelError], code: str) -> None:
    error = failure(call, status, None, NOW)
    assert isinstance(error, kind)
    assert error.code == code
    assert error.status != 500


@pytest.mark.parametrize(
    ("call", "status", "refused"),
    [
        (Call.LIMITS, 401, True),
        (Call.REPORT, 401, True),
        (Call.REPORT, 403, True),
        (Call.LIMITS, 403, None),  # the user, perhaps
        (Call.LIMITS, 200, False),
        (Call.LIMITS, 404, False),
        (Call.REPORT, 200, False),
        (Call.REPORT, 422, False),
        *[(Call.WHOAMI, status, None) for status in (200, 401, 403)],
        *[(call, status, None) for call in Call for status in (101, 302, 429, 500, 503)],
    ],
)
def test_what_a_status_says_about_our_own_key(
    call: Call, status: int, refused: bool | None
) -> None:
    assert own_key_refused(call, status) is refused


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_batch_refused_whole(status: int) -> None:
    error = failure(Call.REPORT, status, None, NOW)
    assert isinstance(error, BatchRefusedError)
    assert error.status == status


@pytest.mark.parametrize(
    ("status", "reason", "ambiguous"),
    [
        (429, Reason.RATE_LIMITED, False),
        (401, Reason.REJECTED, False),
        (503, Reason.STATUS, False),
        (500, Reason.STATUS, True),
        (502, Reason.STATUS, True),
        (504, Reason.STATUS, True),
        (302, Reason.STATUS, True),
    ],
)
def test_what_a_report_may_have_done_and_what_counts_against_health(
    status: int, reason: Reason, ambiguous: bool
) -> None:
    error = failure(Call.REPORT, status, None, NOW)
    assert isinstance(error, ZionUnavailable)
    assert error.reason is reason
    assert error.ambiguous is ambiguous
    assert (error.reason in FAULTS) is (reason is Reason.STATUS)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("60", 60.0),
        ("61", 60.0),
        ("9" * 5000, 60.0),
        ("²", None),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 01:00:30 +0100", 30.0),
        ("Thu, 01 Jan 2026 09:00:00 GMT", 60.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("Thu, 99 Jan 2026 00:00:30 GMT", None),
        ("Fri, 31 Dec 9999 23:59:60 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


def test_retry_after_reaches_the_client() -> None:
    error = failure(Call.WHOAMI, 429, "17", NOW)
    assert isinstance(error, Unavailable)
    assert error.headers()["retry-after"] == "17"


def test_copies_keep_everything() -> None:
    error = ZionUnavailable("m", reason=Reason.TIMEOUT, ambiguous=True, detail="d", retry_after_s=7)
    twin = copy.copy(error)
    assert twin is not error
    assert (twin.message, twin.reason, twin.ambiguous, twin.detail, twin.retry_after_s) == (
        "m",
        Reason.TIMEOUT,
        True,
        "d",
        7,
    )
