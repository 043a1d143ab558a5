"""What tests of the ledger share: an exchange's intent, and a process that is killed while it
appends."""

from __future__ import annotations

import subprocess
import sys
import time

from sentinel_extproc.usage.record import Intent

_MOST_S = 60


def intent(number: int = 0) -> Intent:
    """The intent of the exchange of that number."""
    return Intent(
        id=f"0198c0de-0000-7000-8000-{number:012}",
        occurred_at_ms=1_767_225_600_000,
        external_id="ext-a",
        email="a@example.org",
        endpoint="chat",
        model="gpt-4o",
        request_id="r-1",
        predicted_input_tokens=100,
        reserved_output_tokens=500,
    )


def run_and_kill(worker: str, *arguments: str, least: int) -> tuple[set[str], set[str]]:
    """Run a script that says ``try ID`` and ``ack ID``, and kill -9 it after ``least`` lines; the
    ids that were tried, and those that were acknowledged, before that."""
    process = subprocess.Popen(
        [sys.executable, "-c", worker, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    deadline = time.monotonic() + _MOST_S
    for line in process.stdout:
        lines.append(line)
        if len(lines) >= least or time.monotonic() > deadline:
            break
    process.kill()
    lines += process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    process.wait(timeout=_MOST_S)
    words = [line.split() for line in lines if line.endswith("\n")]
    return {w[1] for w in words if w[0] == "try"}, {w[1] for w in words if w[0] == "ack"}
