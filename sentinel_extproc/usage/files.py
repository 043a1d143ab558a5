"""The outbox's place on disk: its directory, its lock, and what becomes of a damaged file."""

from __future__ import annotations

import fcntl
import glob
import os
from datetime import UTC, datetime
from pathlib import Path

MAX_OUTBOXES = 256
"""Files of one sidecar. It has one for each worker, and one more while a worker is replaced."""


class OutboxError(Exception):
    """The outbox can't be opened; the message says why and what to do."""


class OutboxInUseError(OutboxError):
    """Another process has it open."""


def outbox_path(path: Path, number: int) -> Path:
    """The file of that number beside the one that is configured, which is number 0."""
    if number == 0:
        return path
    return path.with_name(f"{path.stem}.worker-{number}{path.suffix}")


def outbox_paths(path: Path) -> list[Path]:
    """The outboxes of a sidecar that are there, that of ``path`` first."""
    stem = len(f"{path.stem}.worker-")
    pattern = f"{glob.escape(path.stem)}.worker-*{glob.escape(path.suffix)}"
    numbers = {
        int(number)
        for found in path.parent.glob(pattern)
        if (number := found.name[stem : len(found.name) - len(path.suffix)]).isascii()
        and number.isdigit()
        and outbox_path(path, int(number)) == found
    }
    ours = [outbox_path(path, number) for number in sorted(numbers)]
    return [*([path] if path.exists() else []), *ours]


def make_directory(path: Path) -> None:
    """Make the directory with its parents, readable by nobody else.

    Raises:
        OutboxError: it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OutboxError(f"can't make the directory {path}: {error.strerror}") from None


def make_file(path: Path) -> None:
    """Make an empty file, readable by nobody else, unless it is there."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def lock(path: Path) -> int:
    """Lock ``path`` for this process; the descriptor that holds the lock until it is closed.

    The kernel lets go of it when the process dies, however that happens.

    Raises:
        OutboxInUseError: another process holds it.
        OutboxError: the file can't be made.
    """
    place = lock_path(path)
    try:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OutboxError(f"can't write {place}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise OutboxInUseError(
            f"the outbox {path} is in use by another process (pid {holder}); "
            "every process needs a file of its own"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def set_aside(path: Path) -> Path:
    """Rename a damaged file together with its log; the new name of the file."""
    kept = _damaged_name(path)
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(kept.with_name(kept.name + suffix))
    return kept


def _damaged_name(path: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return path.with_name(f"{path.name}.damaged-{stamp}")


def keep_aside(path: Path) -> Path:
    """Keep a damaged file under another name until something else takes its place, too; the name.

    So whoever dies in between, or has no room for the new one, finds it again.
    """
    for kept in path.parent.glob(f"{glob.escape(path.name)}.damaged-*"):
        if kept.samefile(path):
            return kept
    kept = _damaged_name(path)
    try:
        os.link(path, kept)
    except OSError:  # not every file system has links
        return set_aside(path)
    return kept


def lock_path(path: Path) -> Path:
    """What the process that uses the outbox at ``path`` holds, and writes its pid to."""
    return path.with_name(path.name + ".lock")


def intents_path(path: Path) -> Path:
    """Where the intents of the outbox at ``path`` are."""
    return path.with_name(path.name + ".intents")


def ended_path(path: Path) -> Path:
    """Where records are that the outbox at ``path`` doesn't have yet."""
    return path.with_name(path.name + ".ended")


def kept_aside(path: Path) -> list[Path]:
    """Damaged files of this outbox and of those beside it that are still here, oldest first."""
    found = [
        kept
        for name in (path.name, intents_path(path).name, ended_path(path).name)
        for kept in path.parent.glob(f"{glob.escape(name)}.damaged-*")
        if not kept.name.endswith(("-wal", "-shm"))
    ]
    return sorted(found, key=lambda kept: kept.name.rpartition("-")[2])
