"""Token limits through the real Envoy: what is refused, clamped, cut and given back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import pytest

from sentinel_extproc.demo.stack import Stack

MESSAGES = [{"role": "user", "content": "Count, please."}]
RunStack = Callable[..., Stack]


def start(
    run_stack: RunStack,
    work_dir: Path,
    limits: str,
    *,
    settings: dict[str, str] | None = None,
    **options: object,
) -> Stack:
    policy = work_dir / "policy.yaml"
    policy.write_text(f"rules:\n  - limits:\n      - {limits}\n")
    return run_stack(
        settings={"SENTINEL_LIMITS__POLICY_FILE": str(policy)} | (settings or {}), **options
    )


def chat(stack: Stack, *, tokens: int = 20, **fields: object) -> httpx.Response:
    return httpx.post(
        f"{stack.url}/v1/chat/completions",
        json={"model": "gpt-4o-mini", "messages": MESSAGES} | fields,
        headers={"authorization": "Bearer demo-ada", "x-standin-tokens": str(tokens)},
        trust_env=False,
        timeout=30,
    )


def seen(stack: Stack) -> int:
    assert stack.openai is not None
    return len(stack.openai.requests())


def test_what_was_not_used_is_given_back(run_stack: RunStack, work_dir: Path) -> None:
    limits = "{name: tokens, unit: total_tokens, kind: ring, limit: 1000, per: 1h}"
    stack = start(run_stack, work_dir, limits)
    # Each reserves 900 and uses about 30: one after the other they fit only by settlement.
    answers = [chat(stack, max_tokens=900 - 60 * turn).status_code for turn in range(5)]
    assert answers == [200] * 5
    left = int(chat(stack, max_tokens=10).headers["x-ratelimit-remaining-tokens"])
    assert 0 < left < 1000


def test_a_refusal_names_limit_prediction_and_rest(run_stack: RunStack, work_dir: Path) -> None:
    limits = "{name: tokens, unit: total_tokens, kind: ring, limit: 100, per: 1h}"
    stack = start(run_stack, work_dir, limits)
    assert chat(stack, tokens=60, max_tokens=80).status_code == 200
    answer = chat(stack, max_tokens=80)
    assert answer.status_code == 429
    details = answer.json()["sentinel"]
    assert details["limit_name"] == "tokens"
    assert details["unit"] == "total_tokens"
    assert details["predicted"] > details["remaining"]
    assert details["limit"] == 100
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-ratelimit-limit-tokens"] == "100"
    assert seen(stack) == 1


def test_a_prompt_that_can_never_fit_is_a_permanent_error(
    run_stack: RunStack, work_dir: Path
) -> None:
    limits = "{name: tokens, unit: input_tokens, kind: ring, limit: 50, per: 1h}"
    stack = start(
        run_stack,
        work_dir,
        limits,
        settings={
            "SENTINEL_TOKENS__ALIASES": '{"prod-chat": "house"}',
            "SENTINEL_TOKENS__OVERRIDES": '{"house": {"like": "gpt-4o", "request": 60}}',
        },
    )
    # What configuration says of a model is what it is counted by.
    assert chat(stack, model="prod-chat").json()["error"]["code"] == "prompt_exceeds_limit"
    long = [{"role": "user", "content": "word " * 200}]
    answer = chat(stack, messages=long)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "prompt_exceeds_limit"
    assert "retry-after" not in answer.headers
    assert seen(stack) == 0


def test_a_request_is_clamped_when_the_limit_says_so(run_stack: RunStack, work_dir: Path) -> None:
    limits = (
        "{name: tokens, unit: output_tokens, kind: ring, limit: 100, per: 1h, right_size: true}"
    )
    stack = start(run_stack, work_dir, limits)
    answer = chat(stack, tokens=400, max_tokens=400)
    assert answer.status_code == 200
    assert answer.headers["x-sentinel-max-output-tokens"] == "100"
    assert stack.openai is not None
    assert json.loads(stack.openai.requests()[-1].body)["max_tokens"] == 100


@pytest.mark.parametrize("asks_for_usage", [False, True])
def test_a_stream_is_cut_when_its_limit_runs_out(
    run_stack: RunStack, work_dir: Path, asks_for_usage: bool
) -> None:
    limits = (
        "{name: tokens, unit: output_tokens, kind: ring, limit: 200, per: 1h, on_exhausted: cut}"
    )
    stack = start(run_stack, work_dir, limits, chunk_delay_s=0.005)
    pieces: list[str] = []

    def read() -> None:
        with openai.OpenAI(
            base_url=f"{stack.url}/v1",
            api_key="demo-ada",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        ) as client:
            chunks = client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": "Count, please."}],
                stream=True,
                stream_options={"include_usage": asks_for_usage},
                extra_headers={"x-standin-tokens": "5000"},
            )
            pieces.extend(chunk.choices[0].delta.content or "" for chunk in chunks)

    with pytest.raises(openai.APIError) as caught:
        read()
    assert caught.value.code == "limit_exhausted"
    assert "".join(pieces)
    assert stack.openai is not None
    assert stack.zion is not None
    zion = stack.zion

    def billed() -> int:
        return sum(row.output_tokens for row in zion.ledger())

    end = time.monotonic() + 20
    while not (billed() and stack.openai.served()):
        assert time.monotonic() < end
        time.sleep(0.05)
    (served,) = stack.openai.served()
    assert not served.complete, "the provider was stopped"
    assert served.completion_tokens < 5000
    assert 200 <= billed() < 500, "the limit, and a little until it was noticed"
    assert chat(stack).status_code == 429


def test_a_stream_over_its_hold_goes_on_as_debt(run_stack: RunStack, work_dir: Path) -> None:
    limits = "{name: tokens, unit: output_tokens, kind: bucket, limit: 200, burst: 200, per: 1h}"
    stack = start(run_stack, work_dir, limits)
    answer = chat(stack, tokens=800, stream=True)
    assert answer.text.endswith("data: [DONE]\n\n")
    refused = chat(stack, max_tokens=1)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 3600, "the debt is carried forward"


def test_a_policy_can_match_the_plan_that_zion_names(run_stack: RunStack, work_dir: Path) -> None:
    policy = work_dir / "policy.yaml"
    policy.write_text(
        "rules:\n"
        "  - match: {plan: ai_usage}\n"
        "    limits: [{name: of-plan, unit: requests, kind: ring, limit: 1, per: 1h}]\n"
        "  - match: {plan: another}\n"
        "    limits: [{name: of-another, unit: requests, kind: ring, limit: 0, per: 1h}]\n"
    )
    stack = run_stack(settings={"SENTINEL_LIMITS__POLICY_FILE": str(policy)})
    assert chat(stack).status_code == 200
    refused = chat(stack)
    assert refused.status_code == 429
    assert refused.json()["sentinel"]["limit_name"] == "of-plan"
