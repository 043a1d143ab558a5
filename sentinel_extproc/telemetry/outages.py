"""Outages of what we depend on, each told twice: when it was noticed, and when it was over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sentinel_extproc.telemetry.logs import iso

log = logging.getLogger("sentinel.dependencies")

LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Dependency:
    """One of them.

    Attributes:
        down: whether it is away; quick, from memory.
        meanwhile: what we do without it, for the person who reads the log.
    """

    down: Callable[[], bool]
    meanwhile: str


@dataclass(frozen=True, slots=True)
class Change:
    """What is worth a line.

    Attributes:
        since_s: when it was noticed to be away, by the wall clock.
        after_s: how long it was; None while it is.
    """

    name: str
    since_s: float
    after_s: float | None = None


class Outages:
    """What is away since when. Pure."""

    def __init__(self) -> None:
        self._away: dict[str, tuple[float, float]] = {}

    def look(self, down: Mapping[str, bool], *, wall_s: float, steady_s: float) -> list[Change]:
        """What changed since the last look.

        Args:
            wall_s, steady_s: this moment by the wall clock, and by one that only goes forward.
        """
        changes = []
        for name, is_down in down.items():
            known = self._away.get(name)
            if is_down and known is None:
                self._away[name] = (wall_s, steady_s)
                changes.append(Change(name, wall_s))
            elif known is not None and not is_down:
                del self._away[name]
                changes.append(Change(name, known[0], max(0.0, steady_s - known[1])))
        return changes


class OutageLog:
    """One task that looks at all of them twice a second."""

    def __init__(
        self, dependencies: Mapping[str, Dependency], *, every_s: float = LOOK_EVERY_S
    ) -> None:
        self._dependencies = dependencies
        self._every_s = every_s
        self._outages = Outages()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; once."""
        self._task = asyncio.create_task(self._run(), name="outages")

    async def aclose(self) -> None:
        """End. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(self._every_s)

    def look(self) -> None:
        """Look once, and tell."""
        down = {name: one.down() for name, one in self._dependencies.items()}
        for change in self._outages.look(down, wall_s=time.time(), steady_s=time.monotonic()):
            facts = {"dependency": change.name, "since": iso(change.since_s)}
            if change.after_s is None:
                meanwhile = self._dependencies[change.name].meanwhile
                log.error("dependency_lost", extra=facts | {"meanwhile": meanwhile})
            else:
                after_s = round(change.after_s, 1)
                log.warning("dependency_regained", extra=facts | {"after_s": after_s})
