"""What one call has the sidecar do, in bytecodes and calls, by module and by function.

    python -m bench.bytecodes [--size 300] [--chunks 0] [--top 40] [--json FILE]

Ours with everything on, behind a real Envoy and with a real Redis, as in ``bench.gateway``. Time is
CPU's and the neighbours'; this number is the same whatever else the machine does, so that a change
of one per cent can be seen. What C code does isn't in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench import variants
from bench.traffic import Call, load, provider

_ROOT = Path(__file__).resolve().parents[1]
_CONNECTIONS = 4
_WRITTEN_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Done:
    """What one function did for one exchange, in the mean."""

    file: str
    line: int
    name: str
    bytecodes: float
    calls: float


async def measure(folder: Path, call: Call, seconds: float) -> tuple[int, list[Done]]:
    """Exchanges, and what each function did for one of them."""
    out = folder / "bytecodes.json"
    traced = {
        "BENCH_BYTECODES": str(out),
        "PYTHONPATH": os.pathsep.join((str(_ROOT / "bench" / "tracer"), str(_ROOT))),
    }
    async with provider() as port:
        with ExitStack() as parts:
            services = parts.enter_context(variants.dependencies(port))
            ours = parts.enter_context(
                variants.ours(variants.OURS, folder / "ours", services, traced)
            )
            requests = ours.requests(call, _CONNECTIONS)
            await load(ours.port, requests, seconds=1.0)
            os.kill(ours.pids["processor"], signal.SIGUSR2)
            done = len((await load(ours.port, requests, seconds=seconds)).latencies_s)
            os.kill(ours.pids["processor"], signal.SIGUSR2)
            rows = json.loads(await asyncio.to_thread(_written, out))
    return done, [
        Done(_short(file), line, name, bytecodes / done, calls / done)
        for file, line, name, bytecodes, calls in rows
    ]


def _written(out: Path) -> str:
    deadline = time.monotonic() + _WRITTEN_WITHIN_S
    while not out.exists():
        if time.monotonic() > deadline:
            raise RuntimeError("the sidecar has not written what it counted")
        time.sleep(0.05)
    return out.read_text(encoding="utf-8")


def _short(file: str) -> str:
    for parent in (f"{_ROOT}/", "site-packages/", "/lib/"):
        _, found, rest = file.partition(parent)
        if found:
            return rest
    return file


def _module(file: str) -> str:
    parts = Path(file).parts
    if parts[0].startswith("python"):
        return "/".join(parts[:2])
    return "/".join(parts[: 3 if parts[0] == "sentinel_extproc" else 1])


def show(exchanges: int, found: Sequence[Done], top: int) -> list[Table]:
    """By module, and the ``top`` functions."""
    total = sum(one.bytecodes for one in found)
    calls = sum(one.calls for one in found)
    by_module: dict[str, tuple[float, float]] = {}
    for one in found:
        had = by_module.get(_module(one.file), (0.0, 0.0))
        by_module[_module(one.file)] = (had[0] + one.bytecodes, had[1] + one.calls)
    title = f"{total:,.0f} bytecodes and {calls:,.0f} calls an exchange ({exchanges} exchanges)"
    modules = Table("module", "bytecodes", "calls", title=title)
    for module, (number, called) in sorted(by_module.items(), key=lambda row: -row[1][0])[:top]:
        modules.add_row(module, f"{number:.0f}", f"{called:.1f}")
    functions = Table("function", "bytecodes", "calls")
    for one in sorted(found, key=lambda one: -one.bytecodes)[:top]:
        where = f"{one.file}:{one.line} {one.name}"
        functions.add_row(where, f"{one.bytecodes:.0f}", f"{one.calls:.1f}")
    return [modules, functions]


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=300, help="of the prompt, bytes")
    parser.add_argument("--chunks", type=int, default=0, help="of a stream; 0: a JSON call")
    parser.add_argument("--seconds", type=float, default=3.0, help="of counting, at most")
    parser.add_argument("--top", type=int, default=40, help="modules and functions to list")
    parser.add_argument("--json", type=Path, help="write every number there")
    options = parser.parse_args()
    call = Call(options.size, options.chunks, 0.0, fresh=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        exchanges, found = uvloop.run(measure(Path(folder), call, min(60.0, options.seconds)))
    console = Console(width=120)
    for table in show(exchanges, found, options.top):
        console.print(table)
    if options.json:
        rows = [[one.file, one.line, one.name, one.bytecodes, one.calls] for one in found]
        options.json.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
