"""Native metering on the real Envoy: the same bill as ours where it must be, and no chunks here."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from sentinel_extproc.demo.stack import Stack, start_stack
from sentinel_extproc.demo.zion_state import ZionUser

USERS = [ZionUser(f"tok-{n}", f"u{n}", f"ext-{n}", f"u{n}@example.com", "U") for n in range(12)]
HELLO = [{"role": "user", "content": "Say something long, please."}]

CALLS: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("chat/completions", {"model": "gpt-4o-mini", "messages": HELLO}, {}),
    ("chat/completions", {"model": "gpt-4o-mini", "messages": HELLO, "stream": True}, {}),
    (
        "chat/completions",
        {
            "model": "gpt-4o-mini",
            "messages": HELLO,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        {"x-standin-tokens": "40"},
    ),
    ("chat/completions", {"model": "gpt-4o-mini", "messages": HELLO, "n": 3, "stream": True}, {}),
    ("embeddings", {"model": "text-embedding-3-small", "input": "some words"}, {}),
    ("responses", {"model": "gpt-4o-mini", "input": "some words", "stream": True}, {}),
    ("completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "a", "stream": True}, {}),
    (
        "chat/completions",
        {"model": "gpt-4o-mini", "messages": HELLO, "stream": True},
        {"x-standin-fault": "status:500"},
    ),
]


@pytest.fixture(scope="module")
def both() -> Iterator[dict[str, Stack]]:
    with ExitStack() as running:
        stacks = {}
        for name, native in (("stream", False), ("native", True)):
            folder = running.enter_context(tempfile.TemporaryDirectory(prefix="sx-nat-"))
            stacks[name] = running.enter_context(
                start_stack(
                    work_dir=Path(folder),
                    users=USERS,
                    native_metering=native,
                    chunk_delay_s=0.005,
                    settings={"SENTINEL_LIMITS__REQUESTS": "100000"},
                )
            )
        yield stacks


def post(stack: Stack, user: int, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
    return httpx.post(
        f"{stack.url}/v1/{path}",
        json=body,
        headers={"authorization": f"Bearer tok-{user}"} | headers,
        trust_env=False,
        timeout=30,
    )


def billed(stack: Stack, user: int) -> tuple[int, int, int]:
    """Requests, input and output tokens that Zion has of a user."""
    assert stack.zion is not None
    rows = [row for row in stack.zion.ledger() if row.external_id == f"ext-{user}"]
    return (
        sum(row.requests for row in rows),
        sum(row.input_tokens for row in rows),
        sum(row.output_tokens for row in rows),
    )


def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "call"), list(enumerate(CALLS)))
def test_whole_answers_cost_the_same(
    both: dict[str, Stack], number: int, call: tuple[str, dict[str, Any], dict[str, str]]
) -> None:
    answers = {name: post(stack, number, *call) for name, stack in both.items()}
    assert answers["stream"].status_code == answers["native"].status_code
    for stack in both.values():
        until(lambda stack=stack: billed(stack, number)[0] == 1, "billed")  # type: ignore[misc]
    assert billed(both["native"], number) == billed(both["stream"], number)


def test_a_kept_connection_serves_one_kind_after_the_other(both: dict[str, Stack]) -> None:
    stack = both["native"]
    body = {"model": "gpt-4o-mini", "messages": HELLO}
    assert stack.openai is not None
    seen = len(stack.openai.requests())
    headers = {"authorization": "Bearer tok-8", "x-sentinel-meter": "stream"}
    with httpx.Client(base_url=stack.url, headers=headers, trust_env=False, timeout=20) as client:
        for stream in (False, True, False, False, True, True):
            answer = client.post("/v1/chat/completions", json=body | {"stream": stream})
            assert answer.text.rstrip().endswith("[DONE]" if stream else "}")
    for request in stack.openai.requests()[seen:]:
        assert not any(name.startswith("x-sentinel") for name, _ in request.headers)


def test_the_chunks_do_not_come_here(both: dict[str, Stack]) -> None:
    body = {"model": "gpt-4o-mini", "messages": HELLO, "stream": True}

    def messages(stack: Stack) -> int:
        found = stack.envoy.stats("stream_msgs_sent")
        return sum(found.values())

    sent = {}
    for name, stack in both.items():
        before = messages(stack)
        answer = post(stack, 9, "chat/completions", body, {"x-standin-tokens": "60"})
        assert answer.text.count("data: ") > 60
        sent[name] = messages(stack) - before
    assert sent["native"] == 4, "both heads, the body of the request, the trailers"
    assert sent["stream"] > 60


def test_a_cut_answer_is_billed_by_its_length(both: dict[str, Stack]) -> None:
    stack = both["native"]
    assert stack.zion is not None
    body = {"model": "gpt-4o-mini", "messages": HELLO, "stream": True, "max_tokens": 5000}
    got = 0
    with httpx.stream(
        "POST",
        f"{stack.url}/v1/chat/completions",
        json=body,
        headers={"authorization": "Bearer tok-10", "x-standin-tokens": "4000"},
        trust_env=False,
        timeout=30,
    ) as answer:
        for line in answer.iter_lines():
            got += line.startswith("data: ")
            if got == 80:
                break
    until(lambda: billed(stack, 10)[0] == 1, "billed")
    _, input_tokens, output_tokens = billed(stack, 10)
    whole = post(stack, 11, "chat/completions", body, {"x-standin-tokens": "20"})
    assert whole.status_code == 200
    until(lambda: billed(stack, 11)[0] == 1, "billed")
    assert input_tokens == billed(stack, 11)[1], "the prompt is known, whatever came after"
    assert 20 < output_tokens < 2000, "about what the client got, of the 4000 that it would be"
    settled = [
        json.loads(line)
        for line in stack.sidecar.process.log_path.read_text().splitlines()
        if "exchange_finished" in line and "ext-10" in line
    ]
    assert [(one["provenance"], one["outcome"]) for one in settled] == [
        ("estimated", "disconnected")
    ]


def test_draining_lets_go_of_what_we_do_not_see(run_stack: Callable[..., Stack]) -> None:
    stack = run_stack(
        users=USERS,
        native_metering=True,
        chunk_delay_s=0.05,
        settings={
            "SENTINEL_SERVER__DRAIN_SECONDS": "0.2",
            "SENTINEL_SERVER__HAND_BACK_SECONDS": "5",
        },
    )
    body = {"model": "gpt-4o-mini", "messages": HELLO, "stream": True}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, stack, 1, "chat/completions", body, {"x-standin-tokens": "60"})
        assert stack.openai is not None
        until(lambda: bool(stack.openai and stack.openai.requests()), "at the provider")
        pid = stack.sidecar.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        assert answer.result(30).text.rstrip().endswith("data: [DONE]"), "not cut"
    until(lambda: billed(stack, 1)[0] == 1, "billed")
