"""The past against a proposed policy."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from sentinel_extproc.endpoints.table import ENDPOINTS, match, usual_paths
from sentinel_extproc.limits.policy_file import parse_policy
from sentinel_extproc.limits.store import StoreError
from sentinel_extproc.policy_cli import replaying
from sentinel_extproc.policy_cli.group import policy as group
from sentinel_extproc.policy_cli.replaying import Known, replay
from sentinel_extproc.policy_cli.timeline import Past, past_of, timeline
from sentinel_extproc.usage.files import outbox_path
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Intent, Outcome, Provenance, TokenUsage, UsageRecord

DAY = 1_795_392_000_000  # 2026-11-23
MINUTE = 60_000

EVERYTHING = "rules: []"
TWO_A_MINUTE = """
rules: [{limits: [{name: requests, unit: requests, kind: ring, limit: 2, per: 1m}]}]
"""


def past(at_s: float, user: str = "ada", *, tokens: tuple[int, int] = (10, 20)) -> Past:
    return Past(DAY + round(at_s * 1000), user, "chat.completions", "gpt-4o", *tokens)


async def told(
    requests: Iterable[Past], proposed: str, current: str = EVERYTHING, **known: Any
) -> dict[str, Any]:
    with timeline() as events:
        events.add(requests)
        policies = (parse_policy(current), parse_policy(proposed))
        return await replay(events, *policies, Known(usual_paths(), **known))


async def test_who_would_have_been_refused_how_often_and_by_what() -> None:
    requests = [past(second) for second in range(5)] + [past(1, "bo")]
    story = await told(requests, TWO_A_MINUTE)
    proposed = story["proposed"]
    assert (story["requests"], story["tokens"], story["users"]) == (6, 180, 2)
    assert (proposed["refused_requests"], proposed["refused_requests_share"]) == (3, 0.5)
    assert (proposed["refused_tokens"], proposed["refused_tokens_share"]) == (90, 0.5)
    assert proposed["limits"] == [{"name": "requests", "requests": 3, "tokens": 90, "users": 1}]
    assert story["refused_users"] == [
        {
            "user": "ada",
            "requests": 5,
            "refused_by_proposed": 3,
            "refused_by_current": 0,
            "share": 0.6,
            "first_refused": "2026-11-23T00:00:02.000Z",
            "limits": ["requests"],
        }
    ]
    assert story["newly_refused_requests"] == 3
    assert story["current"]["refused_requests"] == 0


async def test_the_records_own_times_count_and_not_their_order() -> None:
    apart = [past(120 * number) for number in range(5)]
    assert (await told(apart, TWO_A_MINUTE))["proposed"]["refused_requests"] == 0
    # The ledger is in the order of ends: the request that was forwarded last is refused.
    mixed = [past(2), past(0), past(1)]
    story = await told(mixed, TWO_A_MINUTE)
    assert story["refused_users"][0]["first_refused"] == "2026-11-23T00:00:02.000Z"


async def test_the_current_policy_is_replayed_beside_the_proposed_one() -> None:
    requests = [past(second) for second in range(5)]
    story = await told(requests, EVERYTHING, TWO_A_MINUTE)
    assert story["current"]["refused_requests"] == 3
    assert story["proposed"]["refused_requests"] == 0
    assert story["no_longer_refused_requests"] == 3
    assert story["refused_users"][0]["refused_by_current"] == 3


async def test_a_calendar_limit_forgets_at_its_window_and_charges_what_was_used() -> None:
    daily = """
    rules: [{limits: [{name: day, unit: total_tokens, kind: calendar, limit: 70, per: day}]}]
    """
    today = [past(3600 * hour) for hour in range(4)]
    story = await told([*today, past(86_400)], daily)
    assert story["proposed"]["refused_requests"] == 2


async def test_a_refused_request_takes_nothing_from_other_limits() -> None:
    both = """
    rules:
      - limits:
          - {name: few, unit: requests, kind: calendar, limit: 1, per: day}
          - {name: tokens, unit: total_tokens, kind: calendar, limit: 60, per: day}
      - {}
    """
    story = await told([past(second) for second in range(3)], both)
    assert [one["name"] for one in story["proposed"]["limits"]] == ["few"]


async def test_plans_and_paths_are_given_where_the_ledger_has_none() -> None:
    of_plan = """
    rules:
      - match: {plan: free, path: /v1/chat/*}
        limits: [{name: none, unit: requests, kind: calendar, limit: 0, per: day}]
    """
    requests = [past(0), past(1, "bo")]
    without = await told(requests, of_plan)
    assert without["proposed"]["refused_requests"] == 0
    assert len(without["notes"]) == 2
    story = await told(requests, of_plan, plans={"ada": "free"}, default_plan="pro")
    assert [one["user"] for one in story["refused_users"]] == ["ada"]
    assert len(story["notes"]) == 1


async def test_a_right_sized_request_is_clamped_and_a_shadow_limit_only_counts() -> None:
    policy = """
    rules:
      - limits:
          - {name: sized, unit: total_tokens, kind: calendar, limit: 50, per: day, right_size: true}
          - {name: dark, unit: requests, kind: calendar, limit: 0, per: day, shadow: true}
    """
    story = await told([past(0, tokens=(10, 90))], policy)
    assert story["proposed"]["clamped_requests"] == 1
    assert story["proposed"]["refused_requests"] == 0
    assert story["proposed"]["shadow_exceeded"] == {"dark": 1}


async def test_what_ran_at_once_can_t_be_told_and_that_is_said() -> None:
    policy = """
    rules: [{limits: [{name: streams, unit: requests, kind: concurrency, limit: 1}]}]
    """
    story = await told([past(0), past(0), past(0)], policy)
    assert story["proposed"]["refused_requests"] == 0
    assert story["notes"] == [
        "The ledger has no durations: limits on what is under way at once are not judged."
    ]


async def test_a_model_without_a_price_is_refused_by_no_limit_of_its_own() -> None:
    cost = """
    prices: {another-model: {input: 1, output: 2}}
    rules:
      - limits:
          - {name: spend, unit: cost, kind: calendar, limit: 1, per: day,
             cost: "price.input * input_tokens"}
    """
    story = await told([past(0)], cost)
    assert story["proposed"]["limits"][0]["name"] == replaying.NOT_A_LIMIT


async def test_too_much_for_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "MAX_STATES", 10)
    with pytest.raises(StoreError):
        await told((past(0, f"user-{number}") for number in range(20)), TWO_A_MINUTE)


async def test_memory_does_not_grow_with_the_past() -> None:
    async def peak(count: int) -> int:
        tracemalloc.start()
        try:
            await told((past(number, f"u{number % 50}") for number in range(count)), TWO_A_MINUTE)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    await peak(2000)  # what the first time alone needs
    assert await peak(2000) < 2 * await peak(500)


def test_an_exchange_nobody_saw_the_end_of_counts_with_what_was_predicted() -> None:
    intent = Intent("id", DAY, "ada", "", "chat.completions", "gpt-4o", None, 7, 9)
    assert past_of(intent.unknown()) == past(0, tokens=(7, 9))


def test_usual_paths_lead_back_to_their_endpoints() -> None:
    paths = usual_paths("/v1/")
    for name, path in paths.items():
        methods = ("POST", "GET")
        assert name in {match(method, path).endpoint.name for method in methods}
    assert {endpoint.name for endpoint in ENDPOINTS} - set(paths) == {"other"}


# The command


def record(number: int, **fields: Any) -> UsageRecord:
    base = UsageRecord(
        id=f"r{number}",
        occurred_at_ms=DAY + number * 1000,
        external_id="ada",
        email="ada@example.com",
        endpoint="chat.completions",
        model_requested="gpt-4o",
        model_served=None,
        requests=1,
        usage=TokenUsage(10, 20),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )
    return replace(base, **fields)


@pytest.fixture
async def outbox(tmp_path: Path) -> Path:
    path = tmp_path / "outbox.db"
    opened = Outbox(path)
    opened.open()
    for number in range(4):
        await opened.append(record(number))
    await opened.append(record(4, external_id="\x1b[31mbo"))
    await opened.aclose()
    return path


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(TWO_A_MINUTE)
    return file


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(group, ["replay", *map(str, arguments)])


def test_the_command_reads_the_ledger(outbox: Path, policy_file: Path) -> None:
    shown = run("--policy", policy_file, "--outbox", outbox, "--json")
    assert shown.exit_code == 0, shown.output
    story = json.loads(shown.output)
    assert (story["requests"], story["proposed"]["refused_requests"]) == (5, 2)
    fewer = run("--policy", policy_file, "--outbox", outbox, "--json", "--user", "ada@example.com")
    assert json.loads(fewer.output)["requests"] == 5
    later = run("--policy", policy_file, "--outbox", outbox, "--json", "--since", "2026-11-24")
    assert json.loads(later.output)["requests"] == 0


def test_several_sidecars_share_their_limits(outbox: Path, policy_file: Path) -> None:
    shown = run("--policy", policy_file, "--outbox", outbox, "--outbox", outbox, "--json")
    assert json.loads(shown.output)["requests"] == 10


def test_what_all_workers_of_the_configured_sidecar_served_is_judged(
    outbox: Path, policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(outbox, outbox_path(outbox, 1))
    monkeypatch.setenv("SENTINEL_USAGE__OUTBOX_PATH", str(outbox))
    shown = run("--policy", policy_file, "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)["requests"] == 10


def test_the_command_shows_people_what_users_wrote_as_text(
    outbox: Path, policy_file: Path, tmp_path: Path
) -> None:
    none = tmp_path / "none.yaml"
    none.write_text(
        "rules: [{limits: [{name: n, unit: requests, kind: calendar, limit: 0, per: day}]}]"
    )
    shown = run("--policy", none, "--outbox", outbox)
    assert shown.exit_code == 0, shown.output
    assert "5 requests (100.00%)" in shown.output
    assert "\x1b" not in shown.output
    assert "\\x1b[31mbo" in shown.output


@pytest.mark.parametrize("plans", ["[1]", "ada: {a: b}", "a: b: c", None])
def test_faulty_plans_are_wrong_usage(
    outbox: Path, policy_file: Path, tmp_path: Path, plans: str | None
) -> None:
    file = tmp_path / "plans.yaml"
    if plans is not None:
        file.write_text(plans)
    shown = run("--policy", policy_file, "--outbox", outbox, "--plans", file)
    assert shown.exit_code == 2
    assert "plans.yaml" in shown.output


def test_exit_codes_for_what_cannot_be_read(policy_file: Path, tmp_path: Path) -> None:
    assert run("--policy", policy_file, "--outbox", tmp_path / "none.db").exit_code == 3
    assert run("--policy", tmp_path / "none.yaml", "--outbox", tmp_path).exit_code == 2
