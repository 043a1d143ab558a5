"""Scenarios, what they plan, and answers as a client sees them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.loadtest.answer import Answer
from sentinel_extproc.loadtest.planning import Planner
from sentinel_extproc.loadtest.quantities import seconds, share, sizes
from sentinel_extproc.loadtest.scenario import (
    USUAL,
    Kind,
    Scenario,
    ScenarioError,
    Users,
    read_scenario,
    tokens,
)
from sentinel_extproc.loadtest.spread import Even, Fixed, Skewed
from sentinel_extproc.loadtest.target import NotAllowed, check_target

WHOLE = """
target: http://127.0.0.1:8080
users: {count: 3, token: "user-{n}"}
load: {model: open, rate: 50, ramp: 10s, duration: 2m}
mix:
  - {name: chat, models: {a: 1, b: 3}, stream: true, prompt_chars: {p50: 800, p95: 12000},
     output_tokens: {min: 5, max: 9}, aborts: 2%, think: 500ms,
     headers: {X-Tokens: "{output_tokens}"}}
"""


def read(tmp_path: Path, text: str) -> Scenario:
    file = tmp_path / "mix.yaml"
    file.write_text(text)
    return read_scenario(file)


def test_a_scenario_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, WHOLE)
    assert (found.load.ramp, found.load.duration) == (10.0, 120.0)
    assert found.mix[0].prompt_chars == Skewed(800, 12_000, 240_000)
    assert found.mix[0].output_tokens == Even(5, 9)
    assert (found.mix[0].aborts, found.mix[0].think) == (0.02, Fixed(0.5))


def test_the_usual_one_is_valid() -> None:
    assert read_scenario(USUAL).mix[0].name == "chat, streamed"


def test_every_fault_is_told_with_its_place(tmp_path: Path) -> None:
    text = WHOLE.replace("rate: 50", "rate: -1").replace("2%", "200%").replace("2m", "2 weeks")
    with pytest.raises(ScenarioError) as caught:
        read(tmp_path, text)
    assert {fault.split(":")[0] for fault in caught.value.faults} == {
        "load.rate",
        "load.duration",
        "mix.0.aborts",
    }


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("2m", "25h", "at most 24h"),
        ("10s", "3m", "ramp must not exceed"),
        ("stream: true", "stream: true, endpoint: embeddings", "have no streams"),
        ('{count: 3, token: "user-{n}"}', "{count: 3, token: user}", "needs {n}"),
        ('{count: 3, token: "user-{n}"}', "{}", "needs tokens_file or token"),
        ("{p50: 800, p95: 12000}", "{p50: 800, p95: 12}", "must not descend"),
        ("{min: 5, max: 9}", "{min: 5}", "must be a number"),
        ("model: open, rate: 50", "users: 2000", "must not exceed max_concurrency"),
        ("- {name: chat", "- {name: chat}\n  - {name: chat", "names must differ"),
        ("http://127.0.0.1:8080", "ftp://x", "should match"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, old: str, new: str, why: str) -> None:
    assert old in WHOLE
    with pytest.raises(ScenarioError, match=why):
        read(tmp_path, WHOLE.replace(old, new))


@pytest.mark.parametrize(
    ("given_", "expected"), [("500ms", 0.5), ("2m", 120.0), (3, 3.0), ("1.5", 1.5)]
)
def test_durations(given_: object, expected: float) -> None:
    assert seconds(given_) == expected


@pytest.mark.parametrize("given_", ["soon", -1, True, "1 week", None, float("inf")])
def test_no_durations(given_: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds(given_)


def test_shares_and_sizes() -> None:
    assert (share("2%"), share(0.5)) == (0.02, 0.5)
    assert sizes(300) == Fixed(300.0)
    for wrong in (True, "300", -1):
        with pytest.raises(ValueError, match="number"):
            sizes(wrong)


def test_tokens_of_a_pattern_and_of_a_file(tmp_path: Path) -> None:
    assert tokens(Users(token="u-{n}", count=2)) == ("u-0", "u-1")
    (tmp_path / "t.txt").write_text("# who\nada\n\n grace \n")
    assert tokens(Users(tokens_file=Path("t.txt")), beside=tmp_path) == ("ada", "grace")


def test_tokens_that_no_header_carries_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("ada\nsecret\tone\n")
    with pytest.raises(ScenarioError, match="token 2 has characters") as caught:
        tokens(Users(tokens_file=tmp_path / "t.txt"))
    assert "secret" not in str(caught.value)
    (tmp_path / "t.txt").write_text("#\n")
    with pytest.raises(ScenarioError, match="has no tokens"):
        tokens(Users(tokens_file=tmp_path / "t.txt"))


def test_a_plan_says_what_its_kind_says(tmp_path: Path) -> None:
    scenario = read(tmp_path, WHOLE)
    planner = Planner(scenario.mix, ("ada", "grace"), seed=1)
    plans = [planner.plan(1) for _ in range(300)]
    bodies = [json.loads(plan.body) for plan in plans]
    assert {plan.headers["authorization"] for plan in plans} == {"Bearer grace"}
    assert {plan.path for plan in plans} == {"/v1/chat/completions"}
    assert 150 < sum(body["model"] == "b" for body in bodies) < 290
    assert all(5 <= body["max_completion_tokens"] <= 9 for body in bodies)
    assert all(
        plan.headers["x-tokens"] == str(body["max_completion_tokens"])
        for plan, body in zip(plans, bodies, strict=True)
    )
    assert all(body["stream_options"] == {"include_usage": True} for body in bodies)
    assert len({body["messages"][0]["content"] for body in bodies}) > 290


def test_one_seed_plans_the_same() -> None:
    mix = read_scenario(USUAL).mix
    one, other, third = (Planner(mix, ("a",), seed) for seed in (1, 1, 2))
    assert [one.plan(0) for _ in range(20)] == [other.plan(0) for _ in range(20)]
    assert one.plan(0) != third.plan(0)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("chat", {"messages", "max_completion_tokens"}),
        ("completions", {"prompt", "max_tokens"}),
        ("responses", {"input", "max_output_tokens"}),
        ("messages", {"messages", "max_tokens"}),
        ("embeddings", {"input"}),
    ],
)
def test_each_api_has_its_words(endpoint: str, fields: set[str]) -> None:
    kind = Kind.model_validate({"name": "x", "endpoint": endpoint, "prompt_chars": 700_000})
    plan = Planner((kind,), ("a",), 1).plan(0)
    body = json.loads(plan.body)
    assert set(body) == fields | {"model"}
    assert len(plan.body) > 700_000


def event(**content: object) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


CHAT = [
    event(choices=[{"delta": {"role": "assistant", "content": ""}}], usage=None),
    event(choices=[{"delta": {"content": "Hel"}}]),
    event(choices=[{"delta": {"content": "lo"}}]),
    event(choices=[{"delta": {}, "finish_reason": "stop"}]),
    event(choices=[], usage={"completion_tokens": 7, "prompt_tokens": 3}),
    b"data: [DONE]\n\n",
]
RESPONSES = [
    event(type="response.created", response={"usage": None}),
    event(type="response.output_text.delta", delta="Hel"),
    event(type="response.output_text.delta", delta="lo"),
    event(type="response.completed", response={"usage": {"output_tokens": 7}}),
]
MESSAGES = [
    event(type="message_start", message={"usage": {"output_tokens": 1}}),
    event(type="content_block_delta", delta={"type": "text_delta", "text": "Hel"}),
    event(type="content_block_delta", delta={"type": "text_delta", "text": "lo"}),
    event(type="message_delta", delta={"stop_reason": "end"}, usage={"output_tokens": 7}),
    event(type="message_stop"),
]


@pytest.mark.parametrize(
    "events", [CHAT, RESPONSES, MESSAGES], ids=["chat", "responses", "messages"]
)
def test_a_stream_is_read(events: list[bytes]) -> None:
    answer = Answer(stream=True)
    for now, one in enumerate(events):
        assert not answer.complete
        answer.feed(one, float(now))
    assert answer.complete
    assert (answer.first_at, answer.events) == (1.0, 2)
    assert (answer.gaps.count, answer.gaps.maximum_s) == (1, 1.0)
    assert answer.output_tokens() == (7, True)


@given(st.lists(st.integers(1, 400), max_size=12))
def test_it_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    whole, answer, start = b"".join(CHAT), Answer(stream=True), 0
    for stop in (*sorted(cuts), len(whole)):
        answer.feed(whole[start:stop], 0.0)
        start = max(start, stop)
    assert (answer.complete, answer.events, answer.output_tokens()) == (True, 2, (7, True))


def test_a_stream_without_usage_counts_its_events() -> None:
    answer = Answer(stream=True)
    for one in (*CHAT[:3], b"data: {broken\n\n", b": comment\n\n", CHAT[5]):
        answer.feed(one, 0.0)
    assert answer.output_tokens() == (2, False)


def test_tools_and_reasons_are_text_too() -> None:
    answer = Answer(stream=True)
    answer.feed(event(choices=[{"delta": {"tool_calls": [{"index": 0}]}}]), 1.0)
    answer.feed(event(choices=[{"delta": {"reasoning_content": "hm"}}]), 2.0)
    answer.feed(event(choices=[{"delta": {"tool_calls": []}}]), 3.0)
    assert answer.events == 2


def test_an_error_in_a_stream_is_noticed() -> None:
    answer = Answer(stream=True)
    answer.feed(CHAT[1] + event(error={"code": "token_revoked", "message": "m"}), 0.0)
    assert answer.error == "token_revoked"


def test_plain_answers_tell_their_tokens() -> None:
    answer = Answer(stream=False)
    answer.feed(json.dumps({"usage": {"completion_tokens": 9}}).encode(), 0.0)
    assert answer.output_tokens() == (9, True)
    assert Answer(stream=False).output_tokens() == (0, False)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1/x", "http://[::1]:80"])
def test_this_machine_may_be_loaded(url: str) -> None:
    check_target(url, allow_remote=False)


@pytest.mark.parametrize("url", ["http://192.0.2.1", "http://0.0.0.0:80", "http://[2001:db8::1]"])
def test_others_only_when_told(url: str) -> None:
    with pytest.raises(NotAllowed, match="--allow-remote"):
        check_target(url, allow_remote=False)
    check_target(url, allow_remote=True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(NotAllowed):
        check_target(url, allow_remote=True)
