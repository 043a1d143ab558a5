"""The folder where processes of one sidecar meet: private sockets, the supervisor's view, counts of
those that ended.

Only its owner may enter it, so that whoever can connect to a socket in it may also control. Files
are replaced whole, so that whoever reads one finds the old or the new.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sentinel_extproc.telemetry.across import Family, further, growing, merged, pack, unpack

log = logging.getLogger("sentinel.workers")

MAX_SOCKET_PATH = 107


class Member(msgspec.Struct, frozen=True):
    """One process, as the supervisor sees it; ``seat`` is the worker's index."""

    serial: int
    seat: int
    pid: int
    state: str


class Roster(msgspec.Struct, frozen=True):
    """What the supervisor knows.

    Attributes:
        seats: number of workers that there should be.
        members: workers' processes that haven't ended.
        lost: seats whose processes keep failing.
        restarts: processes that were followed by another, by why.
        last: the latest serial number; who has one up to it, and is no member, has ended.
    """

    seats: int
    members: tuple[Member, ...] = ()
    lost: tuple[int, ...] = ()
    restarts: dict[str, int] = {}
    last: int = 0
    stopping: bool = False


class _Retired(msgspec.Struct):
    """What ended processes had counted, and whose counts are in it while their files are there."""

    families: list[Family] = []
    serials: set[int] = set()


@dataclass(frozen=True, slots=True)
class Shelf:
    """One such folder."""

    folder: Path

    def admin_of(self, serial: int) -> str:
        """Where the admin port asks that process."""
        return f"unix:{self.folder / f'{serial}.sock'}"

    def final_of(self, serial: int) -> Path:
        """Where that process writes what it has counted, now and then and at its end."""
        return self.folder / f"{serial}.counts"

    def write_roster(self, roster: Roster) -> None:
        """Only the supervisor does."""
        replace_file(self.folder / "roster", msgspec.json.encode(roster))

    def roster(self) -> Roster:
        """The supervisor's last word.

        Raises:
            OSError, msgspec.MsgspecError: it has none.
        """
        return msgspec.json.decode((self.folder / "roster").read_bytes(), type=Roster)

    def counts_of(self, serial: int) -> list[Family]:
        """What that process last wrote; nothing if it hasn't."""
        try:
            return unpack(self.final_of(serial).read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            log.exception("the counts of a process can't be read")
            return []

    def keep_counts(self, serial: int, told: list[Family]) -> None:
        """Before ``retired`` puts them together: what a process told, if it had written less."""
        if further(told, self.counts_of(serial)) is told:
            try:
                replace_file(self.final_of(serial), pack(told))
            except OSError as fault:
                log.warning("counts_not_kept", extra={"reason": str(fault)})

    def retired(self, roster: Roster) -> list[Family]:
        """What all processes that ended had counted; only the admin port asks.

        Files of those are put together into one and removed; cut off in between, nothing is
        counted twice.
        """
        known = self._read_retired()
        alive = {member.serial for member in roster.members}
        ended = {n for n in self._written() if n <= roster.last and n not in alive}
        if new := ended - known.serials:
            sums = merged([known.families, *(growing(self.counts_of(n)) for n in sorted(new))])
            known = _Retired(sums, ended)
            replace_file(self.folder / "retired", msgspec.msgpack.encode(known))
        for serial in ended:
            self.final_of(serial).unlink(missing_ok=True)
        return known.families

    def clear(self) -> None:
        """Remove it, with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read_retired(self) -> _Retired:
        try:
            data = (self.folder / "retired").read_bytes()
            return msgspec.msgpack.decode(data, type=_Retired)
        except FileNotFoundError:
            return _Retired()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            log.exception("the counts of ended processes can't be read")
            return _Retired()

    def _written(self) -> Iterator[int]:
        for file in self.folder.glob("*.counts"):
            if file.stem.isdigit():
                yield int(file.stem)


def make_shelf(beside: Path) -> Shelf:
    """A new one, in the place for temporary files, or in the folder ``beside`` if that can't be.

    Raises:
        OSError: neither can be.
    """
    with contextlib.suppress(OSError):
        folder = Path(tempfile.mkdtemp(prefix="sentinel-"))
        if len(str(folder / "4294967295.sock").encode()) <= MAX_SOCKET_PATH:
            return Shelf(folder)
        folder.rmdir()
    return Shelf(Path(tempfile.mkdtemp(prefix="workers-", dir=beside)))


def replace_file(path: Path, data: bytes) -> None:
    """Write it whole; no reader sees a part of it."""
    new = path.with_name(f"{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    new.rename(path)
