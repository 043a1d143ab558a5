"""The composition root's part about the way of usage to Zion, from the settings."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from sentinel_extproc.config.sections.usage import Hop, UsageSettings
from sentinel_extproc.limits.store.redis import Client
from sentinel_extproc.usage.drain import drain
from sentinel_extproc.usage.forwarder import Forwarder
from sentinel_extproc.usage.orphans import Orphans
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.reporter import Reporter
from sentinel_extproc.usage.reporting import OnAmbiguous
from sentinel_extproc.usage.stream import Stream
from sentinel_extproc.usage.stream_queue import StreamQueue
from sentinel_extproc.zion.client import ZionClient

_LOOK_S = 1.0
"""Between looks of a reporter at a stream that was empty: others fill it too."""


@dataclass(frozen=True, slots=True)
class UsageParts:
    """What the rest needs of them; without a stream only the reporter."""

    reporter: Reporter
    orphans: Orphans
    forwarder: Forwarder | None = None
    queue: StreamQueue | None = None


async def usage_parts(
    settings: UsageSettings,
    *,
    outbox: Outbox,
    zion: ZionClient,
    redis: Client,
    prefix: str,
    report_deadline_s: float,
    stack: AsyncExitStack,
) -> UsageParts:
    """Build and start them; ``stack`` drains them.

    Args:
        redis: of their own, open until they are drained.
        prefix: of keys there.
        report_deadline_s: how long a report may take; a lease lasts longer.
    """
    orphans = Orphans(outbox, redis, prefix=prefix, silent_s=settings.orphan_seconds)
    if settings.hop is Hop.DIRECT:
        await outbox.unhand()
        reporter = _reporter(settings, outbox, zion, settings.report_interval_seconds)
        parts = UsageParts(reporter, orphans)
    else:
        stream = Stream(
            redis,
            origin=lambda: outbox.sidecar,
            consumer=outbox.sidecar,
            prefix=prefix,
            shards=settings.stream_shards,
            lease_s=max(30.0, 2 * report_deadline_s + 10.0),
            max_entries=settings.stream_max_items,
        )
        queue = StreamQueue(stream, outbox)
        look_s = min(_LOOK_S, settings.report_interval_seconds)
        reporter = _reporter(settings, queue, zion, look_s)
        forwarder = Forwarder(
            outbox,
            stream,
            reporter.counters,
            on_ambiguous=OnAmbiguous(settings.on_ambiguous),
            window=settings.stream_window,
            interval_s=settings.report_interval_seconds,
        )
        parts = UsageParts(reporter, orphans, forwarder, queue)

    async def last_way() -> None:
        await drain(
            outbox,
            parts.reporter,
            settings.shutdown_seconds,
            forwarder=parts.forwarder,
            queue=parts.queue,
        )

    stack.push_async_callback(last_way)
    stack.push_async_callback(orphans.aclose)
    orphans.start()
    if parts.queue is not None:
        parts.queue.start()
    if parts.forwarder is not None:
        parts.forwarder.start()
    parts.reporter.start()
    return parts


def _reporter(
    settings: UsageSettings, items: Outbox | StreamQueue, zion: ZionClient, interval_s: float
) -> Reporter:
    return Reporter(
        items,
        zion,
        interval_s=interval_s,
        batch_size=settings.batch_size,
        on_ambiguous=OnAmbiguous(settings.on_ambiguous),
    )
