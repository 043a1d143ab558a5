"""What the live page looks at: a process of its own, or several of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sentinel_extproc.admin.control import Control
from sentinel_extproc.admin.looking import LookUps
from sentinel_extproc.admin.page.tables import MAX_RUNNING, TOP, Picture
from sentinel_extproc.exchange.running import Running
from sentinel_extproc.telemetry.live import Live


class Sources(Protocol):
    """What the page looks at."""

    @property
    def look_ups(self) -> LookUps:
        """Answers what is asked about a user."""
        ...

    @property
    def control(self) -> Control:
        """Does what is asked for."""
        ...

    async def picture(self) -> Picture:
        """Everything that it shows, now."""
        ...


@dataclass(frozen=True, slots=True)
class OwnSources:
    """``Sources`` of one process.

    Attributes:
        running: the oldest exchanges, at most so many.
        in_all: how many there are.
        status: as ``/v1/status``.
    """

    live: Live
    running: Callable[[int], list[Running]]
    in_all: Callable[[], int]
    status: Callable[[], Awaitable[Mapping[str, Any]]]
    look_ups: LookUps
    control: Control

    async def picture(self) -> Picture:
        """See ``Sources``."""
        live = self.live
        return Picture(
            at_s=time.time(),
            samples=live.samples(),
            users=live.users(TOP),
            models=live.models(TOP),
            reasons=live.reasons(TOP),
            running=self.running(MAX_RUNNING),
            running_in_all=self.in_all(),
            status=await self.status(),
            not_stored=live.not_stored,
            faults=live.faults,
        )
