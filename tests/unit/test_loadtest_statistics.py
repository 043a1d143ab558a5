"""Histogram, arrivals, tally and thresholds of load tests."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.loadtest.arrivals import arrivals, entrances
from sentinel_extproc.loadtest.histogram import MAX_US, RELATIVE_ERROR, Histogram
from sentinel_extproc.loadtest.outcome import Outcome, Result, judge
from sentinel_extproc.loadtest.report import Generator, Report, Times, make_report
from sentinel_extproc.loadtest.scenario import Kind, Load, Scenario, Users
from sentinel_extproc.loadtest.spread import Even, Fixed, Skewed
from sentinel_extproc.loadtest.tally import MAX_BINS, MAX_REASONS, Tally
from sentinel_extproc.loadtest.thresholds import parse

DURATIONS = st.lists(st.integers(0, MAX_US), min_size=1, max_size=200)
HALF_US = 0.6e-6


def filled(values_us: list[int]) -> Histogram:
    made = Histogram()
    for value in values_us:
        made.add(value / 1e6)
    return made


@given(DURATIONS, st.floats(0, 100))
def test_a_percentile_is_right_or_a_128th_too_high(values: list[int], percent: float) -> None:
    exact = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1] / 1e6
    found = filled(values).percentile_s(percent)
    assert found is not None
    assert exact - HALF_US <= found <= exact * (1 + RELATIVE_ERROR) + HALF_US


@given(DURATIONS, DURATIONS)
def test_merging_is_counting_all(one: list[int], other: list[int]) -> None:
    merged = filled(one)
    merged.merge(filled(other))
    whole = filled(one + other)
    assert [merged.percentile_s(p) for p in range(101)] == [
        whole.percentile_s(p) for p in range(101)
    ]
    assert (merged.count, merged.maximum_s) == (whole.count, whole.maximum_s)
    assert merged.mean_s() == pytest.approx(whole.mean_s())


def test_a_histogram_takes_no_more_than_its_bound() -> None:
    made = Histogram()
    for step in range(200_000):
        made.add(1.0001**step / 1e6)
    assert len(made._buckets) <= 3_200
    made.add(-1.0)
    made.add(1e6)
    assert made.percentile_s(0) == 0.0
    assert made.percentile_s(100) == pytest.approx(MAX_US / 1e6, rel=RELATIVE_ERROR)
    assert made.maximum_s == 1e6


def test_nothing_has_no_percentile() -> None:
    assert Histogram().percentile_s(50) is None
    assert Histogram().mean_s() is None
    with pytest.raises(ValueError, match="no percentage"):
        Histogram().percentile_s(101)


@given(
    rate=st.floats(0.1, 500),
    ramp=st.floats(0, 20),
    length=st.floats(0.1, 20),
    poisson=st.booleans(),
)
def test_arrivals_ascend_and_are_as_many_as_asked_for(
    rate: float, ramp: float, length: float, poisson: bool
) -> None:
    ramp = min(ramp, length)
    dice = random.Random(5) if poisson else None
    moments = list(arrivals(rate=rate, ramp_s=ramp, duration_s=length, dice=dice))
    assert moments == sorted(moments)
    assert all(0 <= moment < length for moment in moments)
    meant = rate * (length - ramp / 2)
    # Six standard deviations of a Poisson process.
    assert abs(len(moments) - meant) <= (6 * math.sqrt(meant) + 3 if poisson else 1.001)


def test_even_arrivals_keep_their_distance() -> None:
    moments = list(arrivals(rate=10, ramp_s=0, duration_s=1, dice=None))
    assert moments == pytest.approx([n / 10 for n in range(1, 10)])


def test_a_ramp_begins_slowly() -> None:
    moments = list(arrivals(rate=100, ramp_s=4, duration_s=4, dice=None))
    halves = [sum(1 for m in moments if low <= m < low + 2) for low in (0, 2)]
    assert halves == pytest.approx([50, 150], abs=1)


def test_users_come_one_after_the_other() -> None:
    assert list(entrances(users=4, ramp_s=2.0)) == [0.0, 0.5, 1.0, 1.5]


@given(st.randoms(use_true_random=False))
def test_spreads_keep_their_bounds(dice: random.Random) -> None:
    assert Fixed(3.0).draw(dice) == 3.0
    assert 1 <= Even(1, 9).draw(dice) <= 9
    assert 0 <= Skewed(300, 4000, 5000).draw(dice) <= 5000


def test_a_skewed_spread_has_the_percentiles_it_names() -> None:
    dice, spread = random.Random(1), Skewed(300, 4000, 1e9)
    drawn = sorted(spread.draw(dice) for _ in range(20_000))
    assert drawn[10_000] == pytest.approx(300, rel=0.1)
    assert drawn[19_000] == pytest.approx(4000, rel=0.15)


@pytest.mark.parametrize(
    ("status", "code", "complete", "error", "expected"),
    [
        (200, None, True, None, (Result.OK, None)),
        (200, None, False, None, (Result.FAILED, "a stream without its end")),
        (200, None, True, "token_revoked", (Result.FAILED, "in the stream: token_revoked")),
        (429, "rate_limit_exceeded", True, None, (Result.REFUSED, "rate_limit_exceeded")),
        (429, None, True, None, (Result.FAILED, "HTTP 429")),
        (503, "limits_unavailable", True, None, (Result.FAILED, "limits_unavailable")),
        (302, None, True, None, (Result.FAILED, "HTTP 302")),
    ],
)
def test_an_answer_is_judged(
    status: int, code: str | None, complete: bool, error: str | None, expected: object
) -> None:
    assert judge(status, code, complete=complete, error=error) == expected


def outcome(
    result: Result = Result.OK,
    *,
    at: float = 0.0,
    took: float = 0.1,
    first: float | None = None,
    reason: str | None = None,
    kind: str = "chat",
    late: float = 0.0,
) -> Outcome:
    return Outcome(
        kind=kind,
        result=result,
        due_s=at,
        sent_s=at + late,
        ended_s=at + took,
        status=200 if result is Result.OK else 429,
        reason=reason,
        first_s=None if first is None else at + first,
        output_tokens=10,
        told=True,
    )


def tallied(*outcomes: Outcome, sending_s: float = 10.0) -> Tally:
    tally = Tally(["chat", "embeddings"], sending_s=sending_s, longest_s=sending_s + 5)
    for one in outcomes:
        tally.sending(one.sent_s)
        tally.ended(one)
    return tally


def reported(tally: Tally, **load: float) -> Report:
    scenario = Scenario(
        target="http://127.0.0.1:1",
        users=Users(token="t"),
        load=Load(model="open", duration=10, **load),
        mix=(Kind(name="chat"), Kind(name="embeddings", endpoint="embeddings")),
    )
    return make_report(
        scenario,
        tally,
        users=1,
        started_at="2026-01-01T00:00:00+00:00",
        lasted_s=12.0,
        ended_by="duration",
        generator=Generator(0.1, Times(Histogram())),
    )


def test_waiting_counts_from_when_it_was_due() -> None:
    tally = tallied(outcome(at=1.0, late=2.0, took=2.5, first=2.2))
    assert tally.all.total.maximum_s == pytest.approx(2.5)
    assert tally.all.ttft.maximum_s == pytest.approx(2.2)
    assert tally.all.lag.maximum_s == pytest.approx(2.0)


def test_only_what_went_well_has_a_time_but_all_is_counted() -> None:
    tally = tallied(
        outcome(),
        outcome(Result.REFUSED, reason="rate_limit_exceeded", took=0.001),
        outcome(Result.LEFT, first=0.02),
        outcome(kind="embeddings"),
    )
    assert (tally.all.total.count, tally.all.ttft.count) == (2, 1)
    assert tally.kinds["chat"].results == {Result.OK: 1, Result.REFUSED: 1, Result.LEFT: 1}
    assert tally.all.reasons == {"rate_limit_exceeded": 1}
    assert tally.running == 0


def test_what_ends_after_the_sending_has_no_part_in_the_rate() -> None:
    row = reported(tallied(outcome(at=9.0, took=0.5), outcome(at=9.0, took=3.0))).all
    assert (row.ok, row.rps, row.tokens_per_s) == (2, 0.1, 1.0)


def test_reasons_and_moments_are_bounded() -> None:
    many = [outcome(Result.FAILED, reason=f"r{n}", at=float(n)) for n in range(1_000)]
    tally = tallied(*many, sending_s=100.0)
    assert len(tally.all.reasons) == MAX_REASONS + 1
    assert tally.all.reasons.total() == 1_000
    assert len(tally.bins()) <= MAX_BINS + 1
    assert sum(bin_.results[Result.FAILED] for bin_ in tally.bins()) == 1_000


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("p99_ttft>500ms", False),
        ("p99_ttft>10ms", True),
        ("max_total>=0.1s", True),
        ("mean_total[chat]>100ms", False),
        ("error_rate>20%", True),
        ("error_rate>0.3", False),
        ("refused_rate > 0", True),
        ("rps<0.2", False),
        ("rps<0.3", True),
        ("requests<4", False),
        ("tokens_per_s<1", False),
        ("not_sent>0", False),
        ("p99_gap>1s", True),
        ("p99_total[embeddings]>1s", True),
    ],
)
def test_a_condition_is_judged(text: str, failed: bool) -> None:
    tally = tallied(
        outcome(first=0.05),
        outcome(took=0.05),
        outcome(Result.FAILED),
        outcome(Result.REFUSED),
    )
    assert parse(text, ("chat", "embeddings")).judge(reported(tally)).failed is failed


def test_what_was_not_measured_is_said() -> None:
    verdict = parse("p99_gap>1s", ("chat",)).judge(reported(tallied(outcome())))
    assert (verdict.seen, verdict.shown()) == (None, "nothing was measured")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("p99_ttft", "not of the form"),
        ("p99_ttft>500", "needs a unit"),
        ("p99_ttft>5%", "duration"),
        ("error_rate>2", "share"),
        ("speed>2", "no such metric"),
        ("not_sent[chat]>0", "no such metric"),
        ("p99_ttft[talk]>1s", "no kind of request"),
        ("rps<1.2.3", "could not convert"),
    ],
)
def test_a_condition_that_says_nothing_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(text, ("chat",))


def test_notes_say_what_the_numbers_leave_out() -> None:
    tally = tallied(outcome(), outcome(Result.CUT))
    tally.not_sent, tally.held_back = 3, 4
    notes = "\n".join(reported(tally).notes())
    for words in (
        "no coordinated omission",
        "3 arrivals were not sent",
        "4 arrivals were held",
        "1 requests were still running",
    ):
        assert words in notes
