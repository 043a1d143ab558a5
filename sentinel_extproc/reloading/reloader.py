"""Reloads when it is told to, or when a file changed; one reload at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sentinel_extproc.config.load import ConfigError
from sentinel_extproc.reloading.changes import LIVE, changed
from sentinel_extproc.reloading.reading import Swappable

log = logging.getLogger("sentinel.reload")

INTERVAL_S = 1.0
MAX_FAULTS = 20

Stamp = tuple[tuple[str, int, int, int, int], ...]
"""By what changed files are known."""


@dataclass(frozen=True, slots=True)
class ReloadState:
    """What became of reloads so far.

    Attributes:
        taken, refused: how many.
        at_ms: of the last one, milliseconds since the epoch; None when there was none.
        faults: why the last one was refused; empty when it was taken.
        needs_restart: settings that differ from those it started with and hold only after a
            restart.
    """

    taken: int = 0
    refused: int = 0
    at_ms: int | None = None
    faults: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()


class Reloader:
    """Reads settings again and swaps what can be swapped, all of it or nothing.

    Args:
        current: what is in use, as it was at the start.
        read: reads everything anew; does I/O, raises ConfigError.
        swap: puts it to use; only sets values, and must not fail.
        config_file: watched beside what it names.
        asked: set when somebody wants a reload, whether or not a file changed.
        interval_s: between two looks at the files.
        wall_clock: seconds since the epoch.
    """

    def __init__(
        self,
        current: Swappable,
        *,
        read: Callable[[], Swappable],
        swap: Callable[[Swappable], None],
        config_file: Path | None,
        asked: asyncio.Event,
        interval_s: float = INTERVAL_S,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.state = ReloadState()
        self._started_with = current.settings
        self._current = current
        self._read = read
        self._swap = swap
        self._config_file = config_file
        self._interval_s = interval_s
        self._wall_clock = wall_clock
        self._asked = asked
        self._task: asyncio.Task[None] | None = None
        # Taken here, so that no change after the settings were read goes unseen.
        self._known = self._seen = stamp(current.files(config_file))

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._run(), name="reload")

    async def aclose(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def reload(self) -> ReloadState:
        """Read everything anew; swap it, or refuse it whole."""
        try:
            new = await asyncio.to_thread(self._read)
        except ConfigError as error:
            return self._refuse(tuple(error.faults[:MAX_FAULTS]))
        except Exception as error:
            log.exception("reload_failed")
            return self._refuse((f"internal fault: {type(error).__name__}",))
        names = tuple(changed(self._started_with, new.settings))
        needs_restart = tuple(name for name in names if name not in LIVE)
        self._swap(new)
        self._current = new
        self.state = ReloadState(
            self.state.taken + 1, self.state.refused, self._now_ms(), (), needs_restart
        )
        log.info("reloaded", extra={"needs_restart": list(needs_restart)})
        return self.state

    def _refuse(self, faults: tuple[str, ...]) -> ReloadState:
        self.state = ReloadState(
            self.state.taken,
            self.state.refused + 1,
            self._now_ms(),
            faults,
            self.state.needs_restart,
        )
        log.error("reload_refused", extra={"faults": list(faults)})
        return self.state

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._asked.wait()
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                found = await asyncio.to_thread(stamp, self._current.files(self._config_file))
                # A file that is being written is read when two looks in a row find it the same.
                settled = found == self._seen and found != self._known
                self._seen = found
                if asked or settled:
                    await self.reload()
                    # Other files may be named now; a change since the look is still one.
                    self._known = _same(found, self._current.files(self._config_file))
            except Exception:  # a change must never be the last one that is noticed
                log.exception("reload_watch_failed")

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)


def stamp(files: Iterable[Path]) -> Stamp:
    """By what these files are known now; one that isn't there is known by that."""
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> tuple[str, int, int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return (str(file), 0, 0, 0, 0)
    return (str(file), found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def _same(known: Stamp, named: Iterable[Path]) -> Stamp:
    """What was known of ``named``. One that wasn't looked at before may have changed since it was
    read, so it is known as not there, and read once more."""
    before = {one[0]: one for one in known}
    return tuple(before.get(str(file), (str(file), 0, 0, 0, 0)) for file in named)
