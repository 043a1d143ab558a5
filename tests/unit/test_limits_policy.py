from __future__ import annotations

from pathlib import Path

import pytest

from sentinel_extproc.limits.limit import Kind, Limit, OnExhausted, OnOutage, Period, amount
from sentinel_extproc.limits.model import NOTHING, Quantities, Subject, Unit
from sentinel_extproc.limits.policy import Match, Policy, Rule, default_policy
from sentinel_extproc.limits.policy_file import PolicyFileError, load_policy, parse_policy


def limit(name: str, capacity: int = 1) -> Limit:
    return Limit(name=name, unit=Unit.REQUESTS, kind=Kind.RING, capacity=capacity)


def subject(
    path: str = "/v1/chat/completions",
    endpoint: str = "chat",
    model: str = "gpt-4o",
    plan: str | None = None,
    user: str = "u",
) -> Subject:
    return Subject(user, path, endpoint, model, plan)


@pytest.mark.parametrize(
    ("match", "subject_", "applies"),
    [
        (Match(), subject(), True),
        (Match(path=("/v1/*",)), subject(), True),
        (Match(path=("/v1",)), subject(), False),
        (Match(endpoint=("chat", "responses")), subject(), True),
        (Match(endpoint=("embeddings",)), subject(), False),
        (Match(model=("gpt-4*", "o3")), subject(model="gpt-4o-mini"), True),
        (Match(model=("gpt-4*",)), subject(model="ft:gpt-4o"), False),
        (Match(model=("gpt-4*",)), subject(model="gpt-4\nx"), True),
        (Match(plan=("free",)), subject(plan="free"), True),
        (Match(plan=("free",)), subject(), False),
        (Match(plan=("*",)), subject(), True),
        (Match(user=("team-*",)), subject(user="team-1"), True),
        (Match(user=("team-*",), plan=("free",)), subject(user="team-1", plan="paid"), False),
    ],
)
def test_a_rule_applies_when_all_its_fields_match(
    match: Match, subject_: Subject, *, applies: bool
) -> None:
    policy = Policy((Rule(limits=(limit("only"),), match=match),))
    assert bool(policy.limits_for(subject_)) is applies


def test_every_matching_rule_adds_and_the_first_of_a_name_counts() -> None:
    policy = Policy(
        (
            Rule((limit("a", 1), limit("b", 2)), Match(plan=("vip",))),
            Rule((limit("a", 9), limit("c", 3))),
        )
    )
    assert [(x.name, x.capacity) for x in policy.limits_for(subject(plan="vip"))] == [
        ("a", 1),
        ("b", 2),
        ("c", 3),
    ]
    assert [x.capacity for x in policy.limits_for(subject())] == [9, 3]


def test_a_final_rule_ends_the_search_even_without_limits() -> None:
    policy = Policy((Rule((), Match(user=("root",)), final=True), Rule((limit("a"),))))
    assert policy.limits_for(subject(user="root")) == ()
    assert len(policy.limits_for(subject())) == 1


def test_the_default_is_100_requests_in_any_minute() -> None:
    (only,) = default_policy().limits_for(subject())
    assert (only.unit, only.kind, only.capacity, only.period_ms) == (
        Unit.REQUESTS,
        Kind.RING,
        100,
        60_000,
    )


def test_a_file_says_everything_a_limit_can() -> None:
    policy = parse_policy(
        """
        prices:
          "gpt-4*": {input: 2.5, output: 10}
        rules:
          - match: {path: /v1/*, plan: [free, trial]}
            final: true
            limits:
              - {name: burst, unit: total_tokens, kind: bucket, limit: 600, burst: 50, per: 1.5h}
              - name: spend
                unit: cost
                kind: calendar
                limit: 2.5
                per: month
                cost: input_tokens * price.input / 1000000.0
                shadow: true
                per_model: true
                right_size: true
                on_outage: deny
                on_exhausted: cut
        """
    )
    (rule,) = policy.rules
    assert (rule.final, rule.match) == (True, Match(path=("/v1/*",), plan=("free", "trial")))
    burst, spend = rule.limits
    assert (burst.capacity, burst.burst, burst.period_ms) == (600, 50, 5_400_000)
    assert (spend.capacity, spend.period, spend.scale) == (2_500_000, Period.MONTH, 1_000_000)
    assert (spend.shadow, spend.per_model, spend.right_size) == (True, True, True)
    assert (spend.on_outage, spend.on_exhausted) == (OnOutage.DENY, OnExhausted.CUT)
    assert spend.cost is not None
    assert spend.cost(Quantities(input_tokens=1_000_000), "gpt-4o") == 2_500_000


def test_every_fault_of_a_file_is_listed_with_its_place() -> None:
    with pytest.raises(PolicyFileError) as caught:
        parse_policy(
            """
            rules:
              - match: {planet: mars}
              - limits:
                  - {name: a b, unit: requests, kind: ring, limit: 5, per: 1m}
                  - {name: a, unit: requests, kind: ring, limit: 5, per: month}
                  - {name: a, unit: requests, kind: calendar, limit: 5, per: 1m}
                  - {name: a, unit: requests, kind: ring, limit: 5, per: 1ms}
                  - {name: a, unit: requests, kind: ring, limit: 2.5, per: 1m}
                  - {name: a, unit: requests, kind: ring, limit: 5, per: 1m, burst: 9}
                  - {name: a, unit: cost, kind: ring, limit: 5, per: 1m}
                  - {name: a, unit: requests, kind: ring, limit: 5, per: 1m, cost: "1.0"}
                  - {name: a, unit: cost, kind: ring, limit: 5, per: 1m, cost: "2 * characters"}
                  - {name: a, unit: requests, kind: ring, limit: -1, per: 1m}
                  - {name: a, unit: requests, kind: ring, limit: .inf, per: 1m}
                  - {name: a, unit: requests, kind: bucket, limit: 1000000000000, per: 1d}
                  - {name: a, unit: tokens, kind: sieve, limit: many, per: 1m}
                  - {name: a, unit: requests, kind: ring, limit: 5}
                  - {name: a, unit: requests, kind: concurrency, limit: 5, per: 1m}
                  - {name: a, unit: requests, kind: concurrency, limit: 5, burst: 9}
                  - {name: a, unit: requests, kind: concurrency, limit: 2.5}
                  - {name: a, unit: cost, kind: concurrency, limit: 5, cost: "1.0"}
            """
        )
    places = [fault.partition(": ")[0] for fault in caught.value.faults]
    assert places[0] == "rules.0.match.planet"
    for index in range(18):
        assert any(
            place == f"rules.1.limits.{index}" or place.startswith(f"rules.1.limits.{index}.")
            for place in places
        ), index


def test_what_may_run_at_once_needs_a_number_and_no_time() -> None:
    (rule,) = parse_policy(
        "rules: [{limits: [{name: streams, unit: requests, kind: concurrency, limit: 3}]}]"
    ).rules
    (only,) = rule.limits
    assert (only.kind, only.capacity, only.unit) == (Kind.CONCURRENCY, 3, Unit.REQUESTS)
    batch = Quantities(requests=50, input_tokens=9)
    assert amount(only, batch, "gpt-4o") == 1
    assert amount(only, NOTHING, "gpt-4o") == 0


@pytest.mark.parametrize("unit", [unit for unit in Unit if unit is not Unit.REQUESTS])
def test_only_requests_are_under_way(unit: Unit) -> None:
    cost = ', cost: "1.0"' if unit is Unit.COST else ""
    entry = f"{{name: a, unit: {unit.value}, kind: concurrency, limit: 3{cost}}}"
    with pytest.raises(PolicyFileError, match=f"unit must be requests, not {unit.value}"):
        parse_policy(f"rules: [{{limits: [{entry}]}}]")


def test_a_name_twice_in_one_rule_is_a_fault() -> None:
    entry = "{name: a, unit: requests, kind: ring, limit: 5, per: 1m}"
    with pytest.raises(PolicyFileError, match="twice: a"):
        parse_policy(f"rules: [{{limits: [{entry}, {entry}]}}]")


@pytest.mark.parametrize("text", ["", "[]", "rules: {", "rules: 1", "rules: [1]", "\x00"])
def test_what_is_no_policy_is_a_fault(text: str) -> None:
    with pytest.raises(PolicyFileError):
        parse_policy(text)


def test_a_file_that_is_not_there_or_not_text_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match=r"policy\.yaml"):
        load_policy(tmp_path / "policy.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyFileError, match=r"binary\.yaml"):
        load_policy(tmp_path / "binary.yaml")


def test_a_formula_that_uses_price_needs_prices() -> None:
    rule = (
        "rules: [{limits: [{name: spend, unit: cost, kind: calendar, limit: 1, per: day,"
        " cost: input_tokens * price.input}]}]"
    )
    with pytest.raises(PolicyFileError, match=r"prices: is needed.* \(rules\.0\.limits\.0\)"):
        parse_policy(rule)
    assert parse_policy(rule + '\nprices: {"*": {input: 1, output: 2}}').rules
    assert parse_policy(rule.replace("price.input", "0.5")).rules
