"""Throughput and memory by the number of workers, through one Envoy each.

    python -m bench.workers [--rounds 5] [--seconds 4] [--workers 1 2]

Variants run side by side and are measured in turns. Everything shares the machine: clients and
provider (one process), Envoy, Redis and the workers; on two cores a second worker can only have
what the others leave. What it would have on a machine with cores to spare is the last column but
one: calls per second that the workers' own CPU is enough for, if each had a core.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench.traffic import Call, cpu_seconds, load, provider
from bench.variants import POLICY, USERS
from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.stack import PROVIDER_KEY, ZION_KEY, Services, Stack, start_stack
from sentinel_extproc.demo.zion_standin import ZionStandIn
from sentinel_extproc.demo.zion_state import ZionUser

CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement.

    Attributes:
        busiest: share of the workers' CPU that the busiest one used; 1 / workers is even.
    """

    calls_per_s: float
    sidecar_us: float
    envoy_us: float
    p50_ms: float
    p99_ms: float
    busiest: float


@dataclass(slots=True)
class Variant:
    """A gateway with so many workers."""

    workers: int
    stack: Stack
    results: list[Result] = field(default_factory=list)


def processes(pid: int) -> list[int]:
    """It and its children, which are all that there are."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def own_bytes(pid: int, what: str) -> int:
    """A line of the kernel's account of a process' memory: Pss, or Private_Dirty for instance."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def variants(work_dir: Path, port: int, numbers: Sequence[int]) -> Iterator[list[Variant]]:
    """Start them all."""
    users = [
        ZionUser(f"bench-{n}", f"u{n}", f"ext-{n}", f"u{n}@example.com", "B") for n in range(USERS)
    ]
    zion = ZionStandIn(api_key=ZION_KEY, users=users)
    policy = work_dir / "policy.yaml"
    policy.write_text(POLICY, encoding="utf-8")
    with ExitStack() as parts:
        zion_url = parts.enter_context(serve_app(zion.app, name="zion")).url
        services = Services(f"http://127.0.0.1:{port}", PROVIDER_KEY, zion_url, ZION_KEY)
        found = []
        for number in numbers:
            folder = work_dir / str(number)
            folder.mkdir()
            settings = {
                "SENTINEL_LIMITS__POLICY_FILE": str(policy),
                "SENTINEL_LIMITS__ZION_QUOTAS": "false",
                "SENTINEL_SERVER__WORKERS": str(number),
            }
            stack = parts.enter_context(
                start_stack(work_dir=folder, services=services, settings=settings, concurrency=2)
            )
            found.append(Variant(number, stack))
        yield found


async def measure(variant: Variant, call: Call, *, seconds: float) -> Result:
    """One kind of call for about ``seconds``."""
    stack = variant.stack
    requests = [call.request(f"bench-{n % USERS}") for n in range(CONNECTIONS)]
    first = await load(stack.envoy.port, requests, times=3)
    times = max(3, int(seconds / (first.wall_s / 3)))
    ours = processes(stack.sidecar.process.pid)
    pids = [*ours, stack.envoy.process.pid]
    before = [cpu_seconds(pid) for pid in pids]
    done = await load(stack.envoy.port, requests, times=times)
    used = [cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True)]
    calls, latencies = len(done.latencies_s), sorted(done.latencies_s)
    return Result(
        calls_per_s=calls / done.wall_s,
        sidecar_us=sum(used[:-1]) / calls * 1e6,
        envoy_us=used[-1] / calls * 1e6,
        p50_ms=statistics.median(latencies) * 1e3,
        p99_ms=latencies[int(calls * 0.99)] * 1e3,
        busiest=max(used[:-1]) / max(sum(used[:-1]), 1e-9),
    )


def table(title: str, found: Sequence[Variant]) -> Table:
    """Medians, and the spread of the throughput."""
    shown = Table(title=title, title_justify="left")
    heads = ("workers", "calls/s", "least-most", "sidecar us/call", "Envoy us/call", "p50 ms")
    for head in (*heads, "p99 ms", "busiest", "calls/s by own CPU", "PSS MiB"):
        shown.add_column(head, justify="right")
    for variant in found:
        results = variant.results
        rates = [result.calls_per_s for result in results]
        cost = statistics.median(result.sidecar_us for result in results)
        pids = processes(variant.stack.sidecar.process.pid)
        memory = [own_bytes(pid, "Pss") / 2**20 for pid in pids]
        shown.add_row(
            str(variant.workers),
            f"{statistics.median(rates):.0f}",
            f"{min(rates):.0f}-{max(rates):.0f}",
            f"{cost:.0f}",
            f"{statistics.median(result.envoy_us for result in results):.0f}",
            f"{statistics.median(result.p50_ms for result in results):.1f}",
            f"{statistics.median(result.p99_ms for result in results):.1f}",
            f"{statistics.median(result.busiest for result in results):.0%}",
            f"{variant.workers * 1e6 / cost:.0f}",
            f"{sum(memory):.0f} ({', '.join(f'{one:.0f}' for one in memory)})",
        )
    return shown


async def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    console = Console(width=150)
    kinds = {"JSON call, 300 B": Call(), "stream of 100 chunks at 10 ms": Call(chunks=100)}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with provider() as port:
            with variants(Path(folder), port, options.workers) as found:
                for name, call in kinds.items():
                    for variant in found:
                        variant.results.clear()
                    for _ in range(options.rounds):
                        for variant in found:
                            result = await measure(variant, call, seconds=options.seconds)
                            variant.results.append(result)
                    console.print(table(f"{name}, {CONNECTIONS} connections", found))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
