"""Clients that send their bodies a byte at a time: cut in the end, with nothing kept for them."""

from __future__ import annotations

import http.client
import json
import select
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.stack import Services, Stack
from sentinel_extproc.demo.zion_standin import DEMO_USERS, ZionStandIn, ZionUser
from sentinel_extproc.endpoints.form import MAX_KEPT_BYTES
from tests.faults.gateway import CHAT, admin_socket, eventually
from tests.faults.outcome import Outcome

StartStack = Callable[..., Stack]

WITHIN_S = 6.0
"""For a whole request: above Envoy's message time-out, which slow bodies must not run into."""
AT_ONCE = 4
LIMIT = 1000
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}

JSON_BODY = json.dumps(CHAT | {"user": "x" * 400}).encode()


def form(size: int) -> bytes:
    return (
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + b"x" * size
        + b"\r\n--b--\r\n"
    )


@dataclass(frozen=True)
class Upload:
    """A request whose body comes in pieces."""

    path: str
    body: bytes
    headers: tuple[str, ...]
    chunked: bool = False

    def head(self, token: str) -> bytes:
        lines = [
            f"POST {self.path} HTTP/1.1",
            "host: gateway",
            f"authorization: Bearer {token}",
            *self.headers,
            "transfer-encoding: chunked" if self.chunked else f"content-length: {len(self.body)}",
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    def pieces(self, size: int) -> Iterator[bytes]:
        for start in range(0, len(self.body), size):
            piece = self.body[start : start + size]
            yield b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece
        if self.chunked:
            yield b"0\r\n\r\n"


FORM_TYPE = "content-type: multipart/form-data; boundary=b"
PASSES = "form that isn't read whole"
UPLOADS = {
    "json": Upload("/v1/chat/completions", JSON_BODY, ("content-type: application/json",)),
    "json, chunked": Upload(
        "/v1/chat/completions", JSON_BODY, ("content-type: application/json",), chunked=True
    ),
    PASSES: Upload("/v1/audio/transcriptions", form(MAX_KEPT_BYTES), (FORM_TYPE,)),
}
USERS = dict(zip(UPLOADS, DEMO_USERS, strict=True))
"""Who sends which."""


def send(
    url: str, token: str, upload: Upload, *, size: int, pause_s: float
) -> tuple[int, dict[str, Any], str]:
    """Status, content and content type of the answer, which may come before all was sent."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), 60) as client:
        client.sendall(upload.head(token))
        for piece in upload.pieces(size):
            # What it waits for is the answer; that none comes is what makes it slow.
            if select.select([client], [], [], pause_s)[0]:
                break
            client.sendall(piece)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        content = json.loads(answer.read())
        return answer.status, content, str(answer.headers["content-type"])


class Provider:
    """Reads requests whole before it answers."""

    def __init__(self) -> None:
        self.whole: list[tuple[str, int]] = []
        paths = ("/v1/chat/completions", "/v1/audio/transcriptions")
        self.app = Starlette(routes=[Route(path, self.answer, methods=["POST"]) for path in paths])

    async def answer(self, request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=400)
        self.whole.append((request.url.path, len(body)))
        message = {"role": "assistant", "content": "Hi"}
        return JSONResponse(
            {
                "model": "gpt-4o-mini",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "text": "Hi",
                "usage": USAGE,
            }
        )


@dataclass
class Slow:
    """A gateway that gives requests ``WITHIN_S`` to arrive."""

    stack: Stack
    provider: Provider
    zion: ZionStandIn

    def asked(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        transport = httpx.HTTPTransport(uds=str(admin_socket(self.stack)))
        with httpx.Client(transport=transport, base_url="http://admin", timeout=30) as client:
            return dict(client.request(method, path, json=body).raise_for_status().json())

    def left(self, external_id: str) -> dict[str, int]:
        """What is left of each limit."""
        found = self.asked("POST", "/v1/limits", {"user": external_id})["limits"]
        return {one["name"]: one["remaining"] for one in found}

    def billed(self) -> tuple[int, int]:
        """Requests and tokens."""
        rows = self.zion.ledger()
        tokens = sum(row.input_tokens + row.output_tokens for row in rows)
        return sum(row.requests for row in rows), tokens

    def idle(self) -> bool:
        """Nothing is under way, and nothing waits to be settled."""
        status = self.asked("GET", "/v1/status")
        return not (
            status["exchanges"]["live"]
            or status["ledger"]["under_way"]
            or status["limits"]["pending_settlements"]
        )


@pytest.fixture
def slow(run_stack: StartStack, tmp_path: Any) -> Iterator[Slow]:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "rules:\n- limits:\n"
        f"  - {{name: requests, unit: requests, kind: ring, limit: {LIMIT}, per: 1h}}\n"
        "  - {name: tokens, unit: total_tokens, kind: ring, limit: 1000000, per: 1h}\n"
    )
    provider = Provider()
    zion = ZionStandIn(api_key="zion-key", users=DEMO_USERS)
    with (
        serve_app(provider.app, name="provider") as provider_app,
        serve_app(zion.app, name="zion") as zion_app,
    ):
        stack = run_stack(
            services=Services(provider_app.url, "sk-own", zion_app.url, "zion-key"),
            settings={
                "SENTINEL_LIMITS__POLICY_FILE": str(policy),
                "SENTINEL_LIMITS__ZION_QUOTAS": "false",
                "SENTINEL_OVERLOAD__MAX_EXCHANGES_PER_USER": str(AT_ONCE),
            },
            attachment={"request_timeout_s": WITHIN_S},
        )
        yield Slow(stack, provider, zion)


def test_a_dripping_body_is_cut_and_nothing_stays_held(slow: Slow, outcome: Outcome) -> None:
    before = {user.external_id: slow.left(user.external_id or "") for user in USERS.values()}
    dripping = [(kind, user) for kind, user in USERS.items() for _ in range(AT_ONCE)]

    def drip(one: tuple[str, ZionUser]) -> tuple[int, dict[str, Any], str]:
        kind, user = one
        return send(slow.stack.url, user.token, UPLOADS[kind], size=1, pause_s=0.05)

    def quick(one: tuple[str, ZionUser]) -> int:
        return send(slow.stack.url, one[1].token, UPLOADS["json"], size=4096, pause_s=0)[0]

    with ThreadPoolExecutor(len(dripping)) as pool:
        answers = list(pool.map(drip, dripping))
    for status, content, content_type in answers:
        outcome.saw(status, held=status == 408)
        assert (status, content_type) == (408, "application/json")
        assert content["error"]["code"] == "request_timeout"
        assert content["error"].keys() == {"message", "type", "param", "code"}
    eventually(slow.idle)
    assert slow.provider.whole == []
    # What passes was on its way to the provider: what came of it is the bill, and all that was
    # taken. Of the others there is nothing.
    eventually(lambda: slow.billed()[0] == AT_ONCE)
    requests, tokens = slow.billed()
    assert {row.external_id for row in slow.zion.ledger()} == {USERS[PASSES].external_id}
    for kind, user in USERS.items():
        was, used = before[user.external_id], (requests, tokens) if kind == PASSES else (0, 0)
        now = {"requests": was["requests"] - used[0], "tokens": was["tokens"] - used[1]}
        assert slow.left(user.external_id or "") == now, kind
    # The places that they took are free again, all of them.
    with ThreadPoolExecutor(len(dripping)) as pool:
        assert list(pool.map(quick, dripping)) == [200] * len(dripping)
    eventually(lambda: slow.billed()[0] == AT_ONCE + len(dripping))
    outcome.lost = 0


def test_a_slow_body_that_comes_in_time_passes(slow: Slow) -> None:
    def upload(kind: str) -> tuple[int, dict[str, Any], str]:
        # Some 2.5 s: longer than Envoy waits for any one message of ours.
        one = UPLOADS[kind]
        size = len(one.body) // 25 + 1
        return send(slow.stack.url, USERS[kind].token, one, size=size, pause_s=0.1)

    with ThreadPoolExecutor(len(UPLOADS)) as pool:
        answers = list(pool.map(upload, UPLOADS))
    for status, content, _ in answers:
        assert status == 200, content
        assert content["usage"] == USAGE
    sent = sorted((one.path, len(one.body)) for one in UPLOADS.values())
    assert sorted(slow.provider.whole) == sent
    eventually(slow.idle)
    eventually(lambda: slow.billed()[0] == len(UPLOADS))


def test_a_long_answer_is_no_long_request(run_stack: StartStack) -> None:
    stack = run_stack(chunk_delay_s=0.05, attachment={"request_timeout_s": 1.0})
    headers = {"authorization": "Bearer demo-ada", "x-standin-tokens": "40"}
    url = f"{stack.url}/v1/chat/completions"
    answer = httpx.post(
        url, json=CHAT | {"stream": True}, headers=headers, timeout=60, trust_env=False
    )
    assert answer.status_code == 200
    assert answer.content.rstrip().endswith(b"data: [DONE]")
    assert answer.elapsed.total_seconds() > 1.0
