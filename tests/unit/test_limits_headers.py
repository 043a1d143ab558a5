from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from sentinel_extproc.limits.headers import duration, limit_headers
from sentinel_extproc.limits.model import LimitState, Unit


def state(
    name: str,
    unit: Unit,
    limit: int,
    remaining: int,
    reset_s: float = 1.0,
    *,
    shadow: bool = False,
) -> LimitState:
    return LimitState(name, unit, limit, remaining, reset_s, shadow=shadow)


def test_no_limits_no_headers() -> None:
    assert limit_headers(()) == {}


def test_the_tightest_limit_speaks_and_openai_s_forms_go_by_unit() -> None:
    headers = limit_headers(
        (
            state("requests", Unit.REQUESTS, 100, 99, 59.2),
            state("in", Unit.INPUT, 1_000, 900, 6.0),
            state("total", Unit.TOTAL, 10_000, 1_000, 366.0),
            state("spend", Unit.COST, 50_000_000, 10_000_000, math.inf),
        )
    )
    assert headers == {
        "x-ratelimit-limit": "10000",
        "x-ratelimit-remaining": "1000",
        "x-ratelimit-reset": "366",
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "99",
        "x-ratelimit-reset-requests": "59.2s",
        "x-ratelimit-limit-tokens": "10000",
        "x-ratelimit-remaining-tokens": "1000",
        "x-ratelimit-reset-tokens": "6m6s",
    }


def test_a_limit_that_never_resets_says_nothing_of_it() -> None:
    headers = limit_headers((state("life", Unit.REQUESTS, 10, 0, math.inf),))
    assert headers == {
        "x-ratelimit-limit": "10",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "0",
    }


def test_what_may_run_at_once_is_no_pace_and_has_a_form_of_its_own() -> None:
    at_once = [
        replace(state(name, Unit.REQUESTS, limit, left, math.inf), at_once=True)
        for name, limit, left in (("streams", 3, 1), ("realtime", 2, 1), ("all", 50, 40))
    ]
    assert limit_headers((state("requests", Unit.REQUESTS, 100, 50, 7.0), *at_once)) == {
        "x-ratelimit-limit": "100",
        "x-ratelimit-remaining": "50",
        "x-ratelimit-reset": "7",
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "50",
        "x-ratelimit-reset-requests": "7s",
        "x-ratelimit-limit-concurrent": "2",
        "x-ratelimit-remaining-concurrent": "1",
    }
    assert limit_headers([replace(one, shadow=True) for one in at_once]) == {}


def test_shadow_limits_are_not_shown_and_a_limit_of_nothing_is_the_tightest() -> None:
    headers = limit_headers(
        (
            state("shadow", Unit.REQUESTS, 10, 0, shadow=True),
            state("some", Unit.INPUT, 10, 1),
            state("none", Unit.INPUT, 0, 0),
        )
    )
    assert headers["x-ratelimit-limit"] == "0"
    assert "x-ratelimit-limit-requests" not in headers


@pytest.mark.parametrize("rung", ["local", "allow"])
def test_degraded_service_is_told(rung: str) -> None:
    assert limit_headers((), degraded=rung) == {"x-sentinel-degraded": rung}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (7.5, "7.5s"),
        (59.9999, "1m0s"),
        (360, "6m0s"),
        (7_380, "2h3m0s"),
        (86_400, "24h0m0s"),
    ],
)
def test_durations_read_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
