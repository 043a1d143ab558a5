"""Outboxes that no process has open any more, and what is still in them.

When there are fewer workers than before, or a worker was replaced, the file of one that is gone may
have usage that isn't billed yet. One process looks now and then, opens such a file as its owner
would, and delivers what is in it; the lock of the file keeps others away meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.usage.files import (
    OutboxError,
    OutboxInUseError,
    lock_path,
    outbox_paths,
)
from sentinel_extproc.usage.outbox import Outbox

log = logging.getLogger("sentinel.usage")

LOOK_S = 15.0
POLL_S = 0.5

Delivering = Callable[[Path], AbstractAsyncContextManager[Outbox]]
"""Opens an outbox, and delivers what is in it until it is closed.

Raises:
    OutboxError: it can't be opened.
"""

_Stamp = tuple[int, int, int] | None


class Departed:
    """One background task; one file at a time.

    Args:
        path: of the outbox that is configured.
        own: files of this process, which it has open.
        look_s: between looks.
    """

    def __init__(
        self,
        path: Path,
        *,
        own: Path,
        delivering: Delivering,
        look_s: float = LOOK_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._path = path
        self._own = own
        self._delivering = delivering
        self._look_s = look_s
        self._poll_s = poll_s
        self._done: dict[Path, _Stamp] = {}
        self._told: set[Path] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; once."""
        self._task = asyncio.create_task(self._run(), name="departed-outboxes")

    async def aclose(self) -> None:
        """End; what isn't delivered stays where it is. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def look(self) -> list[Path]:
        """Deliver what is left in every such file that changed since the last look; which."""
        delivered = []
        for path in outbox_paths(self._path):
            if path == self._own or (path in self._done and self._done[path] == _stamp(path)):
                continue
            try:
                if await self._deliver(path):
                    delivered.append(path)
            except OutboxInUseError:  # its owner lives
                continue
            except OutboxError as error:  # a full disk, say: tried again, told once
                if path not in self._told:
                    self._told.add(path)
                    extra = {"outbox": path.name, "reason": str(error)}
                    log.error("departed_outbox_unusable", extra=extra)  # noqa: TRY400
                continue
            except (Unavailable, OSError) as fault:  # the next file may fare better
                extra = {"outbox": path.name, "reason": str(fault)}
                log.warning("departed_outbox_failed", extra=extra)
                continue
            self._told.discard(path)
            # Not before it is closed, which writes to it.
            self._done[path] = _stamp(path)
        return delivered

    async def _deliver(self, path: Path) -> bool:
        async with self._delivering(path) as outbox:
            waiting = (await outbox.backlog()).undelivered
            if not waiting:
                return False
            log.warning(
                "departed_outbox_opened", extra={"outbox": path.name, "undelivered": waiting}
            )
            while (await outbox.backlog()).undelivered:  # noqa: ASYNC110 - it's a file
                await asyncio.sleep(self._poll_s)
        log.warning("departed_outbox_delivered", extra={"outbox": path.name})
        return True

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("looking after departed outboxes failed")
            await asyncio.sleep(self._look_s)


@asynccontextmanager
async def opened(outbox: Outbox) -> AsyncIterator[Outbox]:
    """Open, and close at the end.

    Raises:
        OutboxError: it can't be opened.
    """
    outbox.open()
    try:
        yield outbox
    finally:
        await outbox.aclose()


def _stamp(path: Path) -> _Stamp:
    """By what a file is known, and when it was last opened. Who was killed may have left records
    beside the file alone, without a change in it or in its log; but opening it wrote to its lock.
    """
    try:
        found, lock = path.stat(), lock_path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, lock.st_mtime_ns
