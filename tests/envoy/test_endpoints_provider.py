"""Every kind of answer through the real Envoy: what is billed is what was served."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
import json
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sentinel_extproc.demo.hosting import drop_connection, serve_app
from sentinel_extproc.demo.stack import PROVIDER_KEY, ZION_KEY, Services, Stack, start_stack
from sentinel_extproc.demo.zion_standin import ZionStandIn
from sentinel_extproc.demo.zion_state import ZionUser
from sentinel_extproc.endpoints.form import MAX_KEPT_BYTES
from sentinel_extproc.tokens.estimator import TokenEstimator

ESTIMATOR = TokenEstimator()
GPT = "gpt-4.1"
CLAUDE = "claude-sonnet-4-5"
WORDS = ["The ", "quick ", "bro", "wn ", "fox 🦊 ", "jumps"]
BUFFER_BYTES = 16 << 20
"""Envoy's buffer as rendered: a body that must be kept whole can't be larger."""

RESPONSES = {"model": GPT, "input": "Tell me about foxes.", "stream": True}
CHAT = {
    "model": GPT,
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [{"role": "user", "content": "Tell me about foxes."}],
}
MESSAGES = {
    "model": CLAUDE,
    "max_tokens": 64,
    "stream": True,
    "messages": [{"role": "user", "content": "Tell me about foxes."}],
}


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def response_events() -> list[bytes]:
    usage = {"input_tokens": 12, "output_tokens": 34, "total_tokens": 46}
    return [
        event("response.created", response={"model": "served"}),
        *(
            event("response.output_text.delta", output_index=0, content_index=0, delta=word)
            for word in WORDS
        ),
        event("response.completed", response={"model": "served", "usage": usage}),
    ]


def chat_events() -> list[bytes]:
    def chunk(**fields: object) -> bytes:
        return f"data: {json.dumps({'model': 'served'} | fields)}\n\n".encode()

    def delta(**part: object) -> bytes:
        return chunk(choices=[{"index": 0, "delta": part}], usage=None)

    usage = {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}
    return [
        delta(role="assistant", content=""),
        *(delta(content=word) for word in WORDS),
        chunk(choices=[], usage=usage),
        b"data: [DONE]\n\n",
    ]


def message_events() -> list[bytes]:
    start = {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1}
    return [
        event("message_start", message={"model": "served", "usage": start}),
        *(
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
            for word in WORDS
        ),
        event("message_delta", delta={}, usage={"output_tokens": 34}),
        event("message_stop"),
    ]


@dataclass
class Seen:
    """What the provider got."""

    size: int = 0
    digest: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Provider:
    """A provider that stops, cuts and compresses on request.

    Attributes:
        arrived: set by a client that has got all it will get before a cut.
    """

    seen: dict[str, Seen] = field(default_factory=dict)
    arrived: dict[str, threading.Event] = field(default_factory=dict)

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/responses", self.responses, methods=["POST"]),
                Route("/v1/messages", self.messages, methods=["POST"]),
                Route("/v1/embeddings", self.embeddings, methods=["POST"]),
                Route("/v1/audio/transcriptions", self.transcribe, methods=["POST"]),
                Route("/v1/files", self.file, methods=["POST"]),
                Route("/v1/batches", self.batch, methods=["GET", "POST"]),
                Route("/v1/batches/{id}", self.batch, methods=["GET"]),
            ]
        )

    async def take(self, request: Request) -> None:
        digest, size = hashlib.sha256(), 0
        async for chunk in request.stream():
            digest.update(chunk)
            size += len(chunk)
        self.seen[request.headers["x-tag"]] = Seen(size, digest.hexdigest(), dict(request.headers))

    async def chat(self, request: Request) -> Response:
        await self.take(request)
        return self.stream(request, chat_events())

    async def responses(self, request: Request) -> Response:
        await self.take(request)
        return self.stream(request, response_events())

    async def messages(self, request: Request) -> Response:
        await self.take(request)
        return self.stream(request, message_events())

    def stream(self, request: Request, events: list[bytes]) -> Response:
        fault, _, after = request.headers.get("x-fault", "").partition(":")
        if fault == "gzip":
            body = gzip.compress(b"".join(events))
            headers = {"content-encoding": "gzip"}
            return Response(body, headers=headers, media_type="text/event-stream")

        async def chunks() -> AsyncIterator[bytes]:
            for chunk in events[: int(after)] if after else events:
                yield chunk
            if fault:
                await asyncio.to_thread(self.arrived[request.headers["x-tag"]].wait, 10)
                await drop_connection(request.scope, request.receive)

        return StreamingResponse(chunks(), media_type="text/event-stream")

    async def embeddings(self, request: Request) -> Response:
        await self.take(request)
        vectors = [{"embedding": [0.125] * 100_000}]
        usage = {"prompt_tokens": 77, "total_tokens": 77}
        answer: dict[str, object] = {"object": "list", "data": vectors, "model": "served"}
        if "x-no-usage" not in request.headers:
            answer["usage"] = usage
        return JSONResponse(answer)

    async def transcribe(self, request: Request) -> Response:
        await self.take(request)
        return JSONResponse({"text": "foxes jump", "usage": {"type": "duration", "seconds": 4}})

    async def file(self, request: Request) -> Response:
        await self.take(request)
        return JSONResponse({"id": "file-1", "object": "file"})

    async def batch(self, request: Request) -> Response:
        await self.take(request)
        if request.method == "POST":
            return JSONResponse({"id": "batch_1", "status": "validating", "usage": None})
        usage = {"input_tokens": 700, "output_tokens": 300, "total_tokens": 1000}
        batch = {"id": "batch_1", "status": "completed", "usage": usage}
        return JSONResponse(batch if "id" in request.path_params else {"data": [batch]})


@dataclass
class Gateway:
    """The stack with this provider behind it."""

    stack: Stack
    provider: Provider
    zion: ZionStandIn
    users: Iterator[int] = field(default_factory=itertools.count)

    def user(self) -> str:
        """A new user's tag, so that what was billed is one call's alone."""
        tag = f"user-{next(self.users)}"
        self.zion.put_user(ZionUser(tag, f"u-{tag}", f"ext-{tag}", f"{tag}@example.com"))
        self.provider.arrived[tag] = threading.Event()
        return tag

    def headers(self, tag: str, fault: str = "") -> dict[str, str]:
        headers = {"authorization": f"Bearer {tag}", "x-tag": tag}
        return headers | ({"x-fault": fault} if fault else {})

    def billed(self, tag: str) -> tuple[int, int, int]:
        rows = [row for row in self.zion.ledger() if row.external_id == f"ext-{tag}"]
        return (
            sum(row.requests for row in rows),
            sum(row.input_tokens for row in rows),
            sum(row.output_tokens for row in rows),
        )

    def settles_to(self, tag: str, requests: int, given: int, made: int) -> None:
        """Wait for a user's bill, which is reported all at once."""
        eventually(lambda: self.billed(tag) != (0, 0, 0))
        assert self.billed(tag) == (requests, given, made)


def eventually(check: Callable[[], bool], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    provider = Provider()
    zion = ZionStandIn(api_key=ZION_KEY, users=())
    with (
        tempfile.TemporaryDirectory(prefix="sx-ends-") as folder,
        serve_app(provider.app, name="provider") as provider_app,
        serve_app(zion.app, name="stand-in Zion") as zion_app,
        start_stack(
            work_dir=Path(folder),
            services=Services(provider_app.url, PROVIDER_KEY, zion_app.url, ZION_KEY),
            settings={
                "SENTINEL_LIMITS__REQUESTS": "100000",
                "NO_PROXY": "127.0.0.1,localhost",
                "no_proxy": "127.0.0.1,localhost",
            },
        ) as stack,
    ):
        yield Gateway(stack, provider, zion)


def post(
    gateway: Gateway,
    path: str,
    tag: str,
    *,
    fault: str = "",
    headers: dict[str, str] | None = None,
    **options: Any,
) -> httpx.Response:
    lines = gateway.headers(tag, fault) | (headers or {})
    with httpx.Client(trust_env=False, timeout=30) as client:
        return client.post(gateway.stack.url + path, headers=lines, **options)


def estimate(kind: str, body: Mapping[str, Any]) -> int:
    return ESTIMATOR.estimate(kind, body).input_tokens


def counted(model: str, text: str) -> int:
    counter = ESTIMATOR.output_counter(model)
    counter.feed(text)
    return counter.total()


APIS = {
    "chat": ("/v1/chat/completions", CHAT, chat_events),
    "responses": ("/v1/responses", RESPONSES, response_events),
    "messages": ("/v1/messages", MESSAGES, message_events),
}


def cut_bill(api: str, events: int) -> tuple[int, int, int]:
    """What the first ``events`` events cost."""
    text = "".join(WORDS[: max(0, events - 1)])
    if api == "messages":
        given = 15 if events else estimate("messages", dict(MESSAGES))
        return (1, given, counted(CLAUDE, text))
    return (1, estimate(api, dict(APIS[api][1])), counted(GPT, text))


@pytest.mark.parametrize("api", APIS)
class TestStreams:
    def test_whole(self, gateway: Gateway, api: str) -> None:
        path, body, events = APIS[api]
        tag = gateway.user()
        answer = post(gateway, path, tag, json=body)
        assert answer.content == b"".join(events())
        gateway.settles_to(tag, 1, 15 if api == "messages" else 12, 34)
        seen = gateway.provider.seen[tag]
        assert seen.digest == hashlib.sha256(answer.request.content).hexdigest()

    def test_compressed_in_spite_of_us(self, gateway: Gateway, api: str) -> None:
        path, body, events = APIS[api]
        tag = gateway.user()
        answer = post(gateway, path, tag, json=body, fault="gzip")
        assert "accept-encoding" not in gateway.provider.seen[tag].headers
        assert answer.content == b"".join(events())
        size = len(gzip.compress(b"".join(events())))
        given = estimate(api, dict(body))
        gateway.settles_to(tag, 1, given, -(-size // 4))

    def test_the_provider_closes_early_at_every_chunk(self, gateway: Gateway, api: str) -> None:
        path, body, events = APIS[api]
        tags = {}
        for served in range(1, len(WORDS) + 2):
            tag = tags[served] = gateway.user()
            expected, got = b"".join(events()[:served]), b""
            with (
                httpx.Client(trust_env=False, timeout=30) as client,
                client.stream(
                    "POST",
                    gateway.stack.url + path,
                    json=body,
                    headers=gateway.headers(tag, f"cut:{served}"),
                ) as answer,
            ):
                try:
                    for piece in answer.iter_raw():
                        got += piece
                        if got == expected:
                            gateway.provider.arrived[tag].set()
                except httpx.TransportError:
                    pass
            assert got == expected
        for served, tag in tags.items():
            gateway.settles_to(tag, *cut_bill(api, served))

    def test_the_client_leaves_at_every_chunk(self, gateway: Gateway, api: str) -> None:
        path, body, events = APIS[api]
        tags = {}
        for served in range(1, len(WORDS) + 2):
            tag = tags[served] = gateway.user()
            expected, got = b"".join(events()[:served]), b""
            with (
                httpx.Client(trust_env=False, timeout=30) as client,
                client.stream(
                    "POST",
                    gateway.stack.url + path,
                    json=body,
                    headers=gateway.headers(tag, f"wait:{served}"),
                ) as answer,
            ):
                for piece in answer.iter_raw():
                    got += piece
                    if got == expected:
                        break
        for served, tag in tags.items():
            gateway.settles_to(tag, *cut_bill(api, served))


def test_an_anthropic_client_sends_its_key_elsewhere(gateway: Gateway) -> None:
    tag = gateway.user()
    with httpx.Client(trust_env=False, timeout=30) as client:
        url = gateway.stack.url + "/v1/messages"
        wrong = client.post(url, json=MESSAGES, headers={"x-api-key": "nobody", "x-tag": tag})
        assert wrong.status_code == 401
        assert wrong.json()["error"]["type"] == "authentication_error"
        answer = client.post(url, json=MESSAGES, headers={"x-api-key": tag, "x-tag": tag})
        elsewhere = client.post(
            gateway.stack.url + "/v1/embeddings", json={}, headers={"x-api-key": tag}
        )
    assert answer.status_code == 200
    assert elsewhere.status_code == 401
    headers = gateway.provider.seen[tag].headers
    assert "x-api-key" not in headers
    assert headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    gateway.settles_to(tag, 1, 15, 34)


@pytest.mark.parametrize("reports", [True, False])
def test_embeddings(gateway: Gateway, reports: bool) -> None:
    tag = gateway.user()
    body = {"model": "text-embedding-3-small", "input": ["foxes jump", [1, 2, 3]]}
    headers = {} if reports else {"x-no-usage": "1"}
    answer = post(gateway, "/v1/embeddings", tag, json=body, headers=headers)
    assert len(answer.json()["data"][0]["embedding"]) == 100_000
    gateway.settles_to(tag, 1, 77 if reports else estimate("embeddings", body), 0)


class TestForms:
    def test_small_is_read_before_it_is_let_through(self, gateway: Gateway) -> None:
        tag = gateway.user()
        answer = post(
            gateway,
            "/v1/audio/transcriptions",
            tag,
            data={"model": "whisper-1"},
            files={"file": ("a.wav", b"x" * 4000)},
        )
        assert answer.json()["text"] == "foxes jump"
        gateway.settles_to(tag, 1, 40, counted("whisper-1", "foxes jump"))
        (row,) = [r for r in gateway.zion.ledger() if r.external_id == f"ext-{tag}"]
        assert row.model == "whisper-1"

    def test_larger_than_any_buffer_streams_through_byte_for_byte(self, gateway: Gateway) -> None:
        tag = gateway.user()
        answer = post(
            gateway,
            "/v1/audio/transcriptions",
            tag,
            data={"model": "whisper-1"},
            files={"file": ("a.wav", bytes(range(256)) * (BUFFER_BYTES // 256 + 5))},
        )
        assert answer.status_code == 200, answer.text
        seen = gateway.provider.seen[tag]
        sent = answer.request.read()
        assert len(sent) > BUFFER_BYTES > MAX_KEPT_BYTES
        assert (seen.size, seen.digest) == (len(sent), hashlib.sha256(sent).hexdigest())
        assert seen.headers["authorization"] == f"Bearer {PROVIDER_KEY}"
        gateway.settles_to(tag, 1, 40, counted("whisper-1", "foxes jump"))
        (row,) = [r for r in gateway.zion.ledger() if r.external_id == f"ext-{tag}"]
        assert row.model == "whisper-1"

    def test_nothing_of_a_form_passes_without_a_token(self, gateway: Gateway) -> None:
        tag = gateway.user()
        answer = post(
            gateway,
            "/v1/audio/transcriptions",
            tag,
            data={"model": "whisper-1"},
            files={"file": ("a.wav", b"x" * (MAX_KEPT_BYTES + 1))},
            headers={"authorization": "Bearer nobody"},
        )
        assert answer.status_code == 401
        assert tag not in gateway.provider.seen

    def test_without_a_length(self, gateway: Gateway) -> None:
        def pieces() -> Iterator[bytes]:
            yield b"--XX\r\n"

        tag = gateway.user()
        kind = {"content-type": "multipart/form-data; boundary=XX"}
        answer = post(gateway, "/v1/audio/transcriptions", tag, content=pieces(), headers=kind)
        assert answer.status_code == 411
        assert tag not in gateway.provider.seen

    def test_a_file_flows_past(self, gateway: Gateway) -> None:
        tag = gateway.user()
        answer = post(
            gateway,
            "/v1/files",
            tag,
            data={"purpose": "user_data"},
            files={"file": ("a", b"x" * (BUFFER_BYTES + 1))},
        )
        assert answer.json()["id"] == "file-1"
        assert gateway.provider.seen[tag].size == len(answer.request.read())
        gateway.settles_to(tag, 1, 0, 0)


def test_a_batch_is_billed_to_who_made_it_once_when_its_result_is_seen(gateway: Gateway) -> None:
    ada, eve = gateway.user(), gateway.user()
    post(gateway, "/v1/batches", ada, json={"input_file_id": "file-1"})
    with httpx.Client(trust_env=False, timeout=30) as client:

        def look(tag: str, path: str) -> None:
            answer = client.get(gateway.stack.url + path, headers=gateway.headers(tag))
            assert answer.status_code == 200

        look(eve, "/v1/batches/batch_1")
        look(eve, "/v1/batches")
        for _ in range(3):
            look(ada, "/v1/batches")
            look(ada, "/v1/batches/batch_1")
    eventually(lambda: gateway.billed(ada)[0] == 7 and gateway.billed(eve)[0] == 2)
    assert gateway.billed(ada) == (7, 700, 300)
    assert gateway.billed(eve) == (2, 0, 0)
