"""A load test as people run it: the command, against the real Envoy and sidecar."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sentinel_extproc.demo.stack import Stack
from sentinel_extproc.demo.zion_standin import DEMO_USERS

SCENARIO = """
target: http://127.0.0.1:1
users: {tokens_file: tokens.txt}
load: {users: 4, duration: 60s, max_requests: 60}
mix:
  - {name: streams, stream: true, headers: {x-standin-tokens: "12"}}
  - {name: answers, models: [gpt-4o-mini, gpt-4o]}
  - {name: search, endpoint: embeddings, models: text-embedding-3-small}
  - {name: broken, headers: {x-standin-fault: error-500}}
  - {name: strangers, headers: {authorization: Bearer nobody}}
""".replace("[gpt-4o-mini, gpt-4o]", "{gpt-4o-mini: 2, gpt-4o: 1}")


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    (tmp_path / "tokens.txt").write_text("\n".join(user.token for user in DEMO_USERS))
    file = tmp_path / "mix.yaml"
    file.write_text(SCENARIO)
    return file


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "sentinel_extproc", "load", *map(str, arguments)]


def told(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_it_loads_and_reports(stack: Stack, scenario: Path, tmp_path: Path) -> None:
    assert stack.openai is not None
    before = len(stack.openai.requests())
    done = subprocess.run(
        command(
            scenario,
            "--url",
            stack.url,
            "--json",
            tmp_path / "r.json",
            "--html",
            tmp_path / "r.html",
            "--fail-if",
            "requests<60",
            "--fail-if",
            "error_rate[broken]<100%",
            "--fail-if",
            "p50_ttft[streams]>1m",
        ),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = told(tmp_path / "r.json")
    kinds = {row["name"]: row for row in report["kinds"]}
    assert report["ended_by"] == "max_requests"
    assert report["all"]["requests"] == 60
    for name in ("streams", "answers", "search"):
        assert kinds[name]["ok"] == kinds[name]["requests"] > 0
    assert kinds["broken"]["reasons"] == {"HTTP 500": kinds["broken"]["failed"]}
    assert kinds["strangers"]["reasons"] == {"invalid_api_key": kinds["strangers"]["refused"]}
    # What the provider saw is what was sent, less what never got there.
    seen = len(stack.openai.requests()) - before
    assert seen == 60 - kinds["strangers"]["requests"]
    streams = kinds["streams"]
    assert streams["ttft"]["count"] == streams["ok"]
    assert streams["output_tokens"] == 12 * streams["ok"]
    assert streams["untold"] == 0
    assert "strangers" in done.stdout
    assert b"demo-ada" not in (tmp_path / "r.html").read_bytes()
    assert b"default-src &#x27;none&#x27;" in (tmp_path / "r.html").read_bytes()


def test_a_condition_that_does_not_hold_fails_it(stack: Stack, scenario: Path) -> None:
    done = subprocess.run(
        command(scenario, "--url", stack.url, "--max-requests", 3, "--fail-if", "requests<4"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "✗ fail if requests<4: 3" in done.stdout


def test_ctrl_c_ends_it_with_the_report(stack: Stack, scenario: Path, tmp_path: Path) -> None:
    assert stack.openai is not None
    before = len(stack.openai.requests())
    running = subprocess.Popen(
        command(
            scenario,
            "--url",
            stack.url,
            "--duration",
            "1h",
            "--max-requests",
            10_000_000,
            "--json",
            tmp_path / "r.json",
        ),
        stdout=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while len(stack.openai.requests()) < before + 5:
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        shown, _ = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 130
    assert "interrupted" in shown.decode()
    assert told(tmp_path / "r.json")["ended_by"] == "interrupted"
