"""kill -9 of the sidecar while the provider answers, through the real stack."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from sentinel_extproc.demo.stack import Stack
from sentinel_extproc.usage import reading
from sentinel_extproc.usage.chain import verify
from sentinel_extproc.usage.record import Outcome, TokenUsage

StartStack = Callable[..., Stack]

PRICES = """
currency: USD
models:
  gpt-4o-mini: {input: "0.15", cached_input: "0.075", output: "0.60"}
"""


def eventually(check: Callable[[], bool], *, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def delivered(outbox: Path) -> bool:
    backlog = reading.backlog(outbox)
    return backlog.undelivered == 0


def chat(stack: Stack, **headers: str) -> tuple[str, str, dict[str, str]]:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    given = {"authorization": "Bearer demo-ada", "content-type": "application/json"}
    return f"{stack.url}/v1/chat/completions", json.dumps(body), given | headers


def test_what_was_under_way_at_kill_9_becomes_one_unknown_record(
    run_stack: StartStack, work_dir: Path
) -> None:
    (work_dir / "prices.yaml").write_text(PRICES)
    stack = run_stack(
        chunk_delay_s=0.2,
        settings={
            "SENTINEL_USAGE__PRICES_FILE": str(work_dir / "prices.yaml"),
            "SENTINEL_USAGE__SIDECAR_NAME": "gateway-1",
        },
    )
    outbox = work_dir / "outbox.db"
    with httpx.Client(trust_env=False, timeout=30) as client:
        url, body, headers = chat(stack)
        done = client.post(url, content=body, headers=headers)
        done.raise_for_status()
        streaming = json.dumps(json.loads(body) | {"stream": True})
        with client.stream(
            "POST", url, content=streaming, headers=headers | {"x-standin-tokens": "200"}
        ) as answer:
            assert answer.status_code == 200
            arriving = answer.iter_raw()  # held: a dropped iterator closes the connection
            next(arriving)
            stack.sidecar.process.kill()
            lost = answer.headers["x-sentinel-exchange-id"]
        for _ in range(2):  # the second start finds nothing new
            stack.sidecar.restart()
            eventually(lambda: delivered(outbox))
            stack.sidecar.process.kill()
    found = {kept.id: kept for _, kept in reading.records(outbox, 100, 0)}
    state = reading.ledger(outbox)
    assert set(found) == {done.headers["x-sentinel-exchange-id"], lost}

    unknown = found.pop(lost)
    log = stack.sidecar.process.log_tail(60)
    assert (unknown.outcome, unknown.usage) == (Outcome.UNKNOWN, TokenUsage()), log
    assert (state.unknown, state.name) == (1, "gateway-1")
    assert unknown.external_id
    assert (unknown.requests, unknown.cost_nanos) == (0, None)
    assert unknown.model_requested == "gpt-4o-mini"
    assert unknown.predicted_input_tokens
    assert unknown.reserved_output_tokens
    (kept,) = found.values()
    assert kept.request_id
    assert unknown.request_id not in (None, kept.request_id)
    usage = kept.usage
    assert kept.currency == "USD"
    assert kept.cost_nanos == usage.input_tokens * 150 + usage.output_tokens * 600

    links = [link for link, _ in reading.records(outbox, 100, 0)]
    assert verify(links, reading.gaps(outbox), sidecar=state.sidecar, noted=[state.head]) == []
    assert stack.zion is not None
    billed = [row for row in stack.zion.ledger() if row.external_id == unknown.external_id]
    assert sum(row.requests for row in billed) == 1
    assert "nobody saw how an exchange ended" in stack.sidecar.process.log_path.read_text()
