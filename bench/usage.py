"""What the ledger costs: throughput, bytes per record, the wait at a stream's end, the start.

    python -m bench.usage [--records 10000000] [--keep FILE]

- Throughput and size: tasks append as fast as group commit takes them.
- The wait: so many streams end at the same moment, again and again; each waits for its record's
  commit. Beside it the same with a ledger that does nothing, so that the difference is ours, and
  with one whose thread does nothing, which is what handing over to a thread costs on this machine.
- The start: an outbox with so many records, opened by a new process; its time, and its memory.

Everything is on local disk, in a temporary folder unless ``--keep`` names the big file, which is
used again if it is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uuid_utils
import uvloop
from rich.console import Console
from rich.table import Table

from sentinel_extproc.usage.database import Database
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.rows import record_row

_PLENTY = 1 << 40
_USERS = 1000
_MODELS = ("gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18", "gpt-4.1-nano-2025-04-14")
_ENDS = (1, 100, 1000)
_SAMPLES = 20_000
_GAP_S = 0.02
_STARTED_MS = 1_795_392_000_000

START_TARGET_S = 2.0
START_TARGET_MIB = 128

Append = Callable[[UsageRecord], Awaitable[None]]


def record(number: int) -> UsageRecord:
    """One like those of real traffic."""
    user = number % _USERS
    return UsageRecord(
        id=str(uuid_utils.uuid7()),
        occurred_at_ms=_STARTED_MS + number,
        external_id=f"customer-{user:06d}",
        email=f"user{user:06d}@example.com",
        endpoint="chat.completions",
        model_requested="gpt-4o",
        model_served=_MODELS[number % len(_MODELS)],
        requests=1,
        usage=TokenUsage(900 + number % 500, 200 + number % 300, cached_input_tokens=512),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
        cost_nanos=4_500_000 + number % 1000,
        currency="USD",
        request_id=str(uuid_utils.uuid4()),
    )


async def throughput(folder: Path, count: int, tasks: int) -> tuple[float, float, float]:
    """Records per second; records per commit; bytes per record."""
    path = folder / "throughput.db"
    outbox = Outbox(path, max_bytes=_PLENTY, gathers=True)
    outbox.open()
    records = [record(number) for number in range(count)]
    waiting = iter(records)

    async def work() -> None:
        for one in waiting:
            await outbox.append(one)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    took = time.perf_counter() - began
    commits = outbox.counters.commits
    await outbox.aclose()
    return count / took, count / commits, path.stat().st_size / count


async def burst(append: Append, ends: int, first: int) -> list[float]:
    """Milliseconds that each of so many ends at the same moment waits."""
    taken: list[float] = []

    async def end(one: UsageRecord) -> None:
        began = time.perf_counter()
        await append(one)
        taken.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*map(end, [record(first + index) for index in range(ends)]))
    await asyncio.sleep(_GAP_S)
    return taken


async def nothing(_: UsageRecord) -> None:
    """A ledger that does nothing, but gives others their turn as every await does."""
    await asyncio.sleep(0)


def _idle() -> None:
    pass


async def end_waits(folder: Path, *, fsync: bool) -> dict[int, tuple[list[float], ...]]:
    """By ends at a time: waits with a ledger that does nothing, with a thread that does nothing,
    and with ours; in turns, so that all have the same neighbours on the machine."""
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(1)

    async def hop(_: UsageRecord) -> None:
        await loop.run_in_executor(pool, _idle)

    outbox = Outbox(folder / f"waits-{fsync}.db", max_bytes=_PLENTY, fsync=fsync, gathers=True)
    outbox.open()
    found: dict[int, tuple[list[float], ...]] = {}
    for ends in _ENDS:
        found[ends] = ([], [], [])
        for number in range(max(20, min(1000, _SAMPLES // ends))):
            for taken, append in zip(found[ends], (nothing, hop, outbox.append), strict=True):
                taken.extend(await burst(append, ends, number * ends))
    await outbox.aclose()
    pool.shutdown()
    return found


def fill(path: Path, count: int) -> None:
    """Store so many records, as the writer would."""
    database = Database(
        path, max_file_bytes=_PLENTY, fsync=False, new_id=lambda: str(uuid_utils.uuid7())
    )
    for first in range(0, count, 10_000):
        database.append(
            [record_row(record(number)) for number in range(first, min(first + 10_000, count))]
        )
    database.close()


def start(path: Path) -> None:
    """In a process of its own: open it, look, seal and claim; print what that took as JSON."""
    before = _resident_mib()
    began = time.perf_counter()
    outbox = Outbox(path, max_bytes=_PLENTY)
    outbox.open()
    opened = time.perf_counter()
    after_open = _resident_mib()

    async def use() -> tuple[float, float]:
        began = time.perf_counter()
        await outbox.backlog()
        counted = time.perf_counter()
        await outbox.claim(1000)
        claimed = time.perf_counter()
        await outbox.aclose()
        return counted - began, claimed - counted

    count_s, claim_s = asyncio.run(use())
    print(
        json.dumps(
            {
                "open_s": opened - began,
                "backlog_s": count_s,
                "claim_s": claim_s,
                "open_mib": after_open - before,
                "peak_mib": _peak_mib() - before,
            }
        )
    )


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def _peak_mib() -> float:
    # Not ru_maxrss: that is inherited from the process that started us.
    status = Path("/proc/self/status").read_text()
    [peak] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(peak) / 1024


def _percentiles(taken: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(taken, n=100)
    return cuts[49], cuts[98]


def main() -> None:
    """Run everything and print tables."""
    parser = argparse.ArgumentParser(description="cost of the ledger")
    parser.add_argument("--records", type=int, default=10_000_000, help="in the big outbox")
    parser.add_argument("--keep", type=Path, help="where the big outbox is, or will be")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start is not None:
        start(options.start)
        return
    console = Console()
    with tempfile.TemporaryDirectory(prefix="sx-bench-") as name:
        folder = Path(name)
        console.print(_throughput_table(folder))
        for fsync in (False, True):
            console.print(_waits_table(folder, fsync=fsync))
        big = options.keep or folder / "big.db"
        if not big.exists():
            console.print(f"filling {options.records:,} records ...")
            fill(big, options.records)
        console.print(_start_table(big))


def _throughput_table(folder: Path) -> Table:
    table = Table("tasks", "records/s", "records per commit", "bytes per record")
    for tasks in (1, 100, 1000):
        with tempfile.TemporaryDirectory(dir=folder) as own:
            count = 20_000 if tasks == 1 else 200_000
            rate, grouped, size = uvloop.run(throughput(Path(own), count, tasks))
        table.add_row(str(tasks), f"{rate:,.0f}", f"{grouped:.1f}", f"{size:.0f}")
    return table


def _waits_table(folder: Path, *, fsync: bool) -> Table:
    title = f"wait at the end of a stream, ms ({'fsync' if fsync else 'process'} durability)"
    columns = [f"{cut} {what}" for what in ("no-op", "thread", "ours") for cut in ("p50", "p99")]
    table = Table("ends at once", *columns, title=title)
    for ends, taken in uvloop.run(end_waits(folder, fsync=fsync)).items():
        numbers = [number for each in taken for number in _percentiles(each)]
        table.add_row(str(ends), *(f"{number:.3f}" for number in numbers))
    return table


def _start_table(big: Path) -> Table:
    command = [sys.executable, "-m", "bench.usage", "--start", str(big)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    met = found["open_s"] < START_TARGET_S and found["peak_mib"] < START_TARGET_MIB
    table = Table("", "", show_header=False, title=f"start: {'met' if met else 'MISSED'}")
    table.add_row("file", f"{big.stat().st_size / (1 << 20):,.0f} MiB")
    for name, value in found.items():
        table.add_row(name, f"{value:.3f}")
    return table


if __name__ == "__main__":
    main()
