"""A clock that steps under a running process, by libfaketime: CLOCK_REALTIME alone.

The library comes from the system (`make faketime` installs it where apt can). Without it the tests
that need it are skipped, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

NAME = "libfaketimeMT.so.1"
WHERE = (
    "usr/lib/*/faketime",
    "usr/lib/faketime",
    "usr/lib64/faketime",
    "usr/local/lib/faketime",
)


def library() -> Path | None:
    """libfaketime for programs with threads; None where it isn't installed."""
    return next((found for where in WHERE for found in Path("/").glob(f"{where}/{NAME}")), None)


class SteppingClock:
    """The wall clock of whoever runs with ``environment``.

    Args:
        file: says by how much it is off; read at each look at the clock.
    """

    def __init__(self, lib: Path, file: Path) -> None:
        self._lib = lib
        self._file = file
        self.set(0)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs in its own. Its monotonic clocks stay true, as on a real machine."""
        return {
            "LD_PRELOAD": str(self._lib),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # It would mend timed waits: those for the GIL are then over at once, and it spins.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    def set(self, offset_s: int) -> None:
        """Step it to so many seconds off."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset_s:+d}\n")
        fresh.replace(self._file)  # whoever reads it meanwhile reads all of it
