"""One test from its scenario to its report, with Ctrl-C and a line that shows how it goes."""

from __future__ import annotations

import asyncio
import resource
import signal
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text

from .planning import Planner
from .report import Generator, Report, Times, make_report
from .runner import Runner
from .scenario import Scenario
from .sender import Sender
from .tally import Tally
from .terminal import milliseconds

_LOOK_S = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def run_scenario(
    scenario: Scenario,
    tokens: Sequence[str],
    *,
    console: Console | None = None,
    trusted: ssl.SSLContext | None = None,
) -> Report:
    """Run it to its end, or to SIGINT or SIGTERM.

    Args:
        tokens: of the users.
        console: shows how it goes, if it is a terminal.
        trusted: see `Sender`.
    """
    load = scenario.load
    tally = Tally(
        (kind.name for kind in scenario.mix),
        sending_s=load.duration,
        longest_s=load.duration + load.grace,
    )
    planner = Planner(scenario.mix, tokens, scenario.seed)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    loop = asyncio.get_running_loop()
    async with Sender(scenario.target, timeout_s=load.timeout, trusted=trusted) as sender:
        runner = Runner(load, len(tokens), planner, sender.send, tally, seed=scenario.seed)
        for number in _SIGNALS:
            loop.add_signal_handler(number, runner.stop)
        showing = asyncio.create_task(_show(runner, tally, load.duration, console))
        before, begun = _cpu_s(), time.perf_counter()
        try:
            ended_by = await runner.run()
            lasted_s = time.perf_counter() - begun
            cpu_share = (_cpu_s() - before) / lasted_s
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
    return make_report(
        scenario,
        tally,
        users=len(tokens),
        started_at=started_at,
        lasted_s=lasted_s,
        ended_by=ended_by,
        generator=Generator(cpu_share, Times(runner.delay)),
    )


async def _show(runner: Runner, tally: Tally, asked_s: float, console: Console | None) -> None:
    if console is None or not console.is_terminal:
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            sums = tally.all
            counts = ", ".join(f"{n:,} {result.value}" for result, n in sums.results.items())
            first = milliseconds(sums.ttft.percentile_s(99))
            live.update(
                Text(
                    f"{runner.now():.0f} of {asked_s:.0f} s: {counts or 'nothing yet'}, "
                    f"{tally.running} running; first token p99 {first} ms"
                ),
                refresh=True,
            )
            await asyncio.sleep(_LOOK_S)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
