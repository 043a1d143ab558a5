"""What a worker tells the admin port of all workers, beside what every admin port tells.

GET  /inner/metrics    families of metrics, as MessagePack
GET  /inner/picture    what the live page is to show of this worker, the same

And what it counted and remembers, in files that are written now and then and at its end, so that it
outlives the worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sentinel_extproc.exchange.running import Running
from sentinel_extproc.safe_text import for_bytes
from sentinel_extproc.telemetry.across import Family, pack
from sentinel_extproc.telemetry.live import Past
from sentinel_extproc.telemetry.past import portable
from sentinel_extproc.workers.drawer import replace_file
from sentinel_extproc.workers.shelf import COUNTS, PAST

log = logging.getLogger("sentinel.admin")

_MSGPACK = "application/msgpack"

METRICS, PICTURE = "/inner/metrics", "/inner/picture"

WRITE_EVERY_S = 5.0
"""What is counted between the last time and a death without a word is missing from the sums."""

Families = Callable[[], list[Family]]


class Shown(msgspec.Struct, frozen=True):
    """What the live page is to show; ``running``: the oldest ones, of ``in_all``."""

    past: Past
    running: list[Running]
    in_all: int


def read_shown(data: bytes) -> Shown:
    """What a worker told.

    Raises:
        msgspec.MsgspecError: it isn't that.
    """
    return msgspec.msgpack.decode(data, type=Shown)


def inner_routes(families: Families, shown: Callable[[], Shown]) -> list[Route]:
    """For ``admin_app``."""

    async def metrics(_: Request) -> Response:
        found = await asyncio.to_thread(families)
        return Response(pack(found), media_type=_MSGPACK)

    async def picture(_: Request) -> Response:
        return Response(await asyncio.to_thread(_packed, shown()), media_type=_MSGPACK)

    return [Route(METRICS, metrics), Route(PICTURE, picture)]


def _packed(shown: Shown) -> bytes:
    running = [
        replace(
            one,
            user=None if one.user is None else for_bytes(one.user),
            model=None if one.model is None else for_bytes(one.model),
        )
        for one in shown.running
    ]
    return msgspec.msgpack.encode(Shown(portable(shown.past), running, shown.in_all))


class LastWords:
    """One background task that keeps files of what this process has counted and remembers.

    Args:
        families: may be called on any thread; ``past`` on the event loop only.
    """

    def __init__(
        self, *, families: Families, counts: Path, past: Callable[[], Past], past_file: Path
    ) -> None:
        self._families = families
        self._counts = counts
        self._past = past
        self._past_file = past_file
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; once."""
        self._task = asyncio.create_task(self._run(), name="last-words")

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
        past = self._past()
        try:
            await asyncio.to_thread(self._replace, past)
        except Exception as fault:  # noqa: BLE001 - metrics never stop the main job
            log.warning("counts_not_written", extra={"reason": str(fault)})

    def _replace(self, past: Past) -> None:
        replace_file(self._counts, COUNTS.pack(self._families()))
        replace_file(self._past_file, PAST.pack(past))
