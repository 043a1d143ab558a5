"""Many open streams at flat memory, and more than it can do, through the real Envoy.

``SOAK_STREAMS`` (60) and ``SOAK_STREAM_SECONDS`` (8) say how many and for how
long; `make reliability` takes 1,000 for five minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from sentinel_extproc.demo.stack import Stack
from tests.faults.gateway import CHAT, DONE, clients, eventually, metric, misbilled
from tests.faults.outcome import Outcome

StartStack = Callable[..., Stack]

STREAMS = int(os.environ.get("SOAK_STREAMS", "60"))
SECONDS = float(os.environ.get("SOAK_STREAM_SECONDS", "8"))
CHUNK_S = 1.0 if SECONDS > 60 else 0.1
MOST_GROWTH = 1.05
"""Over the last half."""

PLENTY = {"SENTINEL_LIMITS__REQUESTS": "1000000", "SENTINEL_LIMITS__ZION_QUOTAS": "false"}
USERS = ("demo-ada", "demo-bo", "demo-guest")
POOL = httpx.Limits(max_connections=None, max_keepalive_connections=0)


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def one_stream(
    http: httpx.AsyncClient, url: str, token: str, tokens: int
) -> tuple[int, bool]:
    """Status, and whether it came whole; nothing of it is kept."""
    headers = {"authorization": f"Bearer {token}", "x-standin-tokens": str(tokens)}
    body = CHAT | {"stream": True}
    tail = b""
    async with http.stream("POST", url, json=body, headers=headers) as answer:
        async for piece in answer.aiter_raw():
            tail = (tail + piece)[-64:]
        return answer.status_code, DONE in tail


async def sampled(pid: int, every_s: float, samples: list[tuple[float, float]]) -> None:
    while True:
        samples.append((time.monotonic(), resident_mib(pid)))
        await asyncio.sleep(every_s)


@pytest.mark.timeout(180 + 3 * SECONDS)
async def test_open_streams_at_flat_memory(run_stack: StartStack, outcome: Outcome) -> None:
    stack = await asyncio.to_thread(run_stack, chunk_delay_s=CHUNK_S, settings=PLENTY)
    url, pid = f"{stack.url}/v1/chat/completions", stack.sidecar.process.pid
    samples: list[tuple[float, float]] = []
    most = 0.0
    async with httpx.AsyncClient(trust_env=False, timeout=120, limits=POOL) as http:
        # The first ones load what is needed once.
        await asyncio.gather(*(one_stream(http, url, user, 1) for user in USERS))
        watching = asyncio.create_task(sampled(pid, SECONDS / 100, samples))
        tokens = int(SECONDS / CHUNK_S)
        running = []
        for number in range(STREAMS):
            # Not all in one moment: this is about memory. Bursts are the other test's.
            running.append(asyncio.create_task(one_stream(http, url, USERS[number % 3], tokens)))
            await asyncio.sleep(SECONDS / 20 / STREAMS)
        while not all(task.done() for task in running):
            most = max(most, await asyncio.to_thread(metric, stack, "sentinel_exchanges_live"))
            await asyncio.sleep(SECONDS / 20)
        watching.cancel()
        for task in running:
            status, whole = task.result()
            outcome.saw(status if whole else f"{status}, cut", held=status == 200 and whole)
    outcome.lost = await asyncio.to_thread(misbilled, stack)
    half, end = _levels(samples)
    outcome.figures = {
        "open at once": f"{most:,.0f}",
        "for": f"{SECONDS / 60:.1f} min",
        "memory at half time and at the end": f"{half:.0f} and {end:.0f} MiB",
    }
    assert outcome.held == STREAMS, outcome.clients
    assert most == STREAMS, "they were to be open at the same time"
    assert outcome.lost == 0
    assert end <= half * MOST_GROWTH, samples


def _levels(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """The median memory of the tenth of the time before the half, and of the last one."""
    began, ended = samples[0][0], samples[-1][0]

    def between(low: float, high: float) -> float:
        span = ended - began
        return statistics.median(
            mib for at, mib in samples if began + low * span <= at <= began + high * span
        )

    return between(0.4, 0.5), between(0.9, 1.0)


async def test_more_than_it_can_do_is_shed_and_who_is_let_in_is_served(
    run_stack: StartStack, outcome: Outcome
) -> None:
    most = 20
    stack = await asyncio.to_thread(
        run_stack,
        chunk_delay_s=0.05,
        settings=PLENTY | {"SENTINEL_OVERLOAD__MAX_EXCHANGES": str(most)},
    )
    url = f"{stack.url}/v1/chat/completions"
    over = asyncio.get_running_loop().time() + 5
    peak = 0.0

    async def caller(http: httpx.AsyncClient, user: str) -> None:
        while asyncio.get_running_loop().time() < over:
            status, whole = await one_stream(http, url, user, 20)
            promised = (status == 200 and whole) or status == 503
            outcome.saw("200, cut" if status == 200 and not whole else status, held=promised)

    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=POOL) as http:
        running = [asyncio.create_task(caller(http, USERS[number % 3])) for number in range(80)]
        while not all(task.done() for task in running):
            peak = max(peak, await asyncio.to_thread(_reached, stack))
            await asyncio.sleep(0.1)
        await asyncio.gather(*running)
    outcome.lost = await asyncio.to_thread(misbilled, stack)
    outcome.over = max(0, int(peak) - most)
    assert outcome.held == outcome.tried, outcome.clients
    assert set(outcome.clients) == {"200", "503"}
    assert (outcome.lost, outcome.over) == (0, 0)
    with clients(stack, *USERS) as (ada, *_):
        eventually(lambda: metric(stack, "sentinel_exchanges_live") == 0)
        assert ada.chat().status_code == 200


BURST = 1000


async def burst(stack: Stack, count: int, outcome: Outcome) -> None:
    """So many requests in one moment, each on a connection of its own that is there already."""
    port = int(stack.url.rpartition(":")[2])
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    async with asyncio.timeout(120):
        ended = await asyncio.gather(
            *(_asked(*one, USERS[number % 3]) for number, one in enumerate(opened))
        )
    for answer in ended:
        if answer.status_code == 503:
            # Ours says what it is; for whom we didn't even read Envoy says it, and when to come.
            told = int(answer.headers["retry-after"]) >= 1 and "error" in answer.json()
            outcome.saw(503, held=told)
        else:
            outcome.saw(answer.status_code, held=answer.status_code == 200)


async def _asked(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str
) -> httpx.Response:
    body = json.dumps(CHAT).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n"
        f"authorization: Bearer {user}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    headers = dict(line.split(": ", 1) for line in lines)
    content = await reader.read()
    writer.close()
    return httpx.Response(int(first.split()[1]), headers=headers, content=content)


@pytest.mark.parametrize("most_wait_s", [0.5, 0.01])
async def test_a_thousand_at_once_are_served_or_shed_in_time(
    run_stack: StartStack, outcome: Outcome, most_wait_s: float
) -> None:
    """On a gateway that has seen nobody yet. How many are shed depends on the machine, so it is
    given little patience the second time."""
    stack = await asyncio.to_thread(
        run_stack, settings=PLENTY | {"SENTINEL_OVERLOAD__MAX_WAIT_SECONDS": str(most_wait_s)}
    )
    await burst(stack, BURST, outcome)
    outcome.lost = await asyncio.to_thread(misbilled, stack)
    assert set(outcome.clients) <= {"200", "503"}, outcome.clients
    assert outcome.held == BURST
    assert outcome.lost == 0
    shed = await asyncio.to_thread(
        metric, stack, "sentinel_overload_turned_away_total", reason="queue"
    )
    assert shed >= outcome.clients["503"] > 0 or most_wait_s > 0.01
    with clients(stack, *USERS) as (ada, *_):
        # It recovers by itself, at once.
        assert (await asyncio.to_thread(ada.chat)).status_code == 200
        assert await asyncio.to_thread(metric, stack, "sentinel_exchanges_live") == 0


def _reached(stack: Stack) -> float:
    """Exchanges that hold an intent: those that were let through to the provider."""
    return metric(stack, "sentinel_ledger_intents")
