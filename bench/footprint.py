"""What a sidecar takes before and beside its work: the time to be ready, and memory.

    python -m bench.footprint [--rounds 5] [--calls 2000] [--json FILE]

*startup*: from exec to the first 200 of ``/readyz``, beside a Python that does nothing and one that
only imports what a sidecar does; in turns, with Redis and the stand-in Zion up. *memory*: a sidecar
that has served calls counted with both encodings, plain and streamed, through a real Envoy.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench.traffic import Call, cpu_seconds, load, provider
from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.process import ManagedProcess
from sentinel_extproc.demo.redis import start_redis
from sentinel_extproc.demo.sidecar import sidecar_environment
from sentinel_extproc.demo.stack import PROVIDER_KEY, ZION_KEY, Services, start_stack
from sentinel_extproc.demo.zion_standin import ZionStandIn
from sentinel_extproc.demo.zion_state import ZionUser

MODELS = ("gpt-4o-mini", "gpt-4")
"""One for each shipped encoding."""

TARGETS = {"startup, s": 1.5, "memory: RSS, MiB": 150.0, "memory: PSS, MiB": 150.0}
_USERS = [ZionUser("bench-0", "u0", "ext-0", "u0@example.com", "B")]
_NOTHING_LIMITED = {
    "SENTINEL_LIMITS__REQUESTS": "1000000000",
    "SENTINEL_LIMITS__ZION_QUOTAS": "false",
}
_IMPORTS = "import uvloop, sentinel_extproc.app, sentinel_extproc.config.load"
_PROBE = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
_POLL_S = 0.005
_READY_WITHIN_S = 60.0


def run_python(code: str) -> float:
    """Seconds that an interpreter needs for ``code``, from exec to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def is_ready(path: Path) -> bool:
    """Whether the admin port on the socket ``path`` says so."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
            probe.sendall(_PROBE)
            return probe.recv(4096).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def start_once(folder: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """Start a sidecar and end it; seconds until it was ready, and its CPU's till then."""
    admin = folder / "admin.sock"
    process = ManagedProcess(
        [sys.executable, "-m", "sentinel_extproc", "serve"],
        name="sidecar",
        log_path=folder / "sidecar.log",
        env=dict(environment) | {"SENTINEL_ADMIN__LISTEN": f"unix:{admin}"},
    )
    start = time.perf_counter()
    process.start()
    deadline = start + _READY_WITHIN_S
    while not is_ready(admin):
        if not process.running or time.perf_counter() > deadline:
            raise RuntimeError(f"the sidecar did not get ready:\n{process.log_tail()}")
        time.sleep(_POLL_S)
    took = time.perf_counter() - start
    cpu = cpu_seconds(process.pid)
    process.stop()
    return took, cpu


def measure_startup(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, by what was measured."""
    found: dict[str, list[float]] = {}
    zion = ZionStandIn(api_key=ZION_KEY, users=_USERS)
    with start_redis(work_dir=folder) as redis, serve_app(zion.app, name="zion") as zion_app:
        environment = sidecar_environment(
            {
                "ZION_API_URL": zion_app.url,
                "ZION_API_KEY": ZION_KEY,
                "OPENAI_API_KEY": PROVIDER_KEY,
                "REDIS_URL": redis.url,
                "SENTINEL_USAGE__OUTBOX_PATH": str(folder / "outbox.db"),
                "SENTINEL_SERVER__LISTEN": f"unix:{folder / 's.sock'}",
            }
        )
        start_once(folder, environment)  # compiles, and makes the files
        run_python(_IMPORTS)
        for _ in range(rounds):
            found.setdefault("python -c pass, s", []).append(run_python("pass"))
            found.setdefault("imports alone, s", []).append(run_python(_IMPORTS))
            took, cpu = start_once(folder, environment)
            found.setdefault("startup, s", []).append(took)
            found.setdefault("startup: its CPU, s", []).append(cpu)
    return found


def memory_of(pid: int) -> dict[str, float]:
    """Resident, proportional and private memory, in MiB."""
    wanted = {"Rss:": "memory: RSS, MiB", "Pss:": "memory: PSS, MiB"}
    private = 0
    found: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]:
        name, number = line.split()[:2]
        if name in wanted:
            found[wanted[name]] = int(number) / 1024
        if name in ("Private_Clean:", "Private_Dirty:"):
            private += int(number)
    return found | {"memory: private, MiB": private / 1024}


async def measure_memory(folder: Path, calls: int) -> dict[str, list[float]]:
    """MiB once it has served ``calls`` for each encoding, some of them streams."""
    zion = ZionStandIn(api_key=ZION_KEY, users=_USERS)
    with serve_app(zion.app, name="zion") as zion_app:
        async with provider() as port:
            services = Services(f"http://127.0.0.1:{port}", PROVIDER_KEY, zion_app.url, ZION_KEY)
            with start_stack(
                work_dir=folder, services=services, settings=_NOTHING_LIMITED
            ) as stack:
                for model in MODELS:
                    plain = Call(model=model).request("bench-0")
                    large = Call(100_000, model=model).request("bench-0")
                    stream = Call(chunks=50, chunk_delay_s=0.0, model=model).request("bench-0")
                    await load(stack.envoy.port, [plain] * 16, times=max(1, calls // 16))
                    await load(stack.envoy.port, [large] * 4, times=max(1, calls // 100))
                    await load(stack.envoy.port, [stream] * 16, times=max(1, calls // 160))
                found = memory_of(stack.sidecar.process.pid)
    return {name: [value] for name, value in found.items()}


def table(found: Mapping[str, list[float]]) -> Table:
    """Medians, their spread and targets; times also as multiples of a bare interpreter's."""
    shown = Table("what", "median", "least-most", "of python -c pass", "target")
    bare = statistics.median(found["python -c pass, s"])
    for name, values in found.items():
        median = statistics.median(values)
        shown.add_row(
            name,
            f"{median:.3f}" if name.endswith(", s") else f"{median:.0f}",
            f"{min(values):.3f}-{max(values):.3f}" if len(values) > 1 else "",
            f"{median / bare:.0f}" if name.endswith(", s") else "",
            f"< {TARGETS[name]:g}" if name in TARGETS else "",
        )
    return shown


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="starts")
    parser.add_argument("--calls", type=int, default=2000, help="for each encoding")
    parser.add_argument("--json", type=Path, help="write every measurement there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        # As installed: modules are compiled once, not at every start.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "compiled")
        (starts := Path(folder) / "s").mkdir()
        found = measure_startup(starts, options.rounds)
        (serving := Path(folder) / "m").mkdir()
        found |= uvloop.run(measure_memory(serving, options.calls))
    Console(width=100).print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
