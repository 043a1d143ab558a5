"""The last way of usage when a sidecar stops: sealed, handed over, reported, told in the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage.forwarder import Forwarder
from sentinel_extproc.usage.item_queue import Backlog, ItemQueue, ItemState
from sentinel_extproc.usage.reporter import Reporter
from sentinel_extproc.usage.stream import StreamUnavailable
from sentinel_extproc.usage.stream_queue import StreamQueue

log = logging.getLogger("sentinel.usage")

LAST_WORDS_S = 1.0
"""For saying and hearing what became of the last items, out of the time for all of it."""

_HEAR_EVERY_S = 0.05


async def drain(
    outbox: ItemQueue,
    reporter: Reporter,
    deadline_s: float,
    *,
    forwarder: Forwarder | None = None,
    queue: StreamQueue | None = None,
) -> None:
    """Seal and hand over all there is, report what is left, and stop. Cut off, nothing is lost:
    what is not billed is in the outbox, in the stream, or in both under one key.

    Args:
        deadline_s: for all of it.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    before = await _count(outbox)
    if forwarder is not None:
        handed = await forwarder.flush(deadline_s - min(LAST_WORDS_S, deadline_s / 2))
        after = await _count(outbox)
        log.info(
            "usage_handed_over",
            extra={
                "records_sealed": _sealed(before, after),
                "items": handed,
                "seconds": round(loop.time() - started, 3),
            },
        )
    left_s = max(0.0, deadline_s - (loop.time() - started))
    result = await reporter.drain(left_s - min(LAST_WORDS_S, left_s / 2))
    with contextlib.suppress(TimeoutError, StreamUnavailable, Unavailable):
        async with asyncio.timeout(LAST_WORDS_S):
            if queue is not None:
                await queue.aclose()
            if forwarder is not None:
                await forwarder.hear()
                while await _in_other_hands(outbox):
                    await asyncio.sleep(_HEAR_EVERY_S)
                    await forwarder.hear()
    last = await _count(outbox)
    log.info(
        "usage_drained",
        extra={
            "reported": result.delivered,
            "left": None if last is None else last.undelivered,
            "records_unsealed": None if last is None else last.records,
            "items": None if last is None else {s.value: n for s, n in last.items.items() if n},
            "seconds": round(loop.time() - started, 3),
        },
    )


async def _in_other_hands(outbox: ItemQueue) -> bool:
    """Whether the stream has items of ours that others, who share it, are billing."""
    backlog = await _count(outbox)
    return backlog is not None and backlog.items[ItemState.HANDED] > 0


async def _count(outbox: ItemQueue) -> Backlog | None:
    with contextlib.suppress(Unavailable):
        return await outbox.backlog()
    return None


def _sealed(before: Backlog | None, after: Backlog | None) -> int | None:
    return None if before is None or after is None else before.records - after.records
