"""The event loop's lag is seen when something blocks the loop."""

from __future__ import annotations

import asyncio
import time

from sentinel_extproc.telemetry.loop_lag import LoopLag


async def test_a_blocked_loop_shows() -> None:
    seen: asyncio.Queue[float] = asyncio.Queue()
    lag = LoopLag(seen.put_nowait, every_s=0.001)
    lag.start()
    async with asyncio.timeout(20):
        assert await seen.get() >= 0
        time.sleep(0.05)  # noqa: ASYNC251 - blocking is the point
        # A sample was due within a millisecond of the start of that.
        while await seen.get() < 0.045:
            pass
    await lag.aclose()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "loop-lag"]
    await lag.aclose()
