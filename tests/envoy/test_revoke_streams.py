"""``revoke --streams`` on the command line, through the admin port, under running streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from click.testing import CliRunner

from sentinel_extproc.cli import main
from sentinel_extproc.demo.stack import Stack

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Go on."}], "stream": True}


def stream(stack: Stack, token: str, started: threading.Barrier) -> str:
    text = ""
    begun = False
    try:
        with httpx.stream(
            "POST",
            f"{stack.url}/v1/chat/completions",
            json=CHAT,
            headers={"authorization": f"Bearer {token}", "x-standin-tokens": "200"},
            trust_env=False,
            timeout=60,
        ) as answer:
            for piece in answer.iter_text():
                text += piece
                if not begun:
                    begun = True
                    started.wait(20)
    except httpx.RemoteProtocolError:
        pass  # the connection is broken off once the last event is out
    return text


def test_a_users_running_streams_end_and_nobody_elses(
    run_stack: Callable[..., Stack], work_dir: Path
) -> None:
    stack = run_stack(chunk_delay_s=0.05)
    started = threading.Barrier(3)
    with ThreadPoolExecutor(2) as pool:
        ada = pool.submit(stream, stack, "demo-ada", started)
        bo = pool.submit(stream, stack, "demo-bo", started)
        started.wait(20)
        result = CliRunner().invoke(
            main,
            [
                *("revoke", "--user", "ext-ada", "--streams", "--reason", "test", "--json"),
                *("--admin", f"unix:{work_dir / 'admin.sock'}"),
            ],
        )
        assert result.exit_code == 0, result.output
        texts = ada.result(60), bo.result(60)
    assert "revoked" in texts[0]
    assert "[DONE]" not in texts[0]
    assert texts[1].endswith("data: [DONE]\n\n")
    assert stack.openai is not None
    assert stack.zion is not None
    end = time.monotonic() + 20
    while len({row.external_id for row in stack.zion.ledger()}) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    by_user = {row.external_id: row.output_tokens for row in stack.zion.ledger()}
    assert 0 < by_user["ext-ada"] < by_user["ext-bo"]
    complete = sorted(row.complete for row in stack.openai.served())
    assert complete == [False, True], "the provider was stopped"
