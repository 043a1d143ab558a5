"""Whatever the provider does reaches the client as it is, and is billed for what it was."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from sentinel_extproc.demo.stack import Stack
from tests.faults.gateway import CHAT, clients, eventually, metric, misbilled
from tests.faults.outcome import Outcome
from tests.faults.test_load import resident_mib

StartStack = Callable[..., Stack]

PLENTY = {"SENTINEL_LIMITS__REQUESTS": "100000"}
HEADERS = {"authorization": "Bearer demo-ada"}
BIG = 100 * 10**6
_MIB = 1 << 20

FAULTS: dict[str | None, set[str]] = {
    None: {"200"},
    "error-500": {"500"},
    "error-429": {"429"},
    "drop-midstream": {"200", "broken", "502"},
    "hang": {"given up"},
    "garbage": {"200"},
    "no-usage": {"200"},
    "gzip": {"200"},
}
"""The stand-in's faults, and what clients may see of each: what the provider did, or Envoy's 502
where a connection broke before the answer's head was through."""


def test_whatever_the_provider_does_the_client_gets_it_and_it_is_billed(
    run_stack: StartStack, outcome: Outcome
) -> None:
    stack = run_stack(settings=PLENTY)

    def call(fault: str | None, stream: bool) -> tuple[str | None, str]:
        headers = HEADERS | {"x-standin-tokens": "30"}
        if fault is not None:
            headers["x-standin-fault"] = fault
        patience = 2.0 if fault == "hang" else 60.0
        try:
            answer = httpx.post(
                f"{stack.url}/v1/chat/completions",
                json=CHAT | {"stream": stream},
                headers=headers,
                trust_env=False,
                timeout=patience,
            )
        except httpx.ReadTimeout:
            return fault, "given up"
        except httpx.RemoteProtocolError:
            return fault, "broken"
        if answer.status_code == 502:
            assert answer.json()["error"]["code"] == "bad_gateway"
        return fault, str(answer.status_code)

    with ThreadPoolExecutor(6) as pool:
        futures = [
            pool.submit(call, fault, stream)
            for fault, stream, _ in itertools.product(FAULTS, (False, True), range(3))
        ]
        for future in futures:
            fault, seen = future.result()
            outcome.saw(seen, held=seen in FAULTS[fault])
    eventually(lambda: metric(stack, "sentinel_exchanges_live") == 0)
    eventually(lambda: metric(stack, "sentinel_ledger_intents") == 0)
    assert stack.openai is not None
    recorded = metric(stack, "sentinel_outbox_records_total", result="appended")
    outcome.lost = abs(int(recorded) - len(stack.openai.requests()))
    assert outcome.held == outcome.tried, outcome.clients
    assert outcome.lost == 0
    assert metric(stack, "sentinel_internal_faults_total") == 0


def big_answer(size: int) -> Iterator[bytes]:
    """A chat completion of about ``size`` bytes, in pieces."""
    head = {"id": "big", "object": "chat.completion", "model": "gpt-4o-mini"}
    usage = {"prompt_tokens": 8, "completion_tokens": 77, "total_tokens": 85}
    yield json.dumps(head)[:-1].encode() + b', "choices": [{"index": 0, "message": {"role": '
    yield b'"assistant", "content": "'
    piece = b"All work and no play. " * 3000
    for _ in range(size // len(piece)):
        yield piece
    yield b'"}, "finish_reason": "stop"}], "usage": ' + json.dumps(usage).encode() + b"}"


def test_an_answer_of_100_mb_passes_whole(run_stack: StartStack, outcome: Outcome) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in big_answer(BIG):
            yield piece
            await asyncio.sleep(0)

    async def answer(_: Request) -> StreamingResponse:
        return StreamingResponse(pieces(), media_type="application/json")

    stack = run_stack(settings=PLENTY)
    assert stack.openai is not None
    route = Route("/v1/chat/completions", answer, methods=["POST"])
    stack.openai.app.router.routes.insert(0, route)
    pid, before = stack.sidecar.process.pid, resident_mib(stack.sidecar.process.pid)
    size, most = 0, before
    with httpx.stream(
        "POST",
        f"{stack.url}/v1/chat/completions",
        json=CHAT,
        headers=HEADERS,
        trust_env=False,
        timeout=60,
    ) as got:
        for piece in got.iter_raw():
            size += len(piece)
            most = max(most, resident_mib(pid))
        outcome.saw(got.status_code, held=got.status_code == 200)
    assert size == sum(len(piece) for piece in big_answer(BIG))
    assert stack.zion is not None
    eventually(lambda: bool(stack.zion and stack.zion.ledger()))
    billed = stack.zion.ledger()
    outcome.lost = abs(1 - sum(row.requests for row in billed))
    outcome.figures = {"memory grew by": f"{most - before:.0f} MiB"}
    assert outcome.lost == 0
    # Kept for its usage up to a bound of a few MiB, whatever comes.
    assert (most - before) * _MIB < BIG


def test_a_request_of_100_mb_is_refused_and_never_leaves(
    run_stack: StartStack, outcome: Outcome
) -> None:
    stack = run_stack(settings=PLENTY)
    pid, before = stack.sidecar.process.pid, resident_mib(stack.sidecar.process.pid)

    def body() -> Iterator[bytes]:
        yield b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "'
        for _ in range(BIG // 64_000):
            yield b"x" * 64_000
        yield b'"}]}'

    for told in (True, False):
        headers = HEADERS | {"content-type": "application/json"}
        if told:
            headers["content-length"] = str(sum(len(piece) for piece in body()))
        try:
            answer = httpx.post(
                f"{stack.url}/v1/chat/completions",
                content=body(),
                headers=headers,
                trust_env=False,
                timeout=httpx.Timeout(30, write=3),
            )
            seen = str(answer.status_code)
        except (httpx.WriteError, httpx.RemoteProtocolError):
            seen = "closed"  # while it still sent, before it looked for the answer
        except httpx.WriteTimeout:
            seen = "not read"  # Envoy stops reading once its buffer is full
        outcome.saw(seen, held=seen in ("413", "closed") or (seen == "not read" and not told))
    grown = resident_mib(pid) - before
    outcome.figures = {"memory grew by": f"{grown:.0f} MiB"}
    assert outcome.held == 2, outcome.clients
    assert stack.openai is not None
    assert stack.openai.requests() == []
    with clients(stack, "demo-ada") as (ada,):
        assert ada.chat().status_code == 200
    outcome.lost = misbilled(stack)
    assert outcome.lost == 0
    assert grown * _MIB < BIG
