"""A file of slots that outlives the process: what was put in is there at the next start.

It lies beside the outbox and is mapped into memory. Writing a slot is copying some hundred bytes:
no system call, no thread, no waiting. What was copied belongs to the kernel, so it survives the
death of the process; ``sync`` brings it to the disk too, behind.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar
from zlib import crc32

from sentinel_extproc.usage import files
from sentinel_extproc.usage.slots import HEAD, SLOT_BYTES, TornSlotError, head

T = TypeVar("T")

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<8sIII")
"""Magic, bytes of a slot, number of slots, CRC-32 of what is before."""
HEADER_BYTES = 4096
_FREE = HEAD.pack(0, 0)


class SlotFile(Generic[T]):
    """One such file. ``put`` and ``end`` may come from two threads.

    Args:
        path: of the file.
        slots: values at once; the file has ``SLOT_BYTES`` for each.
        magic: eight bytes that tell what is in it.
        noun: what people call a value.
        encode, decode: a value's payload, and the value of a slot; see ``slots.value``.
        id_of: what a value is known by.

    Attributes:
        torn: slots at the start that were in use and could not be read.
    """

    def __init__(
        self,
        path: Path,
        *,
        slots: int,
        magic: bytes,
        noun: str,
        encode: Callable[[T], bytes],
        decode: Callable[[bytes], T | None],
        id_of: Callable[[T], str],
    ) -> None:
        self._path = path
        self._slots = slots
        self._magic = magic
        self._noun = noun
        self._encode = encode
        self._decode = decode
        self._id_of = id_of
        self._map: mmap.mmap | None = None
        self._file = -1
        self._free: list[int] = []
        self._open: dict[str, tuple[int, T]] = {}
        self._unsynced = False
        self.torn = 0

    @property
    def in_use(self) -> int:
        """Slots taken."""
        return len(self._open)

    def open(self) -> list[T]:
        """Open or make the file; what was in it when its last user died.

        Their slots stay taken until ``end`` is called for each.

        Raises:
            OSError: it can't be read or made; no room on the disk.
        """
        taken = self._read()
        left = list(taken.values())
        slots = max(self._slots, len(left))
        if self._size_on_disk() != (SLOT_BYTES, slots):
            self._make(slots, left)
            taken = dict(enumerate(left))
        self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        # Only what is used of it is ever touched, and so counts as our memory.
        self._map = mmap.mmap(self._file, HEADER_BYTES + slots * SLOT_BYTES)
        self._open = {self._id_of(value): (slot, value) for slot, value in taken.items()}
        self._free = [slot for slot in reversed(range(slots)) if slot not in taken]
        self._unsynced = True  # what its last user changed may not be on the disk yet
        return left

    def put(self, value_id: str, value: T, payload: bytes) -> bool:
        """Write a value, whose payload this is, into a slot; False if there is none: all are
        taken, or the file is closed."""
        mapped = self._map
        if mapped is None or not self._free:
            return False
        # The last freed first, so that few pages of the file are ever touched.
        slot = self._free.pop()
        place = HEADER_BYTES + slot * SLOT_BYTES
        start = place + HEAD.size
        mapped[start : start + len(payload)] = payload
        # Both numbers by one copy: packed in place they would be written byte by byte.
        mapped[place:start] = head(payload)
        self._open[value_id] = (slot, value)
        self._unsynced = True
        return True

    def end(self, value_ids: Iterable[str]) -> None:
        """Free the slots of these; others are passed over."""
        for value_id in value_ids:
            taken = self._open.pop(value_id, None)
            if taken is not None and self._map is not None:
                place = HEADER_BYTES + taken[0] * SLOT_BYTES
                self._map[place : place + HEAD.size] = _FREE
                self._free.append(taken[0])
                self._unsynced = True

    def find(self, value_id: str) -> T | None:
        """The value of that id, if it has a slot."""
        taken = self._open.get(value_id)
        return None if taken is None else taken[1]

    def values(self) -> list[T]:
        """Every value that has a slot now."""
        return [value for _, value in list(self._open.values())]

    def sync(self) -> None:
        """Bring the slots to the disk, if any changed."""
        if self._unsynced and self._file >= 0:
            self._unsynced = False
            try:
                os.fdatasync(self._file)  # takes what a map has changed along, on Linux
            except OSError:
                self._unsynced = True
                raise

    def close(self) -> None:
        """Unmap and close. May be called twice."""
        if self._map is not None:
            self._map.close()
            self._map = None
            os.close(self._file)
            self._file = -1

    def _read(self) -> dict[int, T]:
        """The slots taken in the file as it is, whatever its size; a damaged file is kept aside."""
        size = self._size_on_disk()
        if size is None:
            if self._path.exists() and self._path.stat().st_size:
                return self._salvage()
            return {}
        if size[0] != SLOT_BYTES:
            raise OSError(0, f"{self._path.name} is of a newer version")
        left = {}
        with self._path.open("rb") as file:
            file.seek(HEADER_BYTES)
            for slot in range(size[1]):
                data = file.read(SLOT_BYTES)
                try:
                    value = self._decode(data)
                except TornSlotError:
                    self.torn += 1
                    text = data.rstrip(b"\0")
                    logger.exception(
                        "the %s in slot %d is torn and lost: %r", self._noun, slot, text
                    )
                    self._clear(HEADER_BYTES + slot * SLOT_BYTES)
                else:
                    if value is not None:
                        left[slot] = value
        return left

    def _salvage(self) -> dict[int, T]:
        """What can be read of a damaged file, which is kept: each slot has a checksum of its own.
        ``open`` puts a new one in its place."""
        found = list[T]()
        with self._path.open("rb") as file:
            file.seek(HEADER_BYTES)
            while len(data := file.read(SLOT_BYTES)) >= HEAD.size:
                with contextlib.suppress(TornSlotError):
                    value = self._decode(data)
                    if value is not None:
                        found.append(value)
        kept = files.keep_aside(self._path)
        logger.critical(
            "the %ss %s are damaged: kept as %s; %d could be read and are used",
            self._noun, self._path, kept, len(found),
        )  # fmt: skip
        return dict(enumerate(found))

    def _clear(self, place: int) -> None:
        with self._path.open("r+b") as file:
            file.seek(place)
            file.write(_FREE)

    def _size_on_disk(self) -> tuple[int, int] | None:
        """Bytes of a slot and number of slots; None if there is no such file, or it is damaged."""
        try:
            with self._path.open("rb") as file:
                header = file.read(_HEADER.size)
        except FileNotFoundError:
            return None
        if len(header) < _HEADER.size:
            return None
        magic, slot_bytes, slots, crc = _HEADER.unpack(header)
        if magic != self._magic or crc32(header[:-4]) != crc:
            return None
        if self._path.stat().st_size != HEADER_BYTES + slots * slot_bytes:
            return None
        return slot_bytes, slots

    def _make(self, slots: int, left: Sequence[T]) -> None:
        """Write a new file with these slots taken, and put it in the old one's place."""
        new = self._path.with_name(self._path.name + ".new")
        header = _HEADER.pack(self._magic, SLOT_BYTES, slots, 0)[:-4]
        header += crc32(header).to_bytes(4, "little")
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # All of it now: writing to a page that the disk has no room for would be fatal.
            os.posix_fallocate(file, 0, HEADER_BYTES + slots * SLOT_BYTES)
            os.pwrite(file, header, 0)
            for slot, value in enumerate(left):
                payload = self._encode(value)
                data = head(payload) + payload
                os.pwrite(file, data, HEADER_BYTES + slot * SLOT_BYTES)
            os.fsync(file)
        finally:
            os.close(file)
        new.rename(self._path)
