"""One exchange and the stream that it comes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from msgspec import Struct, field

from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.telemetry.facts import End
from sentinel_extproc.telemetry.timeline import Timeline
from sentinel_extproc.telemetry.trace_context import TraceContext


class Stream(Protocol):
    """One gRPC stream, in serialized messages.

    Attributes:
        came_s: when it, or the message that was read last, came, on the loop's clock.
    """

    came_s: float

    @property
    def behind(self) -> int:
        """Messages, of all streams, that came and that nobody has read yet; about."""
        ...

    def header(self, name: str) -> bytes:
        """A header line of the stream itself, not of the request; empty when there is none."""
        ...

    async def read(self) -> bytes | None:
        """The next message; None when Envoy has ended its side."""
        ...

    async def write(self, data: bytes) -> None:
        """Send one message."""
        ...

    def stop_reading(self) -> None:
        """Have ``read`` say that Envoy has ended its side, though it hasn't."""
        ...


class Served(Struct, eq=False):
    """An exchange, its stream, and what is known of how long it takes.

    Attributes:
        task: what serves it.
        now_s: its loop's clock.
        streams: whether its stream is still there.
        behind: parts of its accounting that go on behind its stream.
        settling: its settlement, once that has begun.
        digesting: what counts its answer in a thread, while it does.
    """

    exchange: Exchange
    stream: Stream
    task: asyncio.Task[Any]
    now_s: Callable[[], float]
    timeline: Timeline = field(default_factory=Timeline)
    end: End | None = None
    trace: TraceContext | None = None
    streams: bool = True
    behind: int = 0
    settling: asyncio.Task[None] | None = None
    digesting: Future[object] | None = None
