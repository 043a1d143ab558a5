from __future__ import annotations

import json
import math

import pytest
from msgspec.structs import replace

from sentinel_extproc.errors import InvalidRequest, PromptTooLarge
from sentinel_extproc.limits.claims import (
    build_claim,
    covered,
    limit_states,
    quota_limit,
    refusal,
    retaken,
    right_sized,
    seeded,
)
from sentinel_extproc.limits.cost import CelCost
from sentinel_extproc.limits.limit import MOST, Kind, Limit, OnExhausted, OnOutage, Period, amount
from sentinel_extproc.limits.model import (
    Quantities,
    Quota,
    QuotaPeriod,
    ReserveRequest,
    Subject,
    Unit,
)
from sentinel_extproc.limits.store import Claim, Decision, LineVerdict, Seed, Verdict

REQUEST = ReserveRequest(
    "x1", Subject("user-1", "/v1/chat/completions", "chat", "gpt-4o"), Quantities(1, 200, 800, 50)
)


def limit(unit: Unit = Unit.TOTAL, capacity: int = 1_000, **more: object) -> Limit:
    values: dict[str, object] = {
        "name": unit.value,
        "unit": unit,
        "kind": Kind.RING,
        "capacity": capacity,
    }
    return Limit(**(values | more))  # type: ignore[arg-type]


def claim(*limits: Limit, asked: Quantities | None = None) -> Claim:
    return build_claim(REQUEST, limits, (), asked if asked is not None else REQUEST.predicted)


def denied(the_claim: Claim, *answers: tuple[bool, int, int]) -> Verdict:
    lines = tuple(LineVerdict(fits, left, 5_000, wait) for fits, left, wait in answers)
    assert len(lines) == len(the_claim.lines)
    return Verdict(Decision.DENIED, 0, lines)


@pytest.mark.parametrize(
    ("unit", "taken"),
    [(Unit.REQUESTS, 1), (Unit.INPUT, 200), (Unit.OUTPUT, 800), (Unit.TOTAL, 1_000)],
)
def test_each_unit_takes_its_own_part(unit: Unit, taken: int) -> None:
    assert amount(limit(unit), REQUEST.predicted, "m") == taken


def test_amounts_stay_within_exact_numbers() -> None:
    huge = Quantities(1, 10**30, -5)
    assert amount(limit(Unit.TOTAL), huge, "m") == MOST
    assert amount(limit(Unit.OUTPUT), huge, "m") == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a\r\nb"},
        {"name": "x" * 65},
        {"capacity": -1},
        {"capacity": 2**50 + 1},
        {"period_ms": 99},
        {"period_ms": 401 * 86_400_000},
        {"burst": 5},
        {"unit": Unit.COST},
        {"cost": CelCost("1.0")},
        {"kind": Kind.BUCKET, "capacity": 0},
        {"kind": Kind.CONCURRENCY},
        {"kind": Kind.CONCURRENCY, "unit": Unit.REQUESTS, "burst": 5},
        {"kind": Kind.BUCKET, "burst": 0},
        {"kind": Kind.BUCKET, "capacity": 2**40, "period_ms": 3_600_000},
    ],
    ids=str,
)
def test_values_that_make_no_limit_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="limit"):
        limit(**{"name": "ok", **bad})  # type: ignore[arg-type]


def test_output_beyond_the_capacity_is_not_asked_for() -> None:
    asked = replace(REQUEST.predicted, output_tokens=5_000)
    assert [line.amount for line in claim(limit(), limit(Unit.OUTPUT), asked=asked).lines] == [
        1_000,
        1_000,
    ]


def test_a_prompt_beyond_the_capacity_is_a_permanent_error() -> None:
    with pytest.raises(PromptTooLarge, match="never allows more than 199 input tokens") as caught:
        claim(limit(Unit.INPUT, 199))
    assert caught.value.status == 400
    assert caught.value.details == {
        "limit_name": "input_tokens",
        "unit": "input_tokens",
        "predicted": 200,
        "limit": 199,
    }
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize(
    "harmless",
    [limit(Unit.INPUT, 199, shadow=True), limit(Unit.INPUT, 0), limit(Unit.REQUESTS, 0)],
    ids=["shadow", "nothing allowed", "no requests"],
)
def test_only_an_enforced_capacity_can_be_exceeded_for_good(harmless: Limit) -> None:
    assert claim(harmless).lines[0].amount > 0


def test_a_cost_without_a_price_is_a_bad_request_not_a_crash() -> None:
    with pytest.raises(InvalidRequest, match="no price"):
        claim(limit(Unit.COST, 10, cost=CelCost("input_tokens * price.input")))


def test_counts_per_model_have_keys_that_the_client_s_text_cannot_shape() -> None:
    plain, hashed = limit(), limit(per_model=True, name="per-model")
    keys = [line.key for line in claim(plain, hashed).lines]
    assert keys[0] == "ring:total_tokens"
    assert keys[1].startswith("ring:per-model:")
    other = replace(REQUEST, subject=replace(REQUEST.subject, model="}{\r\n"))
    key = build_claim(other, (hashed,), (), REQUEST.predicted).lines[0].key
    assert key != keys[1]
    assert key.isascii()
    assert not set(key) & set("{}\r\n")


def test_a_claim_belongs_to_its_user_alone() -> None:
    other = replace(REQUEST, subject=replace(REQUEST.subject, external_id="user-2"))
    owners = {
        build_claim(request, (limit(),), (), REQUEST.predicted).owner
        for request in (REQUEST, other)
    }
    assert len(owners) == 2
    assert not any("user" in owner for owner in owners)


def test_a_quota_of_zion_is_a_calendar_limit() -> None:
    quota = Quota("Pro plan/ai_input", Unit.INPUT, -5, -7, QuotaPeriod.WEEKLY, 42)
    made = quota_limit(
        quota, on_outage=OnOutage.DENY, on_exhausted=OnExhausted.CUT, right_size=True
    )
    assert (made.name, made.capacity, made.period) == ("Pro-plan-ai_input", 0, Period.WEEK)
    assert (made.on_outage, made.on_exhausted, made.right_size) == (
        OnOutage.DENY,
        OnExhausted.CUT,
        True,
    )
    assert seeded(quota) == Seed(0, 42)
    for name in ("", "-x", "ü", "x" * 99):
        odd = replace(quota, name=name)
        quota_limit(odd, on_outage=OnOutage.LOCAL, on_exhausted=OnExhausted.CUT, right_size=False)


def test_a_refusal_names_the_limit_that_takes_longest() -> None:
    the_claim = claim(limit(Unit.REQUESTS, 5, period_ms=1_000), limit(), limit(Unit.INPUT))
    verdict = denied(the_claim, (False, 0, 900), (False, 300, 12_300), (True, 1_000, 0))
    error = refusal(the_claim, verdict)
    assert str(error) == (
        "Limit 'total_tokens' allows 1,000 total tokens per 60 s; this request needs 1,000, "
        "and 300 are left. Try again in 12.3 s."
    )
    assert json.loads(error.body())["sentinel"] == {
        "limit_name": "total_tokens",
        "unit": "total_tokens",
        "predicted": 1_000,
        "remaining": 300,
        "limit": 1_000,
        "reset_s": 5.0,
    }
    assert error.headers()["retry-after"] == "13"
    assert error.headers()["x-ratelimit-remaining-tokens"] == "300"
    assert "x-should-retry" not in error.headers()
    assert error.code == "rate_limit_exceeded"


def test_a_used_up_quota_says_that_waiting_is_long_or_useless() -> None:
    month = limit(kind=Kind.CALENDAR, period=Period.MONTH)
    error = refusal(claim(month), denied(claim(month), (False, 0, 86_400_000)))
    assert error.code == "insufficient_quota"
    assert error.headers()["retry-after"] == "86400"
    assert error.headers()["x-should-retry"] == "false"
    assert "per month" in str(error)

    life = limit(kind=Kind.CALENDAR, period=Period.LIFETIME)
    error = refusal(claim(life), Verdict(Decision.DENIED, 0, (LineVerdict(False, 0, -1, -1),)))
    assert "retry-after" not in error.headers()
    assert error.details["reset_s"] is None
    assert "It does not reset" in str(error)
    json.loads(error.body())


def test_too_many_at_once_is_said_as_such() -> None:
    streams = limit(Unit.REQUESTS, 3, name="streams", kind=Kind.CONCURRENCY)
    pace = limit(Unit.REQUESTS, 100)
    the_claim = claim(streams, pace)
    lines = (LineVerdict(False, 0, -1, 9_400), LineVerdict(True, 60, 5_000, 0))
    error = refusal(the_claim, Verdict(Decision.DENIED, 0, lines))
    assert str(error) == (
        "Limit 'streams' allows 3 requests at once; wait for one to end. Try again in 9.4 s."
    )
    assert (error.status, error.code) == (429, "too_many_at_once")
    headers = error.headers()
    assert (headers["retry-after"], headers["x-sentinel-error"]) == ("10", "too_many_at_once")
    assert headers["x-ratelimit-remaining-concurrent"] == "0"
    assert headers["x-ratelimit-remaining-requests"] == "60"
    assert error.details == {
        "limit_name": "streams",
        "unit": "requests",
        "predicted": 1,
        "remaining": 0,
        "limit": 3,
        "reset_s": None,
    }
    closed = claim(limit(Unit.REQUESTS, 0, name="closed", kind=Kind.CONCURRENCY))
    error = refusal(closed, Verdict(Decision.DENIED, 0, (LineVerdict(False, 0, 0, -1),)))
    assert str(error) == "Limit 'closed' allows 0 requests at once."
    assert "retry-after" not in error.headers()


def test_money_is_shown_in_its_own_unit() -> None:
    spend = limit(Unit.COST, 2_500_000, cost=CelCost("2.0"), kind=Kind.CALENDAR)
    error = refusal(claim(spend), denied(claim(spend), (False, 1_000_000, 5)))
    assert (error.details["limit"], error.details["remaining"]) == (2.5, 1.0)
    assert "allows 2.5 cost" in str(error)


def test_a_shadow_limit_is_never_the_reason() -> None:
    the_claim = claim(limit(shadow=True), limit(Unit.INPUT))
    error = refusal(the_claim, denied(the_claim, (False, 0, 99_999), (False, 1, 5)))
    assert error.details["limit_name"] == "input_tokens"


def test_states_speak_seconds_and_mark_shadows() -> None:
    the_claim = claim(limit(shadow=True), limit(Unit.INPUT))
    verdict = Verdict(
        Decision.ADMITTED,
        0,
        (LineVerdict(False, 0, 1_500, 9), LineVerdict(True, 5, -1, 0)),
    )
    first, second = limit_states(the_claim, verdict)
    assert (first.reset_s, first.shadow, first.exceeded) == (1.5, True, True)
    assert (second.reset_s, second.shadow, second.exceeded) == (math.inf, False, False)


@pytest.mark.parametrize(
    ("left", "output"), [(999, 799), (500, 300), (216, 16), (215, 800), (0, 800)]
)
def test_a_hold_is_sized_to_what_is_left_if_that_is_of_use(left: int, output: int) -> None:
    the_claim = claim(limit(right_size=True))
    verdict = denied(the_claim, (False, left, 9))
    held = right_sized(the_claim, verdict, REQUEST.predicted, "m")
    assert held == replace(REQUEST.predicted, output_tokens=output)


def test_a_hold_is_sized_to_the_capacity_before_anything_is_asked() -> None:
    asked = replace(REQUEST.predicted, output_tokens=50_000)
    willing = claim(limit(right_size=True), limit(Unit.OUTPUT), asked=asked)
    assert right_sized(willing, None, asked, "m").output_tokens == 800
    unwilling = claim(limit(), limit(Unit.OUTPUT), asked=asked)
    assert right_sized(unwilling, None, asked, "m") == asked


def test_a_cost_is_sized_by_its_formula() -> None:
    spend = limit(Unit.COST, 10**9, right_size=True, cost=CelCost("output_tokens * 0.01"))
    the_claim = claim(spend)
    verdict = denied(the_claim, (False, 5_000_000, 9))
    assert right_sized(the_claim, verdict, REQUEST.predicted, "m").output_tokens == 500


def test_settling_takes_what_was_used_even_beyond_the_capacity() -> None:
    used = retaken(claim(limit()), Quantities(1, 200, 9_999), "m")
    assert used.lines[0].amount == 10_199


@pytest.mark.parametrize(
    ("limits", "output"),
    [
        ((), 800),
        ((limit(Unit.REQUESTS, 1),), 800),
        ((limit(Unit.TOTAL, 1_000),), 800),
        ((limit(Unit.TOTAL, 500),), 300),
        ((limit(Unit.OUTPUT, 100),), 100),
        ((limit(Unit.OUTPUT, 100), limit(Unit.TOTAL, 250)), 50),
        ((limit(Unit.OUTPUT, 100, shadow=True),), 800),
    ],
)
def test_a_clamped_hold_covers_no_more_than_it_holds(
    limits: tuple[Limit, ...], output: int
) -> None:
    asked = REQUEST.predicted
    assert covered(claim(*limits), asked, "gpt-4o") == replace(asked, output_tokens=output)
