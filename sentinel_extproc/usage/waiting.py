"""Those who wait for the writer's thread, in event loops, and what they are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sentinel_extproc.errors import Unavailable


@dataclass(slots=True)
class Waiter:
    """Somebody who waits for a record to be stored."""

    loop: asyncio.AbstractEventLoop
    stored: asyncio.Future[None]


def unavailable(message: str, *, wait_s: float = 1.0) -> Unavailable:
    """The answer to a client while usage can't be recorded."""
    return Unavailable(message, retry_after_s=wait_s, code="usage_unavailable")


def wake(waiters: Iterable[Waiter | None], failure: str | None) -> None:
    """Tell everybody who waits, with one call per event loop; from any thread.

    Args:
        failure: why it could not be stored; None: it is.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiter in waiters:
        if waiter is not None:
            by_loop.setdefault(waiter.loop, []).append(waiter.stored)
    for loop, futures in by_loop.items():
        with contextlib.suppress(RuntimeError):  # that loop is closed, so nobody waits
            loop.call_soon_threadsafe(_resolve, futures, failure)


def _resolve(futures: Sequence[asyncio.Future[None]], failure: str | None) -> None:
    for future in futures:
        if future.done():  # cancelled, or told of an earlier failure
            continue
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(unavailable(failure))
