"""Shadow mode behind the real Envoy: traffic flows as if we weren't there, and the report tells."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from sentinel_extproc.demo.stack import PROVIDER_KEY, Stack
from sentinel_extproc.shadow.report import report
from sentinel_extproc.shadow.store import ShadowStore
from tests.envoy.conftest import StartStack

TOKEN = "demo-ada"
STRANGER = "sk-somebody-elses"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
_DEADLINE_S = 30.0


def shadowed(run_stack: StartStack, work_dir: Path, *, observing: bool, **more: str) -> Stack:
    stack = run_stack(
        settings={
            "SENTINEL_SERVER__MODE": "shadow",
            "SENTINEL_SHADOW__REPORT_PATH": str(work_dir / "shadow.db"),
            "SENTINEL_LIMITS__REQUESTS": "2",
            "SENTINEL_LIMITS__PERIOD_SECONDS": "3600",
            **more,
        },
        attachment={"shadow": observing},
    )
    assert stack.openai is not None
    stack.openai.accept(TOKEN, STRANGER)  # it is the clients' own tokens that go upstream
    return stack


def post(stack: Stack, body: bytes, token: str = TOKEN, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{stack.url}/v1/chat/completions",
        content=body,
        headers={
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            "x-sentinel-user": "as-it-came",
            "accept-encoding": "identity",
            **headers,
        },
        trust_env=False,
        timeout=30,
    )


def told(work_dir: Path, requests: int) -> dict[str, Any]:
    """The report, once it knows of that many requests."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        found = report(ShadowStore(work_dir / "shadow.db").read())
        if found["requests"] >= requests:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


@pytest.mark.parametrize("observing", [True, False], ids=["observing", "inline"])
def test_requests_flow_untouched_and_the_report_names_who_would_be_refused(
    run_stack: StartStack, work_dir: Path, observing: bool
) -> None:
    stack = shadowed(run_stack, work_dir, observing=observing)
    assert stack.openai is not None
    assert stack.zion is not None
    whole = json.dumps(CHAT, indent=1).encode()
    streamed = json.dumps(CHAT | {"stream": True}, indent=1).encode()
    for body in (whole, streamed, whole, streamed):
        answer = post(stack, body)
        assert answer.status_code == 200, answer.text
        assert "x-sentinel-exchange-id" not in answer.headers
        assert not any(b"x-sentinel" in name for name, _ in answer.headers.raw)
        seen = stack.openai.requests()[-1]
        assert seen.body.encode() == body
        assert seen.header("authorization") == f"Bearer {TOKEN}"
        assert seen.header("x-sentinel-user") == "as-it-came"
        if body is streamed:
            assert answer.text.rstrip().endswith("data: [DONE]")
        else:
            assert answer.headers["content-length"] == str(len(answer.content))
    assert post(stack, whole, STRANGER).status_code == 200
    assert post(stack, b"{broken").status_code == 400  # the provider's own answer
    found = told(work_dir, 6)
    rows = {(row["reason"], row["limit"]): row for row in found["rows"]}
    assert rows["rate_limit_exceeded", "requests"]["requests"] == 2
    assert rows["rate_limit_exceeded", "requests"]["share_of_users_requests"] == 0.4
    assert rows["invalid_api_key", None]["user"] == "(unknown)"
    assert rows["invalid_json", None]["requests"] == 1
    assert (found["requests"], found["would_be_refused"]) == (6, 4)
    assert not stack.zion.ledger()


def test_with_swap_whoever_would_be_let_through_gets_the_key(
    run_stack: StartStack, work_dir: Path
) -> None:
    swap = {"SENTINEL_SHADOW__SWAP_CREDENTIALS": "true"}
    stack = shadowed(run_stack, work_dir, observing=False, **swap)
    assert stack.openai is not None
    stack.openai.accept(PROVIDER_KEY, STRANGER)
    body = json.dumps(CHAT, indent=1).encode()
    for token, sent in ((TOKEN, PROVIDER_KEY), (STRANGER, STRANGER)):
        assert post(stack, body, token).status_code == 200
        seen = stack.openai.requests()[-1]
        assert seen.header("authorization") == f"Bearer {sent}"
        assert seen.body.encode() == body


def test_when_the_sidecar_is_killed_traffic_flows(run_stack: StartStack, work_dir: Path) -> None:
    stack = shadowed(run_stack, work_dir, observing=True)
    body = json.dumps(CHAT).encode()
    assert post(stack, body).status_code == 200
    stack.sidecar.process.kill()
    for _ in range(3):
        assert post(stack, body).status_code == 200


def test_a_large_body_passes_where_enforcing_would_refuse_it(
    run_stack: StartStack, work_dir: Path
) -> None:
    stack = shadowed(run_stack, work_dir, observing=True)
    body = json.dumps(CHAT | {"user": "x" * (3 << 20)}).encode()
    assert post(stack, body).status_code == 200
    assert stack.openai is not None
    assert stack.openai.requests()[-1].body_bytes == len(body)
