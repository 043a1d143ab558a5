"""Load for benchmarks: a provider that costs next to nothing, and clients that measure.

Both speak just enough HTTP/1.1, since what they cost would be in the way on a small machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

_USAGE = {"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110}
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of request.

    Attributes:
        prompt_bytes: length of the user's message.
        chunks: of a streamed answer; 0 for a plain one.
        chunk_delay_s: before each of them.
        model: says which encoding counts.
    """

    prompt_bytes: int = 300
    chunks: int = 0
    chunk_delay_s: float = 0.01
    model: str = "gpt-4o-mini"

    def request(self, token: str) -> bytes:
        """The whole request."""
        text = ("All work and no play makes a dull benchmark. " * (self.prompt_bytes // 45 + 1))[
            : self.prompt_bytes
        ]
        body = json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": text}],
                "max_tokens": 500,
                "stream": bool(self.chunks),
            }
        ).encode()
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n"
            b"authorization: Bearer %s\r\ncontent-type: application/json\r\n"
            b"x-bench: %d %f\r\ncontent-length: %d\r\n\r\n"
            % (token.encode(), self.chunks, self.chunk_delay_s, len(body))
        ) + body


def _answer() -> bytes:
    body = json.dumps(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o-mini",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "word " * 100},
                    "finish_reason": "stop",
                }
            ],
            "usage": _USAGE,
        }
    ).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def _event(delta: dict[str, str], **more: object) -> bytes:
    chunk = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
    } | more
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


_ANSWER = _answer()
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_CHUNK = _event({"content": "word "}, usage=None)
_STREAM_END = _event({}, choices=[], usage=_USAGE) + b"e\r\ndata: [DONE]\n\n\r\n" + b"0\r\n\r\n"


async def _provide(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(_field(head, b"content-length")))
            chunks, delay = _field(head, b"x-bench").split()
            if int(chunks):
                writer.write(_STREAM_HEAD)
                for _ in range(int(chunks)):
                    await asyncio.sleep(float(delay))
                    writer.write(_CHUNK)
                writer.write(_STREAM_END)
            else:
                writer.write(_ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def _field(head: bytes, name: bytes) -> bytes:
    start = head.lower().index(b"\r\n" + name + b":") + len(name) + 3
    return head[start : head.index(b"\r\n", start)].strip()


@asynccontextmanager
async def provider() -> AsyncIterator[int]:
    """A provider on loopback; its port."""
    server = await asyncio.start_server(_provide, "127.0.0.1", 0, limit=1 << 20, backlog=2048)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def _converse(port: int, request: bytes, times: int) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took = []
    try:
        for _ in range(times):
            start = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"not a 200: {head!r}")
            if b"content-length:" in head:
                await reader.readexactly(int(_field(head, b"content-length")))
            else:
                while size := int(await reader.readline(), 16):
                    await reader.readexactly(size + 2)
                await reader.readline()
            took.append(time.perf_counter() - start)
    finally:
        writer.close()
    return took


@dataclass(frozen=True, slots=True)
class Load:
    """What a load was like for the clients.

    Attributes:
        latencies_s: of each call.
        wall_s: of all together.
    """

    latencies_s: list[float]
    wall_s: float


async def load(port: int, requests: Iterable[bytes], *, times: int) -> Load:
    """Send each of ``requests`` on a connection of its own, ``times`` times.

    Raises:
        RuntimeError: an answer wasn't a 200.
    """
    start = time.perf_counter()
    took = await asyncio.gather(*(_converse(port, one, times) for one in requests))
    return Load([one for some in took for one in some], time.perf_counter() - start)


def cpu_seconds(pid: int) -> float:
    """CPU that a process, with all its threads, has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123 - no file
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own or read from files."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: PTH123 - no file
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
