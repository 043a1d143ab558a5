"""How many worker processes there are, and where each is. Pure but for counting CPUs."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

AUTO = "auto"


def worker_count(workers: int | str) -> int:
    """The number that ``server.workers`` means here: with ``auto`` one per CPU that we may use."""
    return min(64, max(1, usable_cpus())) if isinstance(workers, str) else workers


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may run on, less what its container's quota takes away."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cpus = os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return max(1, min(cpus, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return cpus


def worker_addresses(listen: str, count: int) -> tuple[str, ...]:
    """Where each worker listens. The first is where a single process would, so that an Envoy that
    only knows that one goes on being served.

    ``unix:/run/x/sentinel.sock`` is followed by ``sentinel-1.sock``; ``host:port`` by ``port + 1``.

    Raises:
        ValueError: there is no such port.
    """
    if listen.startswith("unix:"):
        scheme, _, path = listen.partition("/")
        return (listen, *(f"{scheme}{_beside(f'/{path}', n)}" for n in range(1, count)))
    host, _, port = listen.rpartition(":")
    if int(port) + count - 1 > 65535:
        raise ValueError(f"there is no port {int(port) + count - 1} for the last worker")
    return tuple(f"{host}:{int(port) + n}" for n in range(count))


def _beside(path: str, n: int) -> str:
    # A URL-like "unix:///path" loses two of its slashes, which mean nothing.
    name = PurePosixPath("/" + path.lstrip("/"))
    return str(name.with_name(f"{name.stem}-{n}{name.suffix}"))
