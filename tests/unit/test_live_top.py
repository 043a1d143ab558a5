"""A running sidecar at a glance."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
import termios

import pytest
from click.testing import CliRunner

from sentinel_extproc.admin.guard import Access
from sentinel_extproc.admin.routes import admin_app
from sentinel_extproc.admin.server import AdminServer
from sentinel_extproc.live_cli.rates import between, read_look
from sentinel_extproc.live_cli.top_command import top, zion_word

BEFORE = """
# TYPE sentinel_exchanges_total counter
sentinel_exchanges_total{decision="admitted",code="",endpoint="chat",model="gpt-4o"} 100
sentinel_exchanges_total{decision="denied",code="limit",endpoint="chat",model="gpt-4o"} 10
# TYPE sentinel_tokens_total counter
sentinel_tokens_total{kind="input",provenance="provider",model="gpt-4o"} 1000
sentinel_tokens_total{kind="cached_input",provenance="provider",model="gpt-4o"} 500
"""
AFTER = """
# TYPE sentinel_exchanges_total counter
sentinel_exchanges_total{decision="admitted",code="",endpoint="chat",model="gpt-4o"} 120
sentinel_exchanges_total{decision="denied",code="limit",endpoint="chat",model="gpt-4o"} 4
# TYPE sentinel_tokens_total counter
sentinel_tokens_total{kind="input",provenance="provider",model="gpt-4o"} 1500
sentinel_tokens_total{kind="cached_input",provenance="provider",model="gpt-4o"} 900
sentinel_tokens_total{kind="output",provenance="provider",model="[bold]\\u001b"} 100
"""


def test_rates_between_two_looks() -> None:
    rates = between(read_look(BEFORE, 10.0), read_look(AFTER, 20.0))
    assert (rates.admitted, rates.input_tokens, rates.output_tokens) == (2.0, 50.0, 10.0)
    assert rates.refused == 0.4  # it fell, so it began at 0 again
    assert dict(rates.reasons) == {"limit": 0.4}
    # Cached input is a part of input: it counts for no model a second time.
    assert rates.models["gpt-4o"] == 50.0
    assert rates.endpoints["chat"] == 2.4


def test_the_busiest_come_first_and_the_others_are_left_out() -> None:
    text = "".join(
        f'sentinel_tokens_total{{kind="input",provenance="p",model="m{n}"}} {n}\n'
        for n in range(1, 30)
    )
    rates = between(read_look("", 0.0), read_look(text, 1.0))
    assert list(rates.models)[:2] == ["m29", "m28"]
    assert len(rates.models) == 8


async def test_without_a_terminal_it_prints_once() -> None:
    texts = iter([BEFORE, AFTER, BEFORE, AFTER, "}{"])

    async def status() -> dict[str, object]:
        return {
            "exchanges": {"live": 7},
            "zion": {"lookup_breaker": "closed"},
            "workers": [
                {"worker": 0, "state": "serving", "answers": True},
                {"worker": 1, "state": "down", "answers": False, "failing": True, "failures": 6},
            ],
            "restarts": {"died": 6},
            "top": {"users": {"ext-\x1b[2Jada": 12345}, "models": {"gpt-4o": 12}},
        }

    app = admin_app(
        exposition=lambda _: (next(texts).encode(), "text/plain"),
        checks={},
        status=status,
        access=Access(token="admin-token-0123456789abcdef", trusted_peers=False),
        hosts=None,
    )
    server = AdminServer(app, listen="127.0.0.1:0")
    await server.start()
    asked = ["--admin", f"http://127.0.0.1:{server.port}", "--interval", "0.2"]
    environment = {"SENTINEL_ADMIN__TOKEN": "admin-token-0123456789abcdef", "COLUMNS": "100"}
    try:
        shown = await asyncio.to_thread(CliRunner().invoke, top, asked, env=environment)
        parsed = await asyncio.to_thread(
            CliRunner().invoke, top, [*asked, "--json"], env=environment
        )
        foreign = await asyncio.to_thread(CliRunner().invoke, top, asked, env=environment)
    finally:
        await server.aclose()
    assert shown.exit_code == 0, shown.output
    for word in ("ext-\\x1b[2Jada", "12,345", "gpt-4o", "limit", "running", "up", "[bold]"):
        assert word in shown.output
    assert "\x1b" not in shown.output
    said = " ".join(shown.output.split())
    assert (
        "Workers: worker 1 keeps failing; failed 6 times in a row; 1 of 2 serve; 6 restarts" in said
    )
    told = json.loads(parsed.output)
    assert told["status"]["exchanges"]["live"] == 7
    assert told["admitted_per_second"] > 0
    assert foreign.exit_code == 3


@pytest.mark.parametrize(
    ("zion", "word"),
    [
        ({"lookup_breaker": "closed", "own_key": "not refused"}, "up"),
        ({"lookup_breaker": "half_open", "own_key": "not refused"}, "being tried again"),
        ({"lookup_breaker": "open", "own_key": "not refused"}, "away"),
        ({"lookup_breaker": "closed", "own_key": "refused"}, "refuses our key"),
        ({}, "—"),
    ],
)
def test_zion_is_told_of_in_words(zion: dict[str, str], word: str) -> None:
    assert zion_word(zion) == word


async def test_on_a_terminal_q_ends_it_and_the_terminal_is_as_before() -> None:
    async def status() -> dict[str, object]:
        return {}

    app = admin_app(
        exposition=lambda _: (AFTER.encode(), "text/plain"),
        checks={},
        status=status,
        access=Access(token="admin-token-0123456789abcdef", trusted_peers=False),
        hosts=None,
    )
    server = AdminServer(app, listen="127.0.0.1:0")
    await server.start()
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sentinel_extproc", "top", "--interval", "0.2"),
        *("--admin", f"http://127.0.0.1:{server.port}"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"SENTINEL_ADMIN__TOKEN": "admin-token-0123456789abcdef", "TERM": "xterm"},
    )
    try:
        async with asyncio.timeout(60):
            shown = b""
            while b"admitted" not in shown:
                shown += await asyncio.to_thread(os.read, ours, 65536)
            os.write(ours, b"q")
            drain = asyncio.create_task(asyncio.to_thread(_drain, ours))
            assert await process.wait() == 0
            after = termios.tcgetattr(theirs)
            os.close(theirs)
            await drain
    finally:
        if process.returncode is None:
            process.kill()
        await server.aclose()
        os.close(ours)
    assert after == before


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass  # the other side is closed
