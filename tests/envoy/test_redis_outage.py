"""Redis away under traffic: a bounded share, told in a header, and never a 500."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from sentinel_extproc.demo.stack import Stack

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
LIMIT = 40
LOCAL = LIMIT // 2
"""What one replica alone may admit by itself: half the limit."""


def call(stack: Stack) -> httpx.Response:
    return httpx.post(
        f"{stack.url}/v1/chat/completions",
        json=CHAT,
        headers={"authorization": "Bearer demo-ada"},
        trust_env=False,
        timeout=30,
    )


def start(run_stack: Callable[..., Stack], on_outage: str, work_dir: Path) -> Stack:
    policy = work_dir / "policy.yaml"
    policy.write_text(
        "rules:\n  - limits:\n      - {name: requests, unit: requests, kind: ring, "
        f"limit: {LIMIT}, per: 1h, on_outage: {on_outage}}}\n"
    )
    stack = run_stack(
        settings={
            "SENTINEL_LIMITS__POLICY_FILE": str(policy),
            "SENTINEL_LIMITS__ZION_QUOTAS": "false",
        }
    )
    assert call(stack).status_code == 200
    return stack


def many(stack: Stack, count: int) -> list[httpx.Response]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: call(stack), range(count)))


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_local_admits_its_share_and_says_so(
    run_stack: Callable[..., Stack], work_dir: Path, how: str
) -> None:
    stack = start(run_stack, "local", work_dir)
    stack.redis.process.signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    try:
        answers = many(stack, 100)
    finally:
        if how == "paused":
            stack.redis.process.signal(signal.SIGCONT)
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {200, 429}, statuses
    assert statuses[200] <= LOCAL
    assert statuses[200] > 0
    admitted = [answer for answer in answers if answer.status_code == 200]
    assert {answer.headers["x-sentinel-degraded"] for answer in admitted} == {"local"}
    assert stack.openai is not None
    assert len(stack.openai.requests()) == statuses[200] + 1


def test_deny_answers_503_with_retry_after(run_stack: Callable[..., Stack], work_dir: Path) -> None:
    stack = start(run_stack, "deny", work_dir)
    stack.redis.process.signal(signal.SIGKILL)
    answers = many(stack, 20)
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["x-sentinel-degraded"] for answer in answers} == {"deny"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert stack.openai is not None
    assert len(stack.openai.requests()) == 1


def test_allow_is_open_only_because_it_was_chosen(
    run_stack: Callable[..., Stack], work_dir: Path
) -> None:
    stack = start(run_stack, "allow", work_dir)
    stack.redis.process.signal(signal.SIGKILL)
    answers = many(stack, LIMIT + 10)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-sentinel-degraded"] for answer in answers} == {"allow"}


def test_what_was_admitted_meanwhile_is_charged_when_redis_is_back(
    run_stack: Callable[..., Stack], work_dir: Path
) -> None:
    stack = start(run_stack, "local", work_dir)
    stack.redis.process.signal(signal.SIGSTOP)
    admitted = sum(answer.status_code == 200 for answer in many(stack, 60))
    assert 0 < admitted <= LOCAL
    stack.redis.process.signal(signal.SIGCONT)
    end = time.monotonic() + 20
    while "x-sentinel-degraded" in (last := call(stack)).headers:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert last.status_code in (200, 429)
    statuses = Counter(answer.status_code for answer in many(stack, 60))
    assert set(statuses) <= {200, 429}
    assert stack.openai is not None
    assert len(stack.openai.requests()) <= LIMIT, "as if Redis had been there all the time"
