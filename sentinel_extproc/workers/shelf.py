"""The folder where processes of one sidecar meet: private sockets, the supervisor's view, and what
those that ended left.

Only its owner may enter it, so that whoever can connect to a socket in it may also control.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sentinel_extproc.telemetry import past
from sentinel_extproc.telemetry.across import Family, further, growing, merged, pack, unpack
from sentinel_extproc.telemetry.live import Past
from sentinel_extproc.workers.drawer import Drawer, Kind, replace_file

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
        failures: of each seat's processes, in a row.
        restarts: processes that were followed by another, by why.
        last: the latest serial number; who has one up to it, and is no member, has ended.
    """

    seats: int
    members: tuple[Member, ...] = ()
    lost: tuple[int, ...] = ()
    failures: tuple[int, ...] = ()
    restarts: dict[str, int] = {}
    last: int = 0
    stopping: bool = False

    @property
    def alive(self) -> set[int]:
        """Serial numbers of those that haven't ended."""
        return {member.serial for member in self.members}


COUNTS: Kind[list[Family]] = Kind(
    name="counts",
    none=[],
    pack=lambda found: pack(growing(found)),
    unpack=unpack,
    later=further,
    together=lambda found: merged(growing(one) for one in found),
)
"""What a process has counted, as far as it only grows."""

PAST: Kind[Past] = Kind(
    name="past",
    none=Past(),
    pack=past.pack,
    unpack=past.unpack,
    later=past.later,
    together=past.together,
)
"""What it remembers of the last quarter of an hour."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """One such folder."""

    folder: Path

    def admin_of(self, serial: int) -> str:
        """Where the admin port asks that process."""
        return f"unix:{self.folder / f'{serial}.sock'}"

    @property
    def counts(self) -> Drawer[list[Family]]:
        """What processes have counted."""
        return Drawer(self.folder, COUNTS)

    @property
    def pasts(self) -> Drawer[Past]:
        """What they remember."""
        return Drawer(self.folder, PAST)

    def write_roster(self, roster: Roster) -> None:
        """Only the supervisor does."""
        replace_file(self.folder / "roster", msgspec.json.encode(roster))

    def roster(self) -> Roster:
        """The supervisor's last word.

        Raises:
            OSError, msgspec.MsgspecError: it has none.
        """
        return msgspec.json.decode((self.folder / "roster").read_bytes(), type=Roster)

    def tidy(self, roster: Roster) -> None:
        """Remove the sockets of processes that ended without doing so."""
        alive = roster.alive
        for file in self.folder.glob("*.sock"):
            if (
                file.stem.isdigit()
                and int(file.stem) <= roster.last
                and int(file.stem) not in alive
            ):
                file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove it, with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


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
