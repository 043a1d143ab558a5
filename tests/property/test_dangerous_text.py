"""No text is dangerous: whatever is said, where it can be said, the exchange goes its way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from sentinel_extproc.exchange.headers import Upstream
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.providers import only
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Growth, Quantities, Reservation, ReserveRequest
from sentinel_extproc.telemetry.facts import ExchangeFinished, Fact, InternalFault
from sentinel_extproc.tokens.estimator import TokenEstimator
from sentinel_extproc.transport.driver import Driver
from sentinel_extproc.transport.pb import sentinel_ext_proc_pb2 as pb
from sentinel_extproc.usage.record import Intent, UsageRecord

ESTIMATOR = TokenEstimator()

PIECES = [
    *("\ud800", "\udfff", "\ud83d", "\ude00", "\u200b", "\u200d", "\ufeff", "\u202e", "\x00"),
    *("<|endoftext|>", "<|im_start|>", "<|fim_prefix|>", "data: [DONE]\n\n", "\r", "\n\n", "\x85"),
    *("a" * 50, " " * 50, "\U0010ffff", "e\u0301", "\u2028", '"usage":{"prompt_tokens":1}', "\\"),
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=6).map("".join)


def chat(text: str) -> dict[str, Any]:
    function = {"name": text, "description": text, "parameters": {"properties": {text: {}}}}
    call = {"id": text, "type": "function", "function": {"name": text, "arguments": text}}
    return {
        "messages": [
            {"role": text, "name": text, "content": text},
            {"role": "assistant", "content": [{"type": "text", "text": text}]},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": text, "content": text},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": text}}]},
        ],
        "tools": [{"type": "function", "function": function}],
        "response_format": {"type": "json_schema", "json_schema": {"name": text, "schema": {}}},
        "user": text,
    }


REQUESTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "/v1/chat/completions": chat,
    "/v1/completions": lambda text: {"prompt": [text, text], "suffix": text},
    "/v1/responses": lambda text: {
        "instructions": text,
        "input": [{"role": "user", "content": [{"type": "input_text", "text": text}]}],
        "tools": [{"type": "function", "name": text, "parameters": {"properties": {text: {}}}}],
    },
    "/v1/messages": lambda text: {
        "max_tokens": 9,
        "system": text,
        "messages": [{"role": "user", "content": text}],
        "tools": [{"name": text, "description": text, "input_schema": {"properties": {text: {}}}}],
    },
    "/v1/embeddings": lambda text: {"input": [text, text]},
    "/v1/moderations": lambda text: {"input": text},
    "/v1/images/generations": lambda text: {"prompt": text, "size": text, "quality": text},
    "/v1/audio/speech": lambda text: {"input": text or "a", "voice": text, "instructions": text},
    "/v1/new/thing": lambda text: {"anything": {text: text}},
}


def answer(text: str) -> dict[str, Any]:
    """Something of every API at once."""
    part = {"content": text, "refusal": text, "function_call": {"name": text, "arguments": text}}
    return {
        "model": text,
        "type": text,
        "usage": None,
        "choices": [{"index": 0, "text": text, "message": part, "delta": part}],
        "output": [{"type": "message", "name": text, "content": [{"text": text}]}],
        "content": [{"type": "text", "text": text, "name": text, "input": {text: text}}],
        "text": text,
        "delta": text,
    }


class Parts:
    """Answers the driver at once, and clamps."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.records: list[UsageRecord] = []

    async def authenticate(self, token: str) -> Principal:
        return Principal("ext-ada", "u", "ada@example.org")

    recheck = authenticate

    async def reserve(self, request: ReserveRequest) -> Reservation:
        return Reservation(request, Quantities(1, 9, 5, 0))

    async def grow(self, reservation: Reservation, counted: Quantities) -> Growth:
        return Growth.GROWN

    async def settle(self, reservation: Reservation, actual: Quantities) -> None:
        pass

    def check_room(self) -> None:
        pass

    def begin(self, intent: Intent) -> None:
        str(intent).encode()

    async def abandon(self, exchange_id: str) -> None:
        raise AssertionError("every exchange has its record")

    async def append(self, record: UsageRecord) -> None:
        self.records.append(record)


class Script:
    """Messages to the driver, and its replies."""

    def __init__(self, *messages: pb.ProcessingRequest) -> None:
        self.messages = [message.SerializeToString() for message in messages]
        self.replies: list[pb.ProcessingResponse] = []
        self.came_s = 0.0
        self.behind = 0

    async def read(self) -> bytes | None:
        self.came_s = asyncio.get_running_loop().time()
        answered = self.replies and self.replies[-1].HasField("immediate_response")
        return self.messages.pop(0) if self.messages and not answered else None

    async def write(self, data: bytes) -> None:
        self.replies.append(pb.ProcessingResponse.FromString(data))

    def header(self, name: str) -> bytes:
        """Nothing."""
        return b""

    def stop_reading(self) -> None:
        """Nothing that is done here asks for it."""


def head(**lines: str) -> pb.HttpHeaders:
    names = {"method": ":method", "path": ":path", "status": ":status", "kind": "content-type"}
    values = [
        pb.HeaderValue(key=names.get(name, name), raw_value=value.encode())
        for name, value in lines.items()
    ]
    return pb.HttpHeaders(headers=pb.HeaderMap(headers=values))


def script(path: str, request: dict[str, Any], text: str) -> Script:
    kind, said = "application/json", json.dumps(answer(text)).encode()
    if request["stream"]:
        kind, said = "text/event-stream", b"data: " + said + b"\n\ndata: [DONE]\n\n"
    asked = json.dumps(request).encode()
    return Script(
        pb.ProcessingRequest(
            request_headers=head(method="POST", path=path, authorization="Bearer t")
        ),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=asked, end_of_stream=True)),
        pb.ProcessingRequest(response_headers=head(status="200", kind=kind)),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=said[:40])),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=said[40:], end_of_stream=True)),
    )


@pytest.mark.parametrize("path", REQUESTS)
@given(text=TEXTS, model=st.just("gpt-4o") | TEXTS, streamed=st.booleans())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_is_counted_or_refused(path: str, text: str, model: str, streamed: bool) -> None:
    stream = script(path, {"model": model, "stream": streamed} | REQUESTS[path](text), text)
    parts = Parts()
    with ThreadPoolExecutor(1) as pool:
        driver = Driver(
            new_exchange=lambda exchange_id, started_at_ms: Exchange(
                exchange_id=exchange_id,
                started_at_ms=started_at_ms,
                choose=only(Upstream((("authorization", b"Bearer sk"),))),
                counters=ESTIMATOR.output_counter,
            ),
            authenticator=parts,
            estimator=ESTIMATOR,
            limiter=parts,
            ledger=parts,
            pool=pool,
            emit=parts.facts.append,
        )
        asyncio.run(driver.run(stream))
    last = stream.replies[-1]
    refused = last.HasField("immediate_response")
    if refused:
        assert 400 <= last.immediate_response.status.code < 500
    assert len(parts.records) == int(not refused)
    for fact in parts.facts:
        assert not isinstance(fact, InternalFault)
        assert not (isinstance(fact, ExchangeFinished) and fact.metering_faults)
    for record in parts.records:
        for value in astuple(record):
            str(value).encode()  # as it is stored and reported
