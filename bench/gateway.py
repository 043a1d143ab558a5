"""What the sidecar costs, beside an empty processor, none at all, and other gateways.

    python -m bench.gateway [--quick] [--minutes 12] [--peers] [--record] [--json FILE]

All variants of a part run side by side, and every measurement is taken in turns (A-B-C-A-B-C), so
that a noisy machine is noisy for all of them. CPU is each process' own, from the kernel's account,
so what clients and provider cost doesn't count. Medians over the rounds; the spread is their least
and largest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from rich.console import Console

from bench.peers import peers
from bench.report import record, table
from bench.results import Result, Run, Scenario, plan_seconds
from bench.traffic import Call, cpu_seconds, held, load, provider, resident_bytes
from bench.variants import FLOOR, OURS, Variant, core, stages

CHUNK_S = 0.01
SCENARIOS = (
    Scenario("JSON, 300 B, 1 connection", 300, 0, 1),
    Scenario("JSON, 300 B, 16 connections", 300, 0, 16),
    Scenario("JSON, 300 B, 64 connections", 300, 0, 64),
    Scenario("JSON, 10 kB, 16 connections", 10_000, 0, 16),
    Scenario("JSON, 100 kB, 16 connections", 100_000, 0, 16),
    Scenario("JSON, 100 kB said before, 16 connections", 100_000, 0, 16, fresh=False),
    Scenario("Stream of 100 chunks at 10 ms, 16 at once", 300, 100, 16),
    Scenario("Stream of 500 chunks at 10 ms, 16 at once", 300, 500, 16),
)
QUICK = (SCENARIOS[1], SCENARIOS[5])
STAGED = QUICK
OPEN_STREAMS = 1000
HELD_CALL = Call(chunks=100, chunk_delay_s=1.0)
ROUNDS = 4
LONG_ROUNDS = 2
"""Of streams of 500 chunks, each of which takes five seconds."""

_START_S = {"core": 25.0, "stages": 25.0, "peers": 25.0, "memory": 10.0}
_SETTLE_S = 2.0
_WARM_S = 0.3


def call_of(scenario: Scenario) -> Call:
    """What its clients send."""
    return Call(scenario.prompt_bytes, scenario.chunks, CHUNK_S, fresh=scenario.fresh)


def takes_part(variant: Variant, scenario: Scenario) -> bool:
    """Whether there is something to see."""
    return bool(scenario.chunks) or not variant.streams_only


async def measure(variant: Variant, scenario: Scenario, *, seconds: float) -> Result:
    """Run one scenario against one gateway for about ``seconds``."""
    requests = variant.requests(call_of(scenario), scenario.connections)
    before = {name: cpu_seconds(pid) for name, pid in variant.pids.items()}
    done = await load(variant.port, requests, seconds=seconds)
    used = {name: cpu_seconds(pid) - before[name] for name, pid in variant.pids.items()}
    calls, latencies = len(done.latencies_s), sorted(done.latencies_s)
    return Result(
        processor_us=used.get("processor", 0.0) / calls * 1e6,
        envoy_us=used.get("envoy", 0.0) / calls * 1e6,
        redis_us=used.get("redis", 0.0) / calls * 1e6,
        p50_ms=statistics.median(latencies) * 1e3,
        p99_ms=latencies[math.ceil(len(latencies) * 0.99) - 1] * 1e3,
        calls_per_s=calls / done.wall_s,
    )


async def stream_bytes(variant: Variant, streams: int) -> float:
    """Memory of the processor for each of so many open streams."""
    pid = variant.pids["processor"]
    before = resident_bytes(pid)
    async with held(variant.port, variant.requests(HELD_CALL, streams)):
        await asyncio.sleep(_SETTLE_S)
        return (resident_bytes(pid) - before) / streams


class Bench:
    """One run.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._console = Console(width=190)
        self._run = Run()
        self._deadline = time.monotonic() + options.minutes * 60
        self._scenarios = QUICK if options.quick else SCENARIOS
        self._seconds = 1.0
        self._rounds_end = self._deadline
        self._warm: set[str] = set()
        # Compilers of peers want more.
        self._warm_s = 2.5 if options.peers else 0.5

    async def run(self) -> Run:
        """Measure everything and show it."""
        options = self._options
        self._run.scenarios = list(self._scenarios)
        self._run.about = about(options)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as parts:
            async with provider() as port:
                self._console.print("starting the gateways")
                work_dir = Path(folder)
                others: list[Variant] = []
                if options.peers:
                    calls = [call_of(one) for one in self._scenarios]
                    others = parts.enter_context(peers(work_dir, port, calls, self._note))
                # What peers take to install isn't counted.
                self._deadline = time.monotonic() + options.minutes * 60
                with core(work_dir, port) as found:
                    self._plan([*found, *others])
                    await self._measure_all([*found, *others])
                    await self._hold_streams(found)
                self._rounds_end = self._deadline
                if not options.quick:
                    with stages(work_dir, port) as found:
                        await self._measure_stages(found)
        self._run.about["load average"] = f"{os.getloadavg()[2]:.1f} over 15 minutes at the end"
        return self._run

    def _note(self, text: str) -> None:
        self._console.print(text, style="yellow")
        self._run.notes.append(text)

    def _plan(self, found: Sequence[Variant]) -> None:
        counted = fixed = 0.0
        for scenario in self._scenarios:
            many = sum(takes_part(one, scenario) for one in found) * self._rounds(scenario)
            if scenario.chunks > 200:
                fixed += many * scenario.chunks * CHUNK_S * 1.2
            else:
                counted += many
            fixed += len(found) * (min(scenario.chunks, 10) * CHUNK_S or _WARM_S)
        fixed += _START_S["core"] + self._warm_s * len(found)
        after = _START_S["memory"] * len(found)
        if not self._options.quick:
            counted += 6 * len(STAGED) * self._rounds(STAGED[0])
            after += _START_S["stages"]
        fixed += after
        self._seconds = self._options.seconds or plan_seconds(
            self._options.minutes * 60,
            # Streams end when they do, half a stream later than asked for.
            fixed_s=fixed * 1.1,
            measurements=round(counted * 1.25),
            least=0.5,
            most=4.0,
        )
        if not self._options.quick:
            after += 6 * len(STAGED) * self._seconds * self._rounds(STAGED[0])
        self._rounds_end = self._deadline - after
        self._run.about["each measurement"] = f"{self._seconds:.1f} s"

    def _rounds(self, scenario: Scenario) -> int:
        rounds: int = self._options.rounds
        return min(rounds, LONG_ROUNDS) if scenario.chunks > 200 else rounds

    async def _measure_all(self, found: list[Variant]) -> None:
        for scenario in self._scenarios:
            part = [one for one in found if takes_part(one, scenario)]
            by = await self._in_turns(part, scenario)
            self._run.results[scenario.name] = by
            self._console.print(table(scenario.name, by, against=FLOOR))
        for variant in found:
            if (pid := variant.pids.get("processor")) is not None:
                self._run.resident_bytes[variant.name] = resident_bytes(pid)

    async def _measure_stages(self, found: list[Variant]) -> None:
        for scenario in STAGED:
            by = await self._in_turns(found, scenario)
            self._run.stages[scenario.name] = by
            self._console.print(table(f"{scenario.name}: ours, changed", by, against=OURS))

    async def _in_turns(self, found: list[Variant], scenario: Scenario) -> dict[str, list[Result]]:
        found = [one for one in found if await self._works(one, scenario)]
        by: dict[str, list[Result]] = {one.name: [] for one in found}
        for round_ in range(self._rounds(scenario)):
            if round_ and time.monotonic() > self._rounds_end:
                self._note(f"{scenario.name}: {round_} rounds, then the time was over.")
                break
            for variant in found:
                by[variant.name].append(await measure(variant, scenario, seconds=self._seconds))
        return by

    async def _works(self, variant: Variant, scenario: Scenario) -> bool:
        """Fill caches, open connections, and see whether it answers at all."""
        call = call_of(replace(scenario, chunks=min(scenario.chunks, 10)))
        if call.told in variant.models or not variant.models:
            requests = variant.requests(call, scenario.connections)
        else:
            requests = variant.requests(call_of(scenario), scenario.connections)
        warm_s = _WARM_S if variant.name in self._warm else self._warm_s
        self._warm.add(variant.name)
        try:
            await load(variant.port, requests, seconds=0 if scenario.chunks else warm_s)
        except (RuntimeError, OSError, EOFError) as fault:
            why = str(fault).split("\\r\\n")[0]
            self._note(f"{variant.name} is left out of {scenario.name}: {why}.")
            return False
        return True

    async def _hold_streams(self, found: list[Variant]) -> None:
        for variant in found:
            if "processor" in variant.pids:
                streams = self._options.open_streams
                held_by = await stream_bytes(variant, streams)
                self._run.stream_bytes[variant.name] = held_by
                self._console.print(
                    f"{variant.name}: {held_by / 1000:.1f} kB for each of {streams} open streams"
                )


def about(options: argparse.Namespace) -> dict[str, str]:
    """When, on what, how."""
    from sentinel_extproc import __version__

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "Python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, which clients, provider, Redis and Envoys share",
        "processor": _cpu(),
        "rounds": str(options.rounds),
        "load average": "",
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return "?"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "?")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--minutes", type=float, default=12.0, help="that it may take in all")
    parser.add_argument("--seconds", type=float, help="of each measurement, instead of what fits")
    parser.add_argument("--quick", action="store_true", help="two scenarios, no stages")
    parser.add_argument("--peers", action="store_true", help="LiteLLM and Portkey as well")
    parser.add_argument("--open-streams", type=int, default=OPEN_STREAMS, help="held for memory")
    parser.add_argument("--record", action="store_true", help="write results, docs and picture")
    parser.add_argument("--json", type=Path, help="write every measurement there")
    options = parser.parse_args()
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(most, 20_000)), most))
    if sys.platform != "linux":
        parser.error("CPU of other processes is read as Linux has it")
    found = uvloop.run(Bench(options).run())
    if options.json:
        options.json.write_text(json.dumps(found.plain(), indent=1), encoding="utf-8")
    if options.record:
        record(found)


if __name__ == "__main__":
    main()
