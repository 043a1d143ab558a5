"""Realtime sessions through the real Envoy: frames pass unchanged and are billed."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.stack import PROVIDER_KEY, ZION_KEY, Services, Stack, start_stack
from sentinel_extproc.demo.zion_standin import ZionStandIn
from sentinel_extproc.demo.zion_state import ZionUser

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
USAGE = {
    "input_tokens": 10,
    "output_tokens": 7,
    "input_token_details": {"audio_tokens": 4},
    "output_token_details": {"audio_tokens": 6},
}


def eventually(check: Callable[[], bool], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def frame(content: bytes, *, opcode: int = 1, masked: bool = False) -> bytes:
    size = len(content)
    bit = 0x80 if masked else 0
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, bit | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, bit | 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, bit | 127, size)
    if not masked:
        return head + content
    mask = os.urandom(4)
    return head + mask + bytes(b ^ mask[n % 4] for n, b in enumerate(content))


def exactly(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = connection.recv(size - len(got))
        if not piece:
            raise EOFError
        got += piece
    return got


def read_frame(connection: socket.socket) -> tuple[int, bytes]:
    first, second = exactly(connection, 2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack(">H", exactly(connection, 2))
    elif size == 127:
        (size,) = struct.unpack(">Q", exactly(connection, 8))
    mask = exactly(connection, 4) if second & 0x80 else b"\0\0\0\0"
    content = exactly(connection, size)
    return first & 0x0F, bytes(b ^ mask[n % 4] for n, b in enumerate(content))


def read_head(connection: socket.socket) -> tuple[str, dict[str, str]]:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(connection, 1)
    first, *lines = head.decode().strip().split("\r\n")
    return first, {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}


@dataclass
class RealtimeProvider:
    """Answers each text message by deltas and a ``response.done``."""

    listening: socket.socket
    heads: list[dict[str, str]] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    closed: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listening.getsockname()[1]}"

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        try:
            with closing(connection):
                self._talk(connection)
        except (EOFError, OSError):
            pass
        finally:
            self.closed += 1

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        _, headers = read_head(connection)
        self.heads.append(headers)
        key = hashlib.sha1((headers["sec-websocket-key"] + GUID).encode()).digest()  # noqa: S324
        accept = base64.b64encode(key).decode()
        connection.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: realtime\r\n\r\n".encode()
        )
        while True:
            opcode, content = read_frame(connection)
            if opcode == 8:
                connection.sendall(frame(content, opcode=8))
                connection.recv(1)  # linger: Envoy drops what it still holds when we close first
                return
            self.received.append(content)
            said = json.loads(content)
            delta = {"type": "response.output_text.delta", "item_id": "i", "delta": "some words "}
            for _ in range(said.get("deltas", 1)):
                connection.sendall(frame(json.dumps(delta).encode()))
            if said.get("drop"):
                return
            if said.get("finish", True):
                done = {"type": "response.done", "response": {"usage": USAGE}}
                connection.sendall(frame(json.dumps(done).encode()))


@dataclass
class Gateway:
    """The stack with this provider behind it."""

    stack: Stack
    provider: RealtimeProvider
    zion: ZionStandIn
    users: Iterator[int] = field(default_factory=itertools.count)

    def user(self) -> str:
        tag = f"user-{next(self.users)}"
        self.zion.put_user(ZionUser(tag, f"u-{tag}", f"ext-{tag}", f"{tag}@example.com"))
        return tag

    def billed(self, tag: str) -> tuple[int, int, int]:
        rows = [row for row in self.zion.ledger() if row.external_id == f"ext-{tag}"]
        return (
            sum(row.requests for row in rows),
            sum(row.input_tokens for row in rows),
            sum(row.output_tokens for row in rows),
        )

    @contextmanager
    def connect(
        self, *lines: str, path: str = "/v1/realtime?model=gpt-realtime"
    ) -> Iterator[tuple[socket.socket, str]]:
        """A connection after its handshake, and the status line of the answer."""
        parts = urlsplit(self.stack.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
            head = [
                f"GET {path} HTTP/1.1",
                f"Host: {parts.netloc}",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)).decode(),
                *lines,
            ]
            connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
            status, _ = read_head(connection)
            yield connection, status


@contextmanager
def running(attachment: Mapping[str, object] | None = None, **settings: str) -> Iterator[Gateway]:
    zion = ZionStandIn(api_key=ZION_KEY, users=())
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as listening,
        tempfile.TemporaryDirectory(prefix="sx-rt-") as folder,
        serve_app(zion.app, name="stand-in Zion") as zion_app,
    ):
        provider = RealtimeProvider(listening)
        threading.Thread(target=provider.serve, daemon=True).start()
        with start_stack(
            work_dir=Path(folder),
            services=Services(provider.url, PROVIDER_KEY, zion_app.url, ZION_KEY),
            settings={
                "SENTINEL_LIMITS__REQUESTS": "100000",
                "NO_PROXY": "127.0.0.1,localhost",
                "no_proxy": "127.0.0.1,localhost",
                **settings,
            },
            attachment=attachment,
        ) as stack:
            yield Gateway(stack, provider, zion)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with running() as gateway:
        yield gateway


def say(connection: socket.socket, **fields: object) -> bytes:
    content = json.dumps({"type": "response.create", **fields}).encode()
    connection.sendall(frame(content, masked=True))
    return content


def heard(connection: socket.socket) -> dict[str, object]:
    opcode, content = read_frame(connection)
    assert opcode == 1
    value: dict[str, object] = json.loads(content)
    return value


def test_a_session_is_billed_the_sum_of_its_responses(gateway: Gateway) -> None:
    tag = gateway.user()
    lines = [f"Authorization: Bearer {tag}", "Sec-WebSocket-Extensions: permessage-deflate"]
    with gateway.connect(*lines) as (connection, status):
        assert " 101 " in status + " "
        for _ in range(3):
            said = say(connection)
            assert heard(connection)["type"] == "response.output_text.delta"
            assert heard(connection)["type"] == "response.done"
            assert gateway.provider.received[-1] == said
        connection.sendall(frame(b"\x03\xe8", opcode=8, masked=True))
        assert read_frame(connection)[0] == 8
    head = gateway.provider.heads[-1]
    assert head["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert "sec-websocket-extensions" not in head
    eventually(lambda: gateway.billed(tag) == (1, 30, 21))


def test_a_browsers_key_is_taken_and_goes_no_further(gateway: Gateway) -> None:
    tag = gateway.user()
    line = f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{tag}"
    with gateway.connect(line) as (connection, status):
        assert "101" in status
        say(connection)
        heard(connection), heard(connection)
    head = gateway.provider.heads[-1]
    assert head["sec-websocket-protocol"] == "realtime"
    assert tag not in json.dumps(head)
    eventually(lambda: gateway.billed(tag) == (1, 10, 7))


@pytest.mark.parametrize("who", ["client", "provider"])
def test_a_session_that_breaks_off_is_billed_what_was_said(gateway: Gateway, who: str) -> None:
    tag = gateway.user()
    with gateway.connect(f"Authorization: Bearer {tag}") as (connection, _):
        say(connection)
        heard(connection), heard(connection)
        say(connection, deltas=3, finish=False)
        for _ in range(3):
            heard(connection)
        if who == "provider":
            say(connection, deltas=0, drop=True)
            with pytest.raises((EOFError, OSError)):
                read_frame(connection)
    eventually(lambda: gateway.billed(tag)[0] == 1)
    requests, given, made = gateway.billed(tag)
    assert (requests, given) == (1, 10)
    assert made > 7


@pytest.mark.parametrize(
    ("path", "lines", "status"),
    [
        ("/v1/realtime?model=m", ["Authorization: Bearer nobody"], "401"),
        ("/v1/realtime?model=m", [], "401"),
        ("/v1/realtime?model=a&model=b", ["Authorization: Bearer {}"], "400"),
        ("/v1/chat/completions", ["Authorization: Bearer {}"], "400"),
        ("/v1/anything", ["Authorization: Bearer {}"], "400"),
    ],
)
def test_no_other_upgrade_reaches_the_provider(
    gateway: Gateway, path: str, lines: list[str], status: str
) -> None:
    before = len(gateway.provider.heads)
    tag = gateway.user()
    with gateway.connect(*(line.format(tag) for line in lines), path=path) as (_, answer):
        assert answer.split()[1] == status
    assert len(gateway.provider.heads) == before


def test_a_session_outlives_the_time_that_a_request_has_to_arrive() -> None:
    with running(attachment={"request_timeout_s": 1.0}) as gateway:
        tag = gateway.user()
        with gateway.connect(f"Authorization: Bearer {tag}") as (connection, status):
            assert "101" in status
            end = time.monotonic() + 2.0
            while time.monotonic() < end:
                say(connection)
                while heard(connection)["type"] != "response.done":
                    pass


def test_a_session_ends_when_its_hold_cannot_grow(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    limits = "{name: tokens, unit: total_tokens, kind: ring, limit: 2000, per: 1h}"
    policy.write_text(f"rules:\n  - limits:\n      - {limits}\n")
    with running(SENTINEL_LIMITS__POLICY_FILE=str(policy)) as gateway:
        tag = gateway.user()
        with gateway.connect(f"Authorization: Bearer {tag}") as (connection, status):
            assert "101" in status
            frames: list[tuple[int, bytes]] = []

            def listen() -> None:
                try:
                    while True:
                        frames.append(read_frame(connection))
                except (EOFError, OSError):
                    pass

            def answered(turn: int) -> bool:
                return len(frames) > turn or not listener.is_alive()

            listener = threading.Thread(target=listen)
            listener.start()
            try:
                for turn in range(1000):
                    say(connection, deltas=0)
                    eventually(partial(answered, turn))
            except OSError:
                pass  # the sidecar stops the provider at its next sign of life
            listener.join(20)
        *_, (_, error), (last, _) = frames
        assert json.loads(error)["error"]["code"] == "limit_exhausted"
        assert last == 8
        eventually(lambda: gateway.billed(tag)[0] == 1)
        # Each turn is 17 tokens; what is heard with the error is billed too.
        _, given, made = gateway.billed(tag)
        assert 2000 - 300 < given + made < 2000 + 300
