"""What the sidecar costs, beside an empty processor and none at all, through one Envoy each.

    python -m bench.gateway [--rounds 4] [--seconds 4] [--quick] [--json FILE]

All variants run side by side, and every measurement is taken in turns (A-B-C-A-B-C), so that a
noisy machine is noisy for all of them. CPU is each process' own, from the kernel's account, so the
clients' share doesn't count. Medians over the rounds; the spread is their least and largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench.traffic import Call, cpu_seconds, load, provider, resident_bytes
from sentinel_extproc.demo.envoy import RunningEnvoy, start_envoy
from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.process import ManagedProcess
from sentinel_extproc.demo.stack import PROVIDER_KEY, ZION_KEY, Services, start_stack
from sentinel_extproc.demo.zion_standin import ZionStandIn
from sentinel_extproc.demo.zion_state import ZionUser
from sentinel_extproc.envoyconf.api import hcm, protobuf
from sentinel_extproc.envoyconf.names import FILTER_NAME
from sentinel_extproc.envoyconf.static import static_bootstrap

USERS = 50
POLICY = """
rules:
  - limits:
      - {name: requests, unit: requests, kind: bucket, limit: 1000000000, per: 1m}
      - {name: tokens, unit: total_tokens, kind: ring, limit: 1000000000, per: 1m}
      - {name: month, unit: total_tokens, kind: calendar, limit: 100000000000, per: month}
"""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load.

    Attributes:
        connections: clients at once.
        cost: calls that one measurement is worth, at most; fewer when time is short.
    """

    name: str
    call: Call
    connections: int


SCENARIOS = (
    Scenario("JSON, 1 connection", Call(), 1),
    Scenario("JSON, 16 connections", Call(), 16),
    Scenario("JSON, 64 connections", Call(), 64),
    Scenario("JSON 10 kB, 16 connections", Call(10_000), 16),
    Scenario("JSON 100 kB, 16 connections", Call(100_000), 16),
    Scenario("stream of 100 chunks, 16 connections", Call(chunks=100), 16),
    Scenario("stream of 500 chunks, 16 connections", Call(chunks=500), 16),
)
QUICK = (SCENARIOS[1], SCENARIOS[5])


@dataclass(slots=True)
class Variant:
    """A gateway that takes part.

    Attributes:
        processor: whose CPU is compared; None: there is none.
    """

    name: str
    envoy: RunningEnvoy
    processor: ManagedProcess | None
    results: dict[str, list[Result]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement; microseconds of CPU for each call, milliseconds of latency."""

    processor_us: float
    envoy_us: float
    p50_ms: float
    p99_ms: float
    calls_per_s: float


@contextmanager
def variants(work_dir: Path, provider_port: int, *, full: bool) -> Iterator[list[Variant]]:
    """Start every gateway: no processor, the empty ones, ours."""
    url = f"http://127.0.0.1:{provider_port}"
    with ExitStack() as parts:
        found = [Variant("no processor", _plain(parts, work_dir / "0", provider_port), None)]
        for kind in ("grpcio", "native"):
            folder = work_dir / kind
            folder.mkdir()
            process = ManagedProcess(
                [sys.executable, "-m", "bench.processor", kind, f"unix:{folder / 's'}"],
                name=kind,
                log_path=folder / "log",
            )
            process.start()
            parts.callback(process.kill)
            process.wait_until((folder / "s").exists, what="it listened", timeout_s=20)
            envoy = parts.enter_context(_envoy(folder, provider_port, f"unix:{folder / 's'}"))
            found.append(Variant(f"empty, {kind}", envoy, process))
        users = [
            ZionUser(f"bench-{n}", f"u{n}", f"ext-{n}", f"u{n}@example.com", "B")
            for n in range(USERS)
        ]
        zion = ZionStandIn(api_key=ZION_KEY, users=users)
        zion_url = parts.enter_context(serve_app(zion.app, name="zion")).url
        policy = work_dir / "policy.yaml"
        policy.write_text(POLICY, encoding="utf-8")
        ours: dict[str, dict[str, str]] = {"ours": {"SENTINEL_LIMITS__POLICY_FILE": str(policy)}}
        ours["ours, native metering"] = ours["ours"] | {"SENTINEL_SERVER__METERING": "native"}
        if full:
            ours["ours, on grpcio"] = ours["ours"] | {"SENTINEL_SERVER__TRANSPORT": "grpcio"}
            ours["ours, one limit"] = {"SENTINEL_LIMITS__REQUESTS": "1000000000"}
        for n, (name, settings) in enumerate(ours.items()):
            folder = work_dir / f"o{n}"
            folder.mkdir()
            stack = parts.enter_context(
                start_stack(
                    work_dir=folder,
                    services=Services(url, PROVIDER_KEY, zion_url, ZION_KEY),
                    settings=settings | {"SENTINEL_LIMITS__ZION_QUOTAS": "false"},
                    native_metering="native" in name,
                )
            )
            found.append(Variant(name, stack.envoy, stack.sidecar.process))
        yield found


@contextmanager
def _envoy(folder: Path, provider_port: int, processor: str) -> Iterator[RunningEnvoy]:
    bootstrap = static_bootstrap(
        processors=[processor],
        provider_host="127.0.0.1",
        provider_port=provider_port,
        provider_tls=False,
        listener_address="127.0.0.1",
        listener_port=0,
    )
    with start_envoy(bootstrap, work_dir=folder) as envoy:
        yield envoy


def _plain(parts: ExitStack, folder: Path, provider_port: int) -> RunningEnvoy:
    folder.mkdir()
    bootstrap = static_bootstrap(
        processors=[f"unix:{folder / 'none'}"],
        provider_host="127.0.0.1",
        provider_port=provider_port,
        provider_tls=False,
        listener_address="127.0.0.1",
        listener_port=0,
        health_check_interval_s=0,
    )
    resources = bootstrap.static_resources
    assert resources is not None  # noqa: S101 - as rendered
    network_filter = resources.listeners[0].filter_chains[0].filters[0]
    assert network_filter.typed_config is not None  # noqa: S101
    manager = network_filter.typed_config.unpack()
    assert isinstance(manager, hcm.HttpConnectionManager)  # noqa: S101
    manager.http_filters = [f for f in manager.http_filters if f.name != FILTER_NAME]
    network_filter.typed_config = protobuf.Any.pack(manager)
    return parts.enter_context(start_envoy(bootstrap, work_dir=folder))


async def measure(variant: Variant, scenario: Scenario, *, seconds: float) -> Result:
    """Run one scenario against one gateway for about ``seconds``."""
    requests = [scenario.call.request(f"bench-{n % USERS}") for n in range(scenario.connections)]
    first = await load(variant.envoy.port, requests, times=1)
    times = max(1, int(seconds / max(first.wall_s, 1e-4)))
    if not scenario.call.chunks:
        second = await load(variant.envoy.port, requests, times=5)
        times = max(1, int(seconds / (second.wall_s / 5)))
    pids = [None if variant.processor is None else variant.processor.pid, variant.envoy.process.pid]
    before = [0.0 if pid is None else cpu_seconds(pid) for pid in pids]
    done = await load(variant.envoy.port, requests, times=times)
    after = [0.0 if pid is None else cpu_seconds(pid) for pid in pids]
    calls = len(done.latencies_s)
    latencies = sorted(done.latencies_s)
    cost = [(b - a) / calls * 1e6 for a, b in zip(before, after, strict=True)]
    return Result(
        processor_us=cost[0],
        envoy_us=cost[1],
        p50_ms=statistics.median(latencies) * 1e3,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1e3,
        calls_per_s=calls / done.wall_s,
    )


def table(found: list[Variant], scenario: Scenario) -> Table:
    """Medians of one scenario, the spread of the CPU, and its ratio to the empty processor."""
    shown = Table(title=scenario.name, title_justify="left")
    for head in ("gateway", "CPU us/call", "least-most", "of empty grpcio", "Envoy us/call"):
        shown.add_column(head, justify="left" if head == "gateway" else "right")
    for head in ("p50 ms", "p99 ms", "calls/s", "calls/s per core", "RSS MiB"):
        shown.add_column(head, justify="right")
    floor = _median(found[1], scenario, lambda r: r.processor_us)
    for variant in found:
        results = variant.results[scenario.name]
        cpu = _median(variant, scenario, lambda r: r.processor_us)
        of_ours = variant.processor is not None
        pid = variant.processor.pid if variant.processor is not None else None
        shown.add_row(
            variant.name,
            f"{cpu:.0f}" if of_ours else "-",
            f"{min(r.processor_us for r in results):.0f}-{max(r.processor_us for r in results):.0f}"
            if of_ours
            else "-",
            f"{cpu / floor:.2f}" if of_ours else "-",
            f"{_median(variant, scenario, lambda r: r.envoy_us):.0f}",
            f"{_median(variant, scenario, lambda r: r.p50_ms):.2f}",
            f"{_median(variant, scenario, lambda r: r.p99_ms):.2f}",
            f"{_median(variant, scenario, lambda r: r.calls_per_s):.0f}",
            f"{1e6 / cpu:.0f}" if cpu else "-",
            f"{resident_bytes(pid) / 2**20:.0f}" if pid else "-",
        )
    return shown


def _median(variant: Variant, scenario: Scenario, value: Callable[[Result], float]) -> float:
    return statistics.median(value(result) for result in variant.results[scenario.name])


async def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    console = Console(width=140)
    scenarios = QUICK if options.quick else SCENARIOS
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with provider() as port:
            with variants(Path(folder), port, full=not options.quick) as found:
                for scenario in scenarios:
                    for _ in range(options.rounds):
                        for variant in found:
                            result = await measure(variant, scenario, seconds=options.seconds)
                            variant.results.setdefault(scenario.name, []).append(result)
                    console.print(table(found, scenario))
                if options.json:
                    _write(options.json, found)


def _write(file: Path, found: list[Variant]) -> None:
    content = {
        variant.name: {
            name: [{key: getattr(r, key) for key in Result.__slots__} for r in results]
            for name, results in variant.results.items()
        }
        for variant in found
    }
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="two scenarios, fewer variants")
    parser.add_argument("--json", type=Path, help="write every measurement there")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
