"""The worst time that one hostile exchange keeps the event loop from all others.

    python -m bench.event_loop [--rounds 8] [--only WORD]

Drives the real driver, estimator and thread pool, without gRPC, Redis and disk: what is measured is
what our own code does to its event loop. Each case sends hostile exchanges one after the other
while ordinary ones run beside them. A probe sleeps for 1 ms again and again; how much longer than
that it took is a gap. The first case has no hostile exchange: what it shows is the machine's noise.
A machine that is busy elsewhere only adds to gaps. So what the code causes is taken from the
quietest round, and of each gap only the time in which this process computed; the worst of that is
held against the target.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import uvloop
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from sentinel_extproc.endpoints.json_body import MAX_CONTAINERS, MAX_VALUES
from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Growth, Quantities, Reservation, ReserveRequest
from sentinel_extproc.pauses import keep_pauses_short
from sentinel_extproc.telemetry.facts import Fact, InternalFault
from sentinel_extproc.tokens.encodings import preload
from sentinel_extproc.tokens.estimator import TokenEstimator
from sentinel_extproc.transport.driver import Driver
from sentinel_extproc.transport.pb import sentinel_ext_proc_pb2 as pb
from sentinel_extproc.transport.questions import INLINE_BYTES
from sentinel_extproc.usage.record import Intent, UsageRecord

MB = 1_000_000
TARGET_S = 0.010
EVERY_S = 0.001
FRAME = 16_384
ORDINARY_EVERY_S = 0.01

SHORT_ANSWER = json.dumps({"usage": {"prompt_tokens": 9, "completion_tokens": 3}}).encode()


@dataclass(frozen=True)
class Case:
    """One hostile exchange.

    Attributes:
        answer: the answer's body in one frame, or in ``FRAME`` bytes each when it is streamed.
        clamp: output that the limits grant; 0: all that is asked for.
        leaves: the client goes away before the answer's last byte.
    """

    name: str
    body: bytes
    path: str = "/v1/chat/completions"
    answer: bytes = SHORT_ANSWER
    streamed: bool = False
    clamp: int = 0
    leaves: bool = False


def chat(content: object, **more: object) -> bytes:
    """A request with one message."""
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": "gpt-4o", "messages": messages} | more, ensure_ascii=False).encode()


def tools(size: int) -> bytes:
    """Functions whose parameters have to be rendered, ``size`` bytes of them."""
    one: dict[str, Any] = {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Looks things up.\nIn many places.",
            "parameters": {
                "type": "object",
                "properties": {
                    f"field_{number}": {"type": ["string", "null"], "description": "A field."}
                    for number in range(20)
                },
                "required": ["field_1"],
            },
        },
    }
    count = size // len(json.dumps(one))
    return chat("hi", tools=[one] * count)


def nested(containers: int) -> bytes:
    """Arrays and objects 100 deep, again and again."""
    one = '[{"a":' * 50 + "1" + "}]" * 50
    return chat("hi", metadata=[0]).replace(
        b"[0]", f"[{','.join([one] * (containers // 100))}]".encode()
    )


def delta(text: str) -> bytes:
    """One event of a stream."""
    chunk = {"choices": [{"index": 0, "delta": {"content": text}}]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def whole(text: str, **more: object) -> bytes:
    """An unstreamed answer."""
    answer = {"choices": [{"index": 0, "message": {"content": text}}]} | more
    return json.dumps(answer, ensure_ascii=False).encode()


WORDS = "the quick brown fox jumps over the lazy dog, 1234 times. "
USAGE = {"prompt_tokens": 9, "completion_tokens": 300_000}


def cases() -> list[Case]:
    """All of them."""
    prose = WORDS * (MB // len(WORDS))
    small = chat("a" * (INLINE_BYTES - 100))
    events = delta(WORDS * 3) * (MB // len(delta(WORDS * 3)))
    hi = chat("hi")
    return [
        Case("no hostile exchange", b""),
        Case("prose", chat(prose)),
        Case("one letter", chat("a" * MB)),
        Case("2 MB of blanks", chat(" " * 2 * MB)),
        Case("newlines, escaped", chat("\n" * (MB // 2))),
        Case("special tokens", chat("<|endoftext|>" * (MB // 13))),
        Case("emoji", chat("👩‍👩‍👧‍👦" * (MB // 25))),
        Case("zero-width marks", chat("\u200b\u200d\ufeff" * (MB // 9))),
        Case("lone surrogates", chat("?").replace(b"?", b"\\ud800" * (MB // 6))),
        Case("Zalgo", chat("a\u0300\u0301\u0302" * (MB // 7))),
        Case("JSON 100 deep", nested(MAX_CONTAINERS - 10)),
        Case("140,000 numbers", chat("hi", metadata=list(range(100_000, 240_000)))),
        Case("empty objects", chat("hi", metadata=[{}] * (MAX_CONTAINERS - 10))),
        Case("250,000 empty texts", chat("hi", metadata=[""] * (MAX_VALUES - 10))),
        Case("too many texts", chat("hi", metadata=[""] * 330_000)),
        Case("token lists", chat("hi", input=[[1]] * (MAX_CONTAINERS - 10)), path="/v1/embeddings"),
        Case("tools", tools(MB)),
        Case("16,000 messages", many_messages(MB)),
        Case("Responses: prose", responses(prose), path="/v1/responses"),
        Case("unknown API", chat(prose), path="/v1/new/thing"),
        Case("Anthropic", messages(prose), path="/v1/messages"),
        Case("clamped", chat(prose, max_tokens=900), clamp=100),
        Case("streamed, usage asked for", chat(prose, stream=True, stream_options={})),
        Case(f"inline ({INLINE_BYTES} B): one letter", small),
        Case("inline: emoji", chat("👩‍👩‍👧‍👦" * (INLINE_BYTES // 26))),
        Case("inline: tools", tools(INLINE_BYTES - 100)),
        Case("answer: prose, usage", hi, answer=whole(prose, usage=USAGE)),
        Case("answer: prose, no usage", hi, answer=whole(prose)),
        Case("answer: one letter, no usage", hi, answer=whole("a" * MB)),
        Case("answer: 10 MB of prose, usage", hi, answer=whole(prose * 10, usage=USAGE)),
        Case("stream, no usage", hi, answer=events + b"data: [DONE]\n\n", streamed=True),
        Case("stream, client leaves", hi, answer=events, streamed=True, leaves=True),
        Case("stream: one letter", hi, answer=delta("a" * 1000) * 1000, streamed=True),
        Case("stream: an event of 1 MB", hi, answer=delta("a" * (MB - 100)), streamed=True),
    ]


def many_messages(size: int) -> bytes:
    """Very many short messages."""
    one = {"role": "user", "content": "hi there, you"}
    return json.dumps({"model": "gpt-4o", "messages": [one] * (size // 62)}).encode()


def responses(text: str) -> bytes:
    """A request to the Responses API."""
    return json.dumps({"model": "gpt-4o", "input": text}).encode()


def messages(text: str) -> bytes:
    """An Anthropic-style request."""
    turns = [{"role": "user", "content": text}]
    return json.dumps({"model": "claude-x", "max_tokens": 9, "messages": turns}).encode()


class Stubs:
    """What the driver talks to, answering at once."""

    def __init__(self) -> None:
        self.clamp = 0
        self.faults = 0
        self.bill: UsageRecord | None = None

    async def authenticate(self, token: str) -> Principal:
        return Principal(token, "u", "u@example.org")

    recheck = authenticate

    async def reserve(self, request: ReserveRequest) -> Reservation:
        held = request.predicted
        if self.clamp and held.output_tokens > self.clamp:
            held = replace(held, output_tokens=self.clamp)
        return Reservation(request, held)

    async def grow(self, reservation: Reservation, counted: Quantities) -> Growth:  # noqa: ARG002
        return Growth.GROWN

    async def settle(self, reservation: Reservation, actual: Quantities) -> None:
        """Forget it."""

    def check_room(self) -> None:
        """There is."""

    def begin(self, intent: Intent) -> None:
        """Forget it."""

    async def abandon(self, exchange_id: str) -> None:
        """Nothing is begun."""

    async def append(self, record: UsageRecord) -> None:
        self.bill = record

    def emit(self, fact: Fact) -> None:
        self.faults += isinstance(fact, InternalFault)


class Messages:
    """One exchange's messages from Envoy, each sent when the one before is answered."""

    def __init__(self, case: Case) -> None:
        self._next = iter(_messages(case))
        self.replies = 0
        self.came_s = 0.0
        self.behind = 0

    async def read(self) -> bytes | None:
        await asyncio.sleep(0)
        self.came_s = asyncio.get_running_loop().time()
        return next(self._next, None)

    async def write(self, data: bytes) -> None:
        self.replies += bool(data)

    def header(self, name: str) -> bytes:  # noqa: ARG002
        """Nothing."""
        return b""

    def stop_reading(self) -> None:
        """Nothing that is done here asks for it."""


def _messages(case: Case) -> list[bytes]:
    def head(**lines: str) -> pb.HttpHeaders:
        values = [
            pb.HeaderValue(
                key=f":{k}" if k in ("method", "path", "status") else k.replace("_", "-"),
                raw_value=v.encode(),
            )
            for k, v in lines.items()
        ]
        return pb.HttpHeaders(headers=pb.HeaderMap(headers=values))

    kind = "text/event-stream" if case.streamed else "application/json"
    size = FRAME if case.streamed else max(1, len(case.answer))
    frames = [case.answer[at : at + size] for at in range(0, len(case.answer), size)]
    if case.leaves:
        frames.pop()
    last = len(frames) if case.leaves else len(frames) - 1
    sent = [
        pb.ProcessingRequest(
            request_headers=head(method="POST", path=case.path, authorization="Bearer t")
        ),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=case.body, end_of_stream=True)),
        pb.ProcessingRequest(response_headers=head(status="200", content_type=kind)),
        *(
            pb.ProcessingRequest(response_body=pb.HttpBody(body=frame, end_of_stream=place == last))
            for place, frame in enumerate(frames)
        ),
    ]
    return [message.SerializeToString() for message in sent]


Gap = tuple[float, float]
"""Seconds, and those of them in which this process computed."""


async def probe(gaps: list[Gap]) -> None:
    """Collect gaps until cancelled."""
    before, computed = time.perf_counter(), time.process_time()
    while True:
        await asyncio.sleep(EVERY_S)
        now, used = time.perf_counter(), time.process_time()
        gap = now - before - EVERY_S
        gaps.append((gap, min(gap, used - computed)))
        before, computed = now, used


async def ordinary(driver: Driver) -> None:
    """What others send, until cancelled."""
    case = Case("ordinary", chat(WORDS * 5))
    while True:
        await driver.run(Messages(case))
        await asyncio.sleep(ORDINARY_EVERY_S)


@dataclass(frozen=True)
class Result:
    """What one case came to.

    Attributes:
        rounds: the gaps of each hostile exchange.
        took_s: for one hostile exchange.
    """

    rounds: list[list[Gap]]
    took_s: float
    billed: str

    def worst(self) -> float:
        """The worst gap of all, in seconds."""
        return max(gap for gaps in self.rounds for gap, _ in gaps)

    def caused(self) -> float:
        """The worst gap that we computed in, in the quietest round, in seconds."""
        return min(max(computed for _, computed in gaps) for gaps in self.rounds)

    def p99(self) -> float:
        """Over all rounds, in seconds."""
        gaps = sorted(gap for one in self.rounds for gap, _ in one)
        return gaps[int(len(gaps) * 0.99)]


def drivers(pool: ThreadPoolExecutor, *stubs: Stubs) -> Iterator[Driver]:
    """A driver for each, all with one pool."""
    estimator = TokenEstimator()

    def new_exchange(exchange_id: str, started_at_ms: int) -> Exchange:
        return Exchange(
            exchange_id=exchange_id,
            started_at_ms=started_at_ms,
            choose=only(Upstream((("authorization", b"Bearer sk"),))),
            counters=estimator.output_counter,
        )

    for parts in stubs:
        yield Driver(
            new_exchange=new_exchange,
            authenticator=parts,
            estimator=estimator,
            limiter=parts,
            ledger=parts,
            pool=pool,
            emit=parts.emit,
            decision_timeout_s=60.0,
        )


async def measure(case: Case, rounds: int) -> Result:
    """Run one case."""
    stubs = Stubs()
    stubs.clamp = case.clamp
    inputs = [Messages(case) for _ in range(rounds)]  # made before the clock runs
    gaps: list[Gap] = []
    found: list[list[Gap]] = []
    with ThreadPoolExecutor(2) as pool:
        hostile, others = drivers(pool, stubs, Stubs())
        tasks = [asyncio.create_task(probe(gaps))]
        tasks += [asyncio.create_task(ordinary(others)) for _ in range(4)]
        await asyncio.sleep(0.1)
        took = 0.0
        for stream in inputs:
            gaps.clear()
            started = time.perf_counter()
            if case.body:
                await hostile.run(stream)
                await hostile.join(5.0)
                took += (time.perf_counter() - started) / rounds
            await asyncio.sleep(0.02 if case.body else 0.3)
            found.append(gaps.copy())
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    bill = stubs.bill
    billed = f"{bill.usage.input_tokens} + {bill.usage.output_tokens}" if bill else "refused"
    if stubs.faults:
        billed = f"FAULTS: {stubs.faults}"
    return Result(found, took, billed if case.body else "")


def main() -> None:
    """Run every case and print a table."""
    parser = argparse.ArgumentParser(description="gaps in the event loop under hostile bodies")
    parser.add_argument("--rounds", type=int, default=8, help="hostile exchanges of each case")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args()
    preload()
    keep_pauses_short()
    console = Console()
    table = Table("case", "ms each", "caused", "p99", "worst", "billed", "", title="gaps in ms")
    for case in cases():
        if options.only not in case.name:
            continue
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(measure(case, options.rounds))
        times = (result.took_s, result.caused(), result.p99(), result.worst())
        verdict = "" if result.caused() < TARGET_S else "MISSED"
        table.add_row(case.name, *(f"{t * 1e3:.1f}" for t in times), result.billed, verdict)
    console.print(table)


if __name__ == "__main__":
    main()
