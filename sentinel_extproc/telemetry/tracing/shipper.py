"""Carries what is traced to whoever exports it: a bounded queue and a thread behind it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sentinel_extproc.telemetry.tracing.adapter import Traced

log = logging.getLogger("sentinel.tracing")

BATCH = 64
"""Exchanges in one export: some milliseconds of work, which other threads may interrupt."""


@dataclass(slots=True)
class SpanCounters:
    """Spans by what became of them. Each is counted once.

    Attributes:
        dropped: the queue was full, or the process ended before they were sent.
        failed: the receiver didn't take them, in time or at all.
    """

    exported: int = 0
    dropped: int = 0
    failed: int = 0


class Exporter(Protocol):
    """Sends spans. Called from one thread, but for ``close``."""

    def export(self, batch: Sequence[Traced]) -> str | None:
        """Return once they are taken, or why they aren't. Bounded in time."""
        ...

    def close(self) -> None:
        """Let go of the receiver, and of an export that is trying again."""
        ...


class Shipper:
    """See the module. Nothing that goes wrong here reaches an exchange.

    Args:
        make: makes the exporter, in the thread, since that imports much.
        max_queued: exchanges that may wait; beyond it, new ones are dropped and counted.
        every_s: longest wait for a batch to fill.
    """

    def __init__(
        self, make: Callable[[], Exporter], *, max_queued: int = 2048, every_s: float = 1.0
    ) -> None:
        self.counters = SpanCounters()
        self._make = make
        self._max_queued = max_queued
        self._every_s = every_s
        self._queue: deque[Traced] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._failing = False
        self._exporter: Exporter | None = None
        # A daemon: an export that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def offer(self, traced: Traced) -> None:
        """Take it, or drop it if too many wait."""
        queue = self._queue
        if len(queue) >= self._max_queued:
            self.counters.dropped += traced.spans
            return
        queue.append(traced)
        if len(queue) == BATCH:
            self._wake.set()

    async def aclose(self, *, deadline_s: float = 3.0) -> None:
        """Send what waits, for ``deadline_s`` at most; the rest is dropped."""
        self._stopping = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join, deadline_s)
        if self._thread.is_alive():
            log.warning("traces_cut_off", extra={"exchanges": len(self._queue)})
            if self._exporter is not None:
                await asyncio.to_thread(self._exporter.close)

    def _run(self) -> None:
        try:
            exporter = self._exporter = self._make()
        except Exception:
            log.exception("traces_impossible")
            self._stopping = True  # and the queue fills up, and its drops are counted
            return
        while not self._stopping:
            self._wake.wait(self._every_s)
            self._wake.clear()
            self._empty(exporter)
        self._empty(exporter)
        while self._queue:
            self.counters.dropped += self._queue.popleft().spans
        exporter.close()

    def _empty(self, exporter: Exporter) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH))]
            spans = sum(traced.spans for traced in batch)
            try:
                why = exporter.export(batch)
            except Exception as fault:  # noqa: BLE001 - a library's bug must not end the thread
                why = repr(fault)
            if why is None:
                self.counters.exported += spans
            else:
                self.counters.failed += spans
            self._tell(why)
            if why is not None and self._stopping:
                return  # there is no time to try the others

    def _tell(self, why: str | None) -> None:
        """Once when it begins to fail, and once when it works again."""
        if (why is not None) is self._failing:
            return
        self._failing = why is not None
        if why is not None:
            log.warning("traces_not_exported", extra={"reason": why})
        else:
            log.info("traces_exported_again")
