"""What processes of one sidecar leave behind, one file for each, and those that ended put together.

Files are replaced whole, so that whoever reads one finds the old or the new.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

log = logging.getLogger("sentinel.workers")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What is kept.

    Attributes:
        name: ends the files' names.
        none: of a process that left nothing.
        unpack: of what ``pack`` made; raises MsgspecError.
        later: of two by one process, the first if neither is.
        together: what several processes left, as one; bounded, however many there are.
    """

    name: str
    none: T
    pack: Callable[[T], bytes]
    unpack: Callable[[bytes], T]
    later: Callable[[T, T], T]
    together: Callable[[Sequence[T]], T]


class _Retired(msgspec.Struct):
    """What ended processes left, and whose is in it while their files are there."""

    content: bytes
    serials: set[int] = set()


@dataclass(frozen=True, slots=True)
class Drawer(Generic[T]):
    """All of one kind, in a folder."""

    folder: Path
    kind: Kind[T]

    def file_of(self, serial: int) -> Path:
        """Where that process writes, now and then and at its end."""
        return self.folder / f"{serial}.{self.kind.name}"

    def read(self, serial: int) -> T:
        """What that process last wrote."""
        try:
            return self.kind.unpack(self.file_of(serial).read_bytes())
        except FileNotFoundError:
            return self.kind.none
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            log.exception("what a process left can't be read")
            return self.kind.none

    def keep(self, serial: int, told: T) -> None:
        """Before ``retired`` puts them together: what a process told, if it had written less."""
        if self.kind.later(told, self.read(serial)) is told:
            try:
                replace_file(self.file_of(serial), self.kind.pack(told))
            except OSError as fault:
                log.warning("counts_not_kept", extra={"reason": str(fault)})

    def retired(self, alive: set[int], last: int) -> T:
        """What all processes that ended left; only the admin port asks.

        Files of those are put together into one and removed; cut off in between, nothing is
        counted twice.

        Args:
            alive: those that haven't ended, up to the serial number ``last``.
        """
        together, serials = self._read_retired()
        ended = {n for n in self._written() if n <= last and n not in alive}
        if new := ended - serials:
            together = self.kind.together([together, *(self.read(n) for n in sorted(new))])
            known = _Retired(self.kind.pack(together), ended)
            try:
                replace_file(self._retired_file, msgspec.msgpack.encode(known))
            except OSError as fault:  # the disk is full, say: each stays for the next time
                log.warning("counts_not_kept", extra={"reason": str(fault)})
                return together
        for serial in ended:
            self.file_of(serial).unlink(missing_ok=True)
        return together

    @property
    def _retired_file(self) -> Path:
        return self.folder / f"retired.{self.kind.name}"

    def _read_retired(self) -> tuple[T, set[int]]:
        try:
            known = msgspec.msgpack.decode(self._retired_file.read_bytes(), type=_Retired)
            return self.kind.unpack(known.content), known.serials
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            log.exception("what ended processes left can't be read")
        return self.kind.none, set()

    def _written(self) -> Iterator[int]:
        for file in self.folder.glob(f"*.{self.kind.name}"):
            if file.stem.isdigit():
                yield int(file.stem)


def replace_file(path: Path, data: bytes) -> None:
    """Write it whole; no reader sees a part of it."""
    new = path.with_name(f"{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    new.rename(path)
