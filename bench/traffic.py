"""Load for benchmarks: a provider that costs next to nothing, and clients that measure.

Both speak just enough HTTP/1.1, since what they cost would be in the way on a small machine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_USAGE = {"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110}
_SCHED_CLOCK = 2


_NUMBER = "#number#"
"""Stands in a prompt where each request has a number of its own, of as many characters."""

_NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of request.

    Attributes:
        prompt_bytes: length of the user's message.
        chunks: of a streamed answer; 0 for a plain one.
        chunk_delay_s: before each of them.
        model: says which encoding counts.
        fresh: the prompt's text is never the same twice, so that nobody can have counted it before.
    """

    prompt_bytes: int = 300
    chunks: int = 0
    chunk_delay_s: float = 0.01
    model: str = "gpt-4o-mini"
    fresh: bool = True

    def request(
        self, token: str, *, model: str | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The whole request."""
        text = ("All work and no play makes a dull benchmark. " * (self.prompt_bytes // 45 + 1))[
            : self.prompt_bytes
        ]
        if self.fresh:
            text = _NUMBER + text[len(_NUMBER) :]
        body = json.dumps(
            {
                "model": model or self.model,
                "messages": [{"role": "user", "content": text}],
                "max_tokens": 500,
                "stream": bool(self.chunks),
            }
        ).encode()
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n"
            b"authorization: Bearer %s\r\ncontent-type: application/json\r\n"
            b"x-bench: %s\r\n%scontent-length: %d\r\n\r\n"
            % (
                token.encode(),
                self.told.encode(),
                "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items()).encode(),
                len(body),
            )
        ) + body

    @property
    def told(self) -> str:
        """What the provider goes by, in ``x-bench``."""
        return f"{self.chunks} {self.chunk_delay_s:f}"


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
# LiteLLM takes a hundred equal chunks for a fault of the model.
_CHUNKS = tuple(_event({"content": text}, usage=None) for text in ("word ", "more "))
_STREAM_END = _event({}, choices=[], usage=_USAGE) + b"e\r\ndata: [DONE]\n\n\r\n" + b"0\r\n\r\n"


async def _provide(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(_field(head, b"content-length", b"0")))
            chunks, delay = _field(head, b"x-bench", b"0 0").split()
            if int(chunks):
                writer.write(_STREAM_HEAD)
                for n in range(int(chunks)):
                    await asyncio.sleep(float(delay))
                    if writer.is_closing():
                        return
                    writer.write(_CHUNKS[n % 2])
                writer.write(_STREAM_END)
            else:
                writer.write(_ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        # Cancelled: by the end of the loop. Its report of that would be a page for each connection.
        pass
    finally:
        writer.close()


def _field(head: bytes, name: bytes, default: bytes) -> bytes:
    found = head.lower().find(b"\r\n" + name + b":")
    if found < 0:
        return default
    start = found + len(name) + 3
    return head[start : head.index(b"\r\n", start)].strip()


@asynccontextmanager
async def provider() -> AsyncIterator[int]:
    """A provider on loopback; its port."""
    server = await asyncio.start_server(_provide, "127.0.0.1", 0, limit=1 << 20, backlog=2048)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def _converse(port: int, request: bytes, times: float, until: float) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took: list[float] = []
    before, number, after = request.partition(_NUMBER.encode())
    try:
        while not took or (len(took) < times and time.perf_counter() < until):
            sent = before + b"%8d" % next(_NUMBERS) + after if number else request
            start = time.perf_counter()
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"not a 200: {head!r}")
            if b"content-length:" in head.lower():
                await reader.readexactly(int(_field(head, b"content-length", b"0")))
            else:
                tail = b""
                while size := int(await reader.readline(), 16):
                    tail = (tail + await reader.readexactly(size + 2))[-64:]
                await reader.readline()
                if b"[DONE]" not in tail:
                    raise RuntimeError("a stream without its end")
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


async def load(
    port: int, requests: Iterable[bytes], *, seconds: float = math.inf, times: float = math.inf
) -> Load:
    """Send each of ``requests`` on a connection of its own, again and again: for so long or so
    many times, whichever is over first, at least once.

    Raises:
        RuntimeError: an answer wasn't a 200.
    """
    start = time.perf_counter()
    took = await asyncio.gather(*(_converse(port, one, times, start + seconds) for one in requests))
    return Load([one for some in took for one in some], time.perf_counter() - start)


@asynccontextmanager
async def held(port: int, requests: Iterable[bytes]) -> AsyncIterator[None]:
    """Answers to all ``requests`` are streaming: the first chunk of each has come.

    Raises:
        RuntimeError: an answer wasn't a 200.
    """
    opened: list[asyncio.StreamWriter] = []

    async def begin(request: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened.append(writer)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not a 200: {head!r}")
        await reader.readline()

    try:
        # Not all in one moment: this is about what they hold, not about how they begin.
        waiting = list(requests)
        for some in range(0, len(waiting), 50):
            await asyncio.gather(*(begin(one) for one in waiting[some : some + 50]))
        yield
    finally:
        for writer in opened:
            writer.transport.abort()


def family(pid: int) -> list[int]:
    """A process and its children's children."""
    found, all_ = [pid], _parents()
    for one in found:
        found += [child for child, parent in all_ if parent == one]
    return found


def cpu_seconds(pid: int) -> float:
    """CPU that a process and its descendants have used, with all their threads; exact."""
    used = 0.0
    for one in family(pid):
        with suppress(OSError):  # it has ended
            used += time.clock_gettime((~one << 3) | _SCHED_CLOCK)
    return used


def resident_bytes(pid: int) -> int:
    """Memory of a process and its descendants that is their own or read from files."""
    used = 0
    for one in family(pid):
        with suppress(OSError):
            used += int(Path(f"/proc/{one}/statm").read_text().split()[1])
    return used * os.sysconf("SC_PAGE_SIZE")


def _parents() -> list[tuple[int, int]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found.append((int(entry.name), int(fields[1])))
    return found
