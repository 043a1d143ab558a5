"""Builds what turns requests away under load."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from sentinel_extproc.config.overload import most_at_once
from sentinel_extproc.config.sections.serving import OverloadSettings
from sentinel_extproc.overload.admission import Admission
from sentinel_extproc.overload.memory import container_bytes, resident_bytes
from sentinel_extproc.overload.shedder import Bounds, Shedder
from sentinel_extproc.overload.watch import Watch
from sentinel_extproc.telemetry.facts import to_all
from sentinel_extproc.telemetry.loop_lag import LoopLag
from sentinel_extproc.usage.outbox import Outbox

_OF_CONTAINER = 0.85


def admission_of(
    settings: OverloadSettings, *, max_streams: int, workers: int = 1, enforces: bool = True
) -> Admission:
    """Bounds as the settings say, or as they follow from the server's and the container's, of which
    each of several workers has its part."""
    memory = settings.max_memory_bytes
    if memory is None and (container := container_bytes()) is not None:
        # What workers share is in the resident memory of each, so only what is left is parted.
        shared = (resident_bytes() or 0) if workers > 1 else 0
        memory = share_of(int(container * _OF_CONTAINER), shared=shared, workers=workers)
    bounds = Bounds(
        lag_s=settings.max_loop_lag_seconds,
        commit_s=settings.max_commit_seconds,
        memory_bytes=memory,
    )
    return Admission(
        most=most_at_once(settings, max_streams=max_streams),
        most_per_user=settings.max_exchanges_per_user,
        most_wait_s=settings.max_wait_seconds,
        ends_unread=enforces,  # what only watches ends nothing with an error
        shedder=Shedder(bounds),
    )


def share_of(whole: int, *, shared: int, workers: int) -> int:
    """Bytes that one of several workers may use, which all start with the same ``shared`` bytes."""
    return shared + max(0, whole - shared) // workers


def watch_load(
    shedder: Shedder,
    *,
    outbox: Outbox,
    live: Callable[[], int],
    observe: Callable[[float], None],
    stack: AsyncExitStack,
) -> None:
    """Sample how this process fares, until ``stack`` ends; ``observe`` takes each lag too."""
    watch = Watch(shedder, commit_s=lambda: outbox.busy_s, live=live)
    lag = LoopLag(to_all(observe, watch))
    stack.push_async_callback(lag.aclose)
    lag.start()
