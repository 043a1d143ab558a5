"""How much memory this process uses, and how much its container gives it."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_FILES = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Of cgroups 2 and 1, as a container sees its own."""

_NO_LIMIT = 1 << 60  # what version 1 says instead of "max" is near 2^63

_STATM = Path("/proc/self/statm")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the kernel doesn't tell."""
    try:
        return int(_STATM.read_bytes().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None


def container_bytes(files: tuple[Path, ...] = CGROUP_FILES) -> int | None:
    """The container's limit; None without one."""
    for file in files:
        try:
            limit = int(file.read_text().strip())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if 0 < limit < _NO_LIMIT:
            return limit
    return None
