"""A gateway to attack: the real Envoy, Redis and sidecar, and a provider that keeps raw bytes."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.stack import PROVIDER_KEY, ZION_KEY, Services, Stack, start_stack
from sentinel_extproc.demo.zion_standin import ZionStandIn
from sentinel_extproc.demo.zion_state import ZionUser

from .raw_provider import RawProvider, raw_provider

EVE = "token-of-eve-0123456789"
"""She has a key, and quota."""

SPENT = "token-of-spent-0123456789"
"""Has a key and not a single request left: what reaches the provider under it dodged its limit."""

USERS = (
    ZionUser(EVE, "u-eve", "ext-eve", "eve@example.com"),
    ZionUser(SPENT, "u-spent", "ext-spent", "spent@example.com", requests=0),
)
CHAT = json.dumps(
    {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
).encode()


@dataclass
class Gateway:
    stack: Stack
    provider: RawProvider
    zion: ZionStandIn
    folder: Path

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.stack.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def open(self) -> socket.socket:
        """A connection."""
        return socket.create_connection(self.address, timeout=20)

    def send(self, raw: bytes, *, seconds: float = 20.0) -> bytes:
        """Everything that comes back until the other side closes, or one whole answer came."""
        with socket.create_connection(self.address, timeout=seconds) as link:
            link.sendall(raw)
            seen = b""
            while not whole(seen, has_body=not raw.startswith(b"HEAD ")):
                try:
                    piece = link.recv(65536)
                except (ConnectionResetError, TimeoutError):
                    break
                if not piece:
                    break
                seen += piece
            return seen

    def billed(self, external_id: str) -> tuple[int, int]:
        """Requests and tokens in Zion's ledger."""
        rows = [row for row in self.zion.ledger() if row.external_id == external_id]
        return (
            sum(row.requests for row in rows),
            sum(row.input_tokens + row.output_tokens for row in rows),
        )


def whole(seen: bytes, *, has_body: bool = True) -> bool:
    """Whether an HTTP/1.1 answer has come to its end."""
    head, blank, body = seen.partition(b"\r\n\r\n")
    if not blank:
        return False
    if head.startswith((b"HTTP/1.1 100", b"HTTP/1.1 101")):
        return False
    if not has_body:
        return True
    lines = [line.lower() for line in head.split(b"\r\n")]
    for line in lines:
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    if b"transfer-encoding: chunked" in lines:
        return body.endswith(b"0\r\n\r\n")
    return b" 204 " in lines[0]


def status(answer: bytes) -> int:
    """Of a raw answer; 0 if the connection was closed without one."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def request(
    target: str = "/v1/chat/completions",
    *lines: str,
    method: str = "POST",
    token: str | None = EVE,
    body: bytes = CHAT,
    length: bool = True,
    kind: str | None = "application/json",
) -> bytes:
    """A raw HTTP/1.1 request; ``lines`` are further header lines, as they are."""
    head = [f"{method} {target} HTTP/1.1", "host: gateway.example", *lines]
    if token is not None:
        head.append(f"authorization: Bearer {token}")
    if kind is not None:
        head.append(f"content-type: {kind}")
    if length:
        head.append(f"content-length: {len(body)}")
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


@pytest.fixture(scope="package")
def gateway() -> Iterator[Gateway]:
    """One for all tests of this folder."""
    zion = ZionStandIn(api_key=ZION_KEY, users=USERS)
    with (
        tempfile.TemporaryDirectory(prefix="sx-sec-") as folder,
        raw_provider() as provider,
        serve_app(zion.app, name="stand-in Zion") as zion_app,
        start_stack(
            work_dir=Path(folder),
            services=Services(provider.url, PROVIDER_KEY, zion_app.url, ZION_KEY),
            settings={"SENTINEL_LIMITS__REQUESTS": "100000", "NO_PROXY": "127.0.0.1,localhost"},
        ) as stack,
    ):
        yield Gateway(stack, provider, zion, Path(folder))
