"""Exchanges of sidecars that died and whose disk may be gone: somebody else puts them on record.

Every second each sidecar brings a copy of what it has under way up to date in Redis, behind the
requests. One that was silent for ``silent_s`` is taken for dead, and another sidecar records what
it had under way as ``unknown``, with its id as the origin: never billed, but never forgotten. If it
comes back with its disk it records them, too, under the same ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from sentinel_extproc.errors import Unavailable
from sentinel_extproc.limits.store.attempts import REDIS_FAULTS
from sentinel_extproc.limits.store.lua import LuaScript
from sentinel_extproc.limits.store.redis import Client
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Intent

logger = logging.getLogger(__name__)

BUDGET_S = 2.0
"""For one look: nobody waits for it."""

PAGE = 500
"""Exchanges written or adopted in one call."""

LEASE_MS = "60000"
KEEP_MS = str(7 * 86_400_000)


@dataclass(slots=True)
class OrphanCounters:
    """What happened so far; only ever grows.

    Attributes:
        adopted: exchanges of dead sidecars put on record here.
        failures: looks that Redis or the outbox failed.
    """

    adopted: int = 0
    failures: int = 0


class Orphans:
    """One background task.

    Args:
        prefix: of every key.
        silent_s: how long a sidecar must not have been heard of to be taken for dead.
        interval_s: between looks.
    """

    def __init__(
        self,
        outbox: Outbox,
        client: Client,
        *,
        prefix: str = "sentinel",
        silent_s: float = 60.0,
        interval_s: float = 1.0,
    ) -> None:
        self._outbox = outbox
        self._client = client
        self._stem = f"{prefix}:1"
        self._silent_ms = str(round(silent_s * 1000))
        self._interval_s = interval_s
        self._copied: dict[str, Intent] | None = None
        self._origin = ""
        self._failing = False
        self._task: asyncio.Task[None] | None = None
        package = "sentinel_extproc.usage"
        self._mirror = LuaScript(package, "mirror")
        self._silent = LuaScript(package, "silent")
        self._adopt = LuaScript(package, "adopt")
        self.counters = OrphanCounters()

    def start(self) -> None:
        """Begin; once."""
        self._task = asyncio.create_task(self._run(), name="usage-orphans")

    async def aclose(self) -> None:
        """End; with nothing under way, be forgotten. May be called twice."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        with contextlib.suppress(*REDIS_FAULTS):
            async with asyncio.timeout(BUDGET_S):
                await self._copy()
                if not self._copied:
                    await self._client.zrem(self._beats, self._origin)

    async def look(self) -> None:
        """Say that we are alive, bring our copy up to date, and adopt what a dead sidecar left.

        Raises:
            Unavailable: the outbox can't store.
            redis.RedisError and the like: Redis can't be asked.
        """
        async with asyncio.timeout(BUDGET_S):
            await self._copy()
            arguments = [self._origin, self._silent_ms, "10"]
            silent = await self._silent.run(self._client, [self._beats], arguments)
        for name in cast("list[bytes]", silent):
            await self._adopt_from(name.decode())

    @property
    def _beats(self) -> str:
        return f"{self._stem}:intents:beats"

    def _keys(self, origin: str) -> list[str]:
        return [f"{self._stem}:{{intents:{origin}}}:{kind}" for kind in ("open", "lease")]

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
                self._failing = False
            except (*REDIS_FAULTS, Unavailable) as fault:
                self.counters.failures += 1
                self._copied = None  # who knows what Redis has now
                if not self._failing:
                    self._failing = True
                    logger.warning("exchanges under way are not copied: %s", type(fault).__name__)
            except Exception:
                self.counters.failures += 1
                self._copied = None
                logger.exception("looking after dead sidecars failed")
            await asyncio.sleep(self._interval_s)

    async def _copy(self) -> None:
        origin = self._outbox.sidecar
        if origin != self._origin:
            self._origin, self._copied = origin, None
        before = self._copied or {}
        whole = self._copied is None
        now = {intent.id: intent for intent in self._outbox.under_way()}
        over = [exchange_id for exchange_id in before if exchange_id not in now]
        new = [exchange_id for exchange_id in now if exchange_id not in before]
        kept = {exchange_id: before[exchange_id] for exchange_id in before if exchange_id in now}
        if not (whole or over or new):
            return
        self._copied = None  # until it is known to have worked
        while True:
            page, new = new[:PAGE], new[PAGE:]
            arguments: list[str | bytes] = ["1" if whole else "0", KEEP_MS, str(len(over)), *over]
            for exchange_id in page:
                arguments += [exchange_id, msgspec.json.encode(now[exchange_id])]
            answer = await self._mirror.run(self._client, self._keys(origin)[:1], arguments)
            kept |= {exchange_id: now[exchange_id] for exchange_id in page}
            whole, over = False, []
            if not new:
                break
        # Another number, and Redis has lost some of it, or somebody adopted it: begin anew.
        self._copied = kept if answer == len(kept) else None

    async def _adopt_from(self, origin: str) -> None:
        keys, stored = self._keys(origin), list[str]()
        while True:
            arguments = [self._origin, LEASE_MS, str(PAGE), *stored]
            async with asyncio.timeout(BUDGET_S):
                reply = await self._adopt.run(self._client, keys, arguments)
            ours, pairs = cast("list[Any]", reply)
            if not ours:
                return
            # Together, so that they share commits.
            await asyncio.gather(*(self._record(origin, body) for body in pairs[1::2]))
            stored = [exchange_id.decode() for exchange_id in pairs[::2]]
            if not stored:
                break
        async with asyncio.timeout(BUDGET_S):
            await self._client.zrem(self._beats, origin)
            await self._client.delete(keys[1])

    async def _record(self, origin: str, body: bytes) -> None:
        try:
            intent = msgspec.json.decode(body, type=Intent)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            logger.error("an exchange that %s had under way can't be read: %r", origin, body)  # noqa: TRY400
            return
        await self._outbox.add_unknown(intent, origin=origin)
        self.counters.adopted += 1
