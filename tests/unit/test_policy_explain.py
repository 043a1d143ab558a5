"""What would become of a request, told without doing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sentinel_extproc.endpoints.table import ENDPOINTS
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.limits.policy_file import parse_policy
from sentinel_extproc.policy_cli.explain_command import explain as command
from sentinel_extproc.policy_cli.explaining import Gateway, Request, explain
from sentinel_extproc.tokens.estimator import TokenEstimator

UPSTREAM = Upstream((("authorization", b"Bearer sk-provider"),))
NOW = 1_795_392_000_000

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello there"}]}

POLICY = """
prices:
  gpt-4o: {input: 2.50, output: 10.00}
rules:
  - match: {plan: free}
    limits:
      - {name: tokens, unit: total_tokens, kind: bucket, limit: 100, per: 1m, right_size: true}
  - match: {plan: closed}
    limits: [{name: none, unit: requests, kind: calendar, limit: 0, per: day}]
  - limits:
      - {name: requests, unit: requests, kind: ring, limit: 20, per: 1m}
      - {name: spend, unit: cost, kind: calendar, limit: 25.0, per: month,
         cost: "(input_tokens * price.input + output_tokens * price.output) / 1000000.0"}
"""


async def told(body: dict[str, Any] | bytes | None, policy: str = POLICY, **of: Any) -> Any:
    raw = json.dumps(body).encode() if isinstance(body, dict) else body
    request = Request(of.pop("target", "/v1/chat/completions"), raw, **of)
    rules = parse_policy(policy)
    gateway = Gateway(only(UPSTREAM), rules, TokenEstimator())
    return await explain(request, gateway, now_ms=NOW)


async def test_an_admitted_request_is_told_from_count_to_provider() -> None:
    story = await told(CHAT | {"max_tokens": 300, "n": 2, "stream": True})
    assert story["admitted"] is True
    assert story["refused"] is None
    assert story["input"] == {
        "tokens": 9,
        "confidence": "exact",
        "counted_by": "chat",
        "characters": 11,
    }
    assert story["output"] == {"tokens": 600, "basis": "cap", "choices": 2}
    requests, spend = story["limits"]
    assert (requests["needed"], requests["reserved"], requests["per"]) == (1, 1, "per 60 s")
    assert spend["needed"] == spend["reserved"] == pytest.approx((9 * 2.5 + 600 * 10) / 1e6, 1e-3)
    assert "price.input" in spend["formula"]
    assert story["upstream"]["body"] == {"stream_options": {"include_usage": True}}
    assert story["upstream"]["set_headers"] == ["authorization"]
    assert "accept-encoding" in story["upstream"]["removed_headers"]
    assert story["upstream"]["hides_usage_from_client"] is True


async def test_a_right_sized_request_is_told_with_its_clamp() -> None:
    story = await told(CHAT, plan="free")
    tokens = story["limits"][0]
    assert (tokens["needed"], tokens["reserved"]) == (9 + 1024, 100)
    assert story["upstream"]["output_tokens"] == 91
    assert story["upstream"]["body"] == {"max_completion_tokens": 91}


async def test_a_refusal_is_told_with_its_step_and_every_limit() -> None:
    story = await told(CHAT, plan="closed")
    assert story["admitted"] is False
    assert story["refused"]["step"] == "limits"
    assert story["refused"]["status"] == 429
    assert story["refused"]["details"]["limit_name"] == "none"
    assert [limit["name"] for limit in story["limits"]] == ["none", "requests", "spend"]
    assert "upstream" not in story


async def test_a_prompt_that_never_fits_is_no_429() -> None:
    long = CHAT | {"messages": [{"role": "user", "content": "word " * 500}]}
    story = await told(long, plan="free")
    assert (story["refused"]["status"], story["refused"]["code"]) == (400, "prompt_exceeds_limit")
    assert story["limits"][0]["reserved"] is None


async def test_a_model_without_a_price_is_refused_and_its_need_unknown() -> None:
    story = await told(CHAT | {"model": "gpt-4.1"})
    assert story["refused"]["status"] == 400
    assert story["limits"][1]["needed"] is None


@pytest.mark.parametrize(
    ("body", "target", "code"),
    [
        (b"{", "/v1/chat/completions", "invalid_json"),
        (None, "/v1/chat/completions", "empty_body"),
        (b"{}", "/elsewhere", "unknown_url"),
        (b"{}", "/v1/../x", "ambiguous_path"),
    ],
)
async def test_what_cannot_be_read_is_refused_at_the_request(
    body: bytes | None, target: str, code: str
) -> None:
    story = await told(body, target=target)
    assert story["refused"]["step"] == "request"
    assert story["refused"]["code"] == code
    assert "limits" not in story


async def test_what_may_run_at_once_is_told_so() -> None:
    policy = "rules: [{limits: [{name: n, unit: requests, kind: concurrency, limit: %d}]}]"
    story = await told(CHAT, policy % 3)
    (only,) = story["limits"]
    assert (only["kind"], only["limit"], only["per"]) == ("concurrency", 3, "at once")
    assert (only["needed"], only["reserved"]) == (1, 1)
    refused = (await told(CHAT, policy % 0))["refused"]
    assert (refused["status"], refused["code"]) == (429, "too_many_at_once")


async def test_no_rule_is_no_limit() -> None:
    story = await told(CHAT, "rules: []")
    assert story["admitted"] is True
    assert story["limits"] == []


@pytest.mark.parametrize(
    "target",
    ["completions", "embeddings", "responses", "messages", "images/generations", "audio/speech"],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_every_api_with_a_json_body_can_be_told(target: str, *, stream: bool) -> None:
    body = CHAT | {"input": "hello", "prompt": "hello", "stream": stream, "max_tokens": 5}
    story = await told(body | {"voice": "alloy"}, "rules: []", target=f"/v1/{target}")
    assert story["admitted"] is True, story["refused"]
    assert story["endpoint"] in {endpoint.name for endpoint in ENDPOINTS}
    json.dumps(story)


async def test_an_upload_is_told_by_its_size() -> None:
    body = b"x" * 32_000
    story = await told(
        body, "rules: []", target="/v1/files", content_type="multipart/form-data; boundary=b"
    )
    assert story["admitted"] is True
    assert story["upstream"]["body"] is None


# The command


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    return file


def run(*arguments: str | Path, given: str = json.dumps(CHAT)) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments], input=given)


def test_the_command_prints_for_people_and_for_programs(policy_file: Path) -> None:
    shown = run("-", "--policy", policy_file)
    assert shown.exit_code == 0, shown.output
    for word in ("admitted", "gpt-4o", "9 tokens", "requests", "per month"):
        assert word in shown.output
    parsed = run("-", "--policy", policy_file, "--plan", "free", "--json")
    assert json.loads(parsed.output)["upstream"]["output_tokens"] == 91


def test_a_refusal_is_exit_code_1(policy_file: Path) -> None:
    shown = run("-", "--policy", policy_file, "--plan", "closed")
    assert shown.exit_code == 1
    assert "refused: 429" in shown.output


def test_what_users_wrote_reaches_no_terminal(policy_file: Path) -> None:
    hostile = CHAT | {"model": "gpt-4o", "stream_options": {"x": "\x1b[2J"}, "stream": True}
    shown = run("-", "--policy", policy_file, given=json.dumps(hostile))
    assert shown.exit_code == 0, shown.output
    assert "\x1b" not in shown.output


def test_a_faulty_policy_is_exit_code_2_with_every_fault(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("rules: [{limits: [{name: x, unit: apples, kind: ring, limit: 1}]}]")
    shown = run("-", "--policy", file)
    assert shown.exit_code == 2
    assert "rules.0.limits.0.unit" in shown.output
    assert "rules.0.limits.0.per" in shown.output
    told = run("-", "--policy", file, "--json")
    assert told.exit_code == 2
    assert "rules.0.limits.0.unit" in json.loads(told.stdout)["error"]["message"]


def test_a_faulty_configuration_is_exit_code_2(tmp_path: Path) -> None:
    file = tmp_path / "sentinel.yaml"
    file.write_text("tokens: {aliases: {a: a, A: b}}\nserver: {listen: nowhere}")
    shown = run("-", "--config", file)
    assert shown.exit_code == 2
    assert "server.listen" in shown.output


def test_one_of_several_providers_is_named_and_needs_no_key_here(tmp_path: Path) -> None:
    file = tmp_path / "sentinel.yaml"
    file.write_text(
        """
providers:
  - {name: azure, kind: azure, url: "https://x.example", path_prefix: /azure/,
     api_key_file: /nowhere/key}
  - {name: claude, kind: anthropic, url: "https://y.example", path_prefix: /claude/}
"""
    )
    asked = ("-", "--config", file, "--json", "--path")
    azure = run(*asked, "/azure/openai/deployments/gpt-4o/chat/completions?api-version=1")
    assert json.loads(azure.output)["upstream"]["provider"] == "azure", azure.output
    claude = run(*asked, "/claude/v1/messages", given=json.dumps(CHAT | {"max_tokens": 9}))
    upstream = json.loads(claude.output)["upstream"]
    assert upstream["provider"] == "claude"
    assert "x-api-key" in upstream["set_headers"]
    assert "of-the-provider" not in claude.output
    lost = run(*asked, "/v1/chat/completions")
    assert lost.exit_code == 1
    assert json.loads(lost.output)["refused"]["code"] == "unknown_provider"


def test_a_body_that_is_too_long_is_told_as_it_would_be_refused(tmp_path: Path) -> None:
    file = tmp_path / "sentinel.yaml"
    file.write_text("endpoints: {max_body_bytes: 16384}")
    long = CHAT | {"messages": [{"role": "user", "content": "a" * 20_000}]}
    shown = run("-", "--config", file, "--json", given=json.dumps(long))
    assert shown.exit_code == 1
    assert json.loads(shown.output)["refused"]["status"] == 413
