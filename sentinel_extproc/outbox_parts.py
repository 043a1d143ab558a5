"""The composition root's part about outboxes: which file is this process', and whose are left."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from sentinel_extproc.config.sections.usage import Durability
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.limits.store.redis import Client
from sentinel_extproc.usage.departed import Departed, opened
from sentinel_extproc.usage.files import (
    MAX_OUTBOXES,
    OutboxError,
    OutboxInUseError,
    outbox_path,
)
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage_parts import usage_parts
from sentinel_extproc.zion.client import ZionClient
from sentinel_extproc.zion.wire import Dialect

log = logging.getLogger("sentinel.app")

_LEAST_BYTES = 1 << 20
_LAST_REPORTS_S = 1.0
"""Of an outbox that is only looked after: what it doesn't get sent, the next process will."""


def open_outbox(settings: Settings, *, workers: int) -> tuple[Outbox, Path]:
    """This process' outbox, opened: the configured file, or with several workers the first of the
    sidecar's files that nobody has open. So a process takes on what the one before it left.

    Raises:
        OutboxError: it can't be used.
    """
    path = settings.usage.outbox_path
    if workers == 1:
        outbox = _outbox(settings, path, workers=1)
        outbox.open()
        return outbox, path
    for number in range(MAX_OUTBOXES):
        mine = outbox_path(path, number)
        outbox = _outbox(settings, mine, workers=workers)
        try:
            outbox.open()
        except OutboxInUseError:
            continue
        return outbox, mine
    raise OutboxError(f"all {MAX_OUTBOXES} outboxes at {path} are in use")


async def close_outbox(outbox: Outbox) -> None:
    """Close it, and note where its chain ends."""
    await outbox.aclose()
    note_head("ledger_closed", outbox)


def note_head(event: str, outbox: Outbox) -> None:
    """What was noted elsewhere can't be rewritten unseen: see ``usage.chain``."""
    head = outbox.head
    log.info(event, extra={"sidecar": outbox.sidecar, "seq": head.seq, "hash": head.hash.hex()})


def departed(
    settings: Settings,
    *,
    own: Path,
    workers: int,
    zion: ZionClient,
    redis: Client,
) -> Departed:
    """Looks after the sidecar's other files; not started."""

    @asynccontextmanager
    async def delivering(path: Path) -> AsyncIterator[Outbox]:
        usage = settings.usage.model_copy(update={"shutdown_seconds": _LAST_REPORTS_S})
        async with AsyncExitStack() as stack:
            outbox = _outbox(settings, path, workers=workers)
            await stack.enter_async_context(opened(outbox))
            await usage_parts(
                usage,
                outbox=outbox,
                zion=zion,
                redis=redis,
                prefix=settings.redis.prefix,
                report_deadline_s=settings.zion.report_deadline_seconds,
                stack=stack,
            )
            yield outbox

    return Departed(settings.usage.outbox_path, own=own, delivering=delivering)


def _outbox(settings: Settings, path: Path, *, workers: int) -> Outbox:
    usage = settings.usage
    return Outbox(
        path,
        max_bytes=max(_LEAST_BYTES, usage.max_bytes // workers),
        fsync=usage.durability is Durability.FSYNC,
        gathers=True,
        split_metrics=settings.zion.dialect.value == Dialect.PER_METRIC.value,
        retain_s=usage.retain_days * 86_400,
        name=_name(usage.sidecar_name, usage.outbox_path, path),
        max_under_way=settings.server.max_streams,
    )


def _name(sidecar: str | None, configured: Path, path: Path) -> str | None:
    """What the ledger calls a file: the sidecar's name, and which one of its files it is."""
    if sidecar is None or path == configured:
        return sidecar
    return f"{sidecar}-{path.stem.rpartition('-')[2]}"
