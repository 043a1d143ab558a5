"""docs/limits.md says what the code does: its examples are policies, its words are the code's."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from pathlib import Path

import pytest

from sentinel_extproc.endpoints.table import ENDPOINTS
from sentinel_extproc.identity.quotas import translated
from sentinel_extproc.limits.headers import limit_headers
from sentinel_extproc.limits.kinds.concurrency import Concurrency
from sentinel_extproc.limits.kinds.leases import LEASE_MS
from sentinel_extproc.limits.kinds.ring import SLOTS, Ring
from sentinel_extproc.limits.limit import Kind, OnExhausted, OnOutage, Period
from sentinel_extproc.limits.model import LimitState, Subject, Unit
from sentinel_extproc.limits.policy import Policy
from sentinel_extproc.limits.policy_file import LimitEntry, MatchEntry, parse_policy
from sentinel_extproc.zion import wire

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_a_policy(text: str) -> None:
    assert parse_policy(text).rules


@pytest.fixture(scope="module")
def example() -> Policy:
    return parse_policy(EXAMPLES[0])


def names(policy: Policy, **subject: str) -> list[str]:
    asked = Subject(
        external_id=subject.get("user", "ada"),
        path="/v1/chat/completions",
        endpoint="chat.completions",
        model=subject.get("model", "gpt-4o"),
    )
    return [f"{limit.name} {limit.capacity}" for limit in policy.limits_for(asked)]


def test_the_examples_comments_hold(example: Policy) -> None:
    everybody = ["requests 100", "tokens 200000", "streams 20", "spend 25000000", "tomorrow 20"]
    assert names(example) == everybody
    assert names(example, user="batch-job") == ["requests 1000"]
    assert names(example, model="o3-mini") == ["reasoning 20000", *everybody]


def test_the_example_names_endpoints_that_exist(example: Policy) -> None:
    named = {name for rule in example.rules for name in rule.match.endpoint}
    assert named
    assert named <= {endpoint.name for endpoint in ENDPOINTS}


@pytest.mark.parametrize("words", [Unit, Kind, Period, OnOutage, OnExhausted])
def test_every_word_of_the_file_is_there(words: type[StrEnum]) -> None:
    for word in words:
        assert f"`{word.value}`" in PAGE


@pytest.mark.parametrize("entry", [LimitEntry, MatchEntry])
def test_every_field_is_there(entry: type[LimitEntry] | type[MatchEntry]) -> None:
    cells = "".join(re.findall(r"^\| (.*?) \|", PAGE, re.MULTILINE))
    for field in entry.model_fields:
        assert f"`{field}`" in cells


def test_defaults_are_the_ones_in_the_table() -> None:
    defaults = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE, re.MULTILINE))
    assert defaults.pop("burst") == "limit"
    for name, told in defaults.items():
        default = LimitEntry.model_fields[name].default
        assert told == (default.value if isinstance(default, StrEnum) else str(default).lower())
    assert set(defaults) >= {"shadow", "per_model", "right_size", "on_exhausted", "on_outage"}


def test_every_header_is_there() -> None:
    states = [
        LimitState("a", Unit.REQUESTS, 10, 5, 60.5),
        LimitState("b", Unit.TOTAL, 10, 5, 60.5),
        LimitState("c", Unit.REQUESTS, 10, 5, math.inf, at_once=True),
    ]
    headers = limit_headers(states, degraded="local")
    row = r"^\| `([\w-]+)`, `-remaining(?:-\w+)?`(, `-reset(?:-\w+)?`)? \|"
    told = re.findall(row, PAGE, re.MULTILINE)
    expected = {
        form.replace("limit", part, 1) if part != "limit" else form
        for form, resets in ((name.removeprefix("x-ratelimit-"), resets) for name, resets in told)
        for part in ("limit", "remaining", *(["reset"] if resets else []))
    }
    assert {f"x-ratelimit-{form}" for form in expected} | {"x-sentinel-degraded"} == set(headers)
    assert headers["x-ratelimit-reset-requests"] == "1m0.5s"
    assert "`1m0.5s`" in PAGE


def test_a_ring_of_a_minute_can_say_61_and_not_more() -> None:
    resets = []
    for now_ms in range(600_000, 601_000, 50):
        ring = Ring.opened(None, 5, 60_000, now_ms)
        ring.take(None, 1)
        resets.append(ring.reset_ms())
    assert max(resets) == 61_000
    assert min(resets) > 60_000
    assert f"It counts in {SLOTS} slots" in PAGE
    assert "A ring of 60 s can say 61" in PAGE


def test_of_what_runs_at_once_the_page_tells_how_long_to_wait() -> None:
    state = Concurrency.opened(None, 2, 0)
    holds = [state.take(None, 1) for _ in range(2)]
    assert state.wait_ms(1) == 1_000, "It is 1 s while nothing is known"
    for took_s, told_ms in ((40, 20_000), (100_000, 60_000)):
        state = Concurrency.opened(state, 2, state.now + took_s * 1000)
        for hold in holds:
            state.settle(hold, 1)
        holds = [state.take(None, 1) for _ in range(2)]
        assert state.wait_ms(1) == told_ms
    assert "It\nis 1 s while nothing is known, and never over 60 s" in PAGE
    assert "by leases of 60 s" in PAGE
    assert LEASE_MS == 60_000


def test_zions_quotas_are_named_as_told() -> None:
    reported = wire.Quota(
        name="ai_usage",
        metric=wire.Metric.REQUESTS,
        limit=1,
        used=0,
        remaining=1,
        resets=None,
        period_start=None,
        period_end=None,
    )
    (quota,) = translated([reported], seen_ms=0)
    assert f"`{quota.name}`" in PAGE
    assert quota.period.value == "NEVER"
