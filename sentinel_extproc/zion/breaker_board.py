"""Where replicas post what they know of a circuit breaker: in Redis, in one script.

``scripts/breaker.lua`` has all of it. Redis' own clock decides, so replicas' clocks may differ, and
everything expires: nothing that nobody renews keeps Zion shut out.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sentinel_extproc.limits.store.attempts import Attempts
from sentinel_extproc.limits.store.lua import LuaScript
from sentinel_extproc.limits.store.redis import Client

REMEMBER_MS = 600_000
"""How long a state is kept when nobody renews it."""


@dataclass(frozen=True, slots=True)
class Posted:
    """The fleet's state of a breaker.

    Attributes:
        version: moves with every change; 0 when nothing is known.
        open_s: seconds that it was opened for; 0 when it is closed.
        left_s: seconds of that to go; 0 when it is time for a probe.
        granted: the probe that was asked for is ours.
        probe_left_s: seconds that somebody else's may still take.
    """

    version: int
    open_s: float
    left_s: float
    granted: bool = False
    probe_left_s: float = 0.0


class BreakerBoard(Protocol):
    """Posts and reads. Nothing raises or takes long; None when it could not be done."""

    async def look(self, *, budget_s: float | None = None) -> Posted | None: ...

    async def open(self, open_s: float, left_s: float) -> Posted | None: ...

    async def close(self, version: int) -> Posted | None: ...

    async def probe(self, probe_s: float) -> Posted | None: ...

    async def release(self) -> Posted | None: ...


class RedisBoard:
    """Implements ``BreakerBoard``.

    Args:
        name: of the breaker.
        prefix: of every key.
        budget_s: longest that one operation may take.
        clock: seconds, monotonic; for leaving a failing Redis alone.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        *,
        prefix: str = "sentinel",
        budget_s: float = 0.025,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        # One hash tag, so that a Redis Cluster keeps both keys in one place.
        stem = f"{prefix}:1:{{breaker:{name}}}"
        self._keys = (f"{stem}:state", f"{stem}:probe")
        self._owner = secrets.token_hex(8)
        self.attempts = Attempts("the shared breaker", budget_s=budget_s, clock=clock)
        self._script = LuaScript("sentinel_extproc.zion", "breaker")

    async def look(self, *, budget_s: float | None = None) -> Posted | None:
        """What is posted."""
        return await self._run("look", budget_s=budget_s)

    async def open(self, open_s: float, left_s: float) -> Posted | None:
        """Post that it is open for ``left_s`` more, unless that is known."""
        return await self._run("open", _ms(open_s), _ms(left_s), str(REMEMBER_MS))

    async def close(self, version: int) -> Posted | None:
        """Post that the probe of ``version`` succeeded."""
        return await self._run("close", str(version), str(REMEMBER_MS))

    async def probe(self, probe_s: float) -> Posted | None:
        """Ask for the fleet's one probe."""
        return await self._run("probe", self._owner, _ms(probe_s))

    async def release(self) -> Posted | None:
        """Give our probe back unused."""
        return await self._run("release", self._owner)

    async def _run(self, *arguments: str, budget_s: float | None = None) -> Posted | None:
        reply = await self.attempts.one(
            lambda: self._script.run(self._client, self._keys, arguments), budget_s=budget_s
        )
        if not isinstance(reply, list) or len(reply) != 4:
            return None
        version, open_ms, left_ms, probe = (int(value) for value in reply)
        return Posted(version, open_ms / 1000, left_ms / 1000, probe == -1, max(0.0, probe / 1000))


def _ms(seconds: float) -> str:
    return str(max(1, math.ceil(seconds * 1000)))
