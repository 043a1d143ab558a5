"""What a worker tells the admin port of all workers, beside what every admin port tells.

GET  /inner/metrics    families of metrics, as MessagePack
GET  /inner/picture    what the live page would show of this worker

And its counts, written to a file now and then and at its end, so that they outlive it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sentinel_extproc.admin.page.tables import Picture
from sentinel_extproc.telemetry.across import Family, growing, pack
from sentinel_extproc.workers.shelf import replace_file

log = logging.getLogger("sentinel.admin")

METRICS, PICTURE = "/inner/metrics", "/inner/picture"

WRITE_EVERY_S = 5.0
"""What is counted between the last time and a death without a word is missing from the sums."""

Families = Callable[[], list[Family]]


def inner_routes(families: Families, picture: Callable[[], Awaitable[Picture]]) -> list[Route]:
    """For ``admin_app``."""

    async def metrics(_: Request) -> Response:
        found = await asyncio.to_thread(families)
        return Response(pack(found), media_type="application/msgpack")

    async def shown(_: Request) -> Response:
        return Response(msgspec.json.encode(await picture()), media_type="application/json")

    return [Route(METRICS, metrics), Route(PICTURE, shown)]


class FinalCounts:
    """One background task that keeps a file of what this process has counted."""

    def __init__(self, families: Families, file: Path) -> None:
        self._families = families
        self._file = file
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; once."""
        self._task = asyncio.create_task(self._run(), name="final-counts")

    async def aclose(self) -> None:
        """Write once more, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self._write()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self._write()

    async def _write(self) -> None:
        try:
            await asyncio.to_thread(
                lambda: replace_file(self._file, pack(growing(self._families())))
            )
        except Exception as fault:  # noqa: BLE001 - metrics never stop the main job
            log.warning("counts_not_written", extra={"reason": str(fault)})
