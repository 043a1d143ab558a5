"""Looks at key files once a second, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from sentinel_extproc.credentials.facts import CredentialFact, EmitCredentialFact
from sentinel_extproc.credentials.rotation import (
    MAX_BYTES,
    KeyFileError,
    Rotation,
    Stamp,
    parse_keys,
)

log = logging.getLogger("sentinel.credentials")

INTERVAL_S = 1.0


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file.

    Raises:
        KeyFileError: it can't be used; the message says why, and never what is in it.
    """
    try:
        stamp, raw = _read(path)
    except OSError as error:
        raise KeyFileError(f"it can't be read: {error.strerror}") from None
    return parse_keys(raw, stamp.mode)


class KeyFile:
    """One provider's key file.

    Args:
        provider: its name in facts.

    Raises:
        KeyFileError: it can't be used to start with.
    """

    def __init__(self, provider: str, path: Path) -> None:
        self._path = path
        self._rotation = Rotation(provider)
        try:
            stamp, raw = _read(path)
        except OSError as error:
            raise KeyFileError(f"{path}: it can't be read: {error.strerror}") from None
        self._rotation.take(stamp, raw)
        if not self.keys:
            parse_keys(raw, stamp.mode)
            raise KeyFileError(f"{path}: there is no key in it")

    @property
    def keys(self) -> tuple[str, ...]:
        """Those in use; the same object until they change."""
        return self._rotation.keys

    def look(self) -> CredentialFact | None:
        """Take a new content if there is one. Does I/O."""
        try:
            if not self._rotation.wants(_stamp(self._path.stat())):
                return None
            stamp, raw = _read(self._path)
        except OSError as error:
            return self._rotation.complain(f"it can't be read: {error.strerror}")
        return self._rotation.take(stamp, raw)


class KeyWatch:
    """Looks at files until it is closed.

    Args:
        interval_s: between two looks.
    """

    def __init__(
        self, files: Iterable[KeyFile], *, emit: EmitCredentialFact, interval_s: float = INTERVAL_S
    ) -> None:
        self._files = tuple(files)
        self._emit = emit
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if there is anything to look at."""
        if self._files:
            self._task = asyncio.create_task(self._run(), name="key-watch")

    async def aclose(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            for file in self._files:
                try:
                    fact = await asyncio.to_thread(file.look)
                    if fact is not None:
                        self._emit(fact)
                except Exception:  # a rotation must never be the last one that is noticed
                    log.exception("key_watch_failed")


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(
        (found.st_dev, found.st_ino),
        found.st_mtime_ns,
        found.st_size,
        stat.S_IMODE(found.st_mode),
    )


def _read(path: Path) -> tuple[Stamp, bytes]:
    # Without blocking, in case it is a pipe; and the stamp of what is read, not of what came since.
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "not a regular file")
        return _stamp(found), os.read(opened, MAX_BYTES + 1)
    finally:
        os.close(opened)
