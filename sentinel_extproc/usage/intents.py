"""Exchanges that are under way, in a file that outlives the process.

The file lies beside the outbox and is mapped into memory, one slot per open exchange. Writing a
slot is copying some hundred bytes: no system call, no thread, no waiting. What was copied belongs
to the kernel, so it survives the death of the process; ``sync`` brings it to the disk too, behind.

A slot is freed once the record of its exchange is durable. What is still there at the next start
are exchanges that nobody saw the end of.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from sentinel_extproc.usage import files, intent_slots
from sentinel_extproc.usage.intent_slots import HEAD, SLOT_BYTES, TornSlotError
from sentinel_extproc.usage.record import Intent
from sentinel_extproc.usage.waiting import unavailable

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<8sIII")
"""Magic, bytes of a slot, number of slots, CRC-32 of what is before."""
_MAGIC = b"SENTINT1"
_HEADER_BYTES = 4096
_FREE = HEAD.pack(0, 0)


class Intents:
    """The intents file of one outbox. ``begin`` and ``end`` may come from two threads.

    Args:
        path: of the file.
        slots: exchanges under way at once; the file has ``SLOT_BYTES`` for each.

    Attributes:
        torn: slots at the start that were in use and could not be read.
    """

    def __init__(self, path: Path, *, slots: int) -> None:
        self._path = path
        self._slots = slots
        self._map: mmap.mmap | None = None
        self._file = -1
        self._free: list[int] = []
        self._open: dict[str, tuple[int, Intent]] = {}
        self._unsynced = False
        self.torn = 0

    @property
    def in_use(self) -> int:
        """Slots taken."""
        return len(self._open)

    def open(self) -> list[Intent]:
        """Open or make the file; what was under way when its last user died.

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
        self._map = mmap.mmap(self._file, _HEADER_BYTES + slots * SLOT_BYTES)
        self._open = {intent.id: (slot, intent) for slot, intent in taken.items()}
        self._free = [slot for slot in reversed(range(slots)) if slot not in taken]
        return left

    def begin(self, intent: Intent) -> None:
        """Take a slot for an exchange that is about to be forwarded.

        Raises:
            Unavailable: all are taken, or the file is closed.
        """
        if self._map is None or not self._free:
            raise unavailable("Too many requests are under way; the request was not forwarded.")
        payload = intent_slots.encode(intent)
        # The last freed first, so that few pages of the file are ever touched.
        slot = self._free.pop()
        place = _HEADER_BYTES + slot * SLOT_BYTES
        start = place + HEAD.size
        self._map[start : start + len(payload)] = payload
        self._map[place:start] = intent_slots.head(payload)
        self._open[intent.id] = (slot, intent)
        self._unsynced = True

    def end(self, exchange_ids: Sequence[str]) -> None:
        """Free the slots of exchanges whose records are durable; others are passed over."""
        for exchange_id in exchange_ids:
            taken = self._open.pop(exchange_id, None)
            if taken is not None and self._map is not None:
                place = _HEADER_BYTES + taken[0] * SLOT_BYTES
                self._map[place : place + HEAD.size] = _FREE
                self._free.append(taken[0])
                self._unsynced = True

    def find(self, exchange_id: str) -> Intent | None:
        """The intent of an exchange that has a slot."""
        taken = self._open.get(exchange_id)
        return None if taken is None else taken[1]

    def under_way(self) -> list[Intent]:
        """Every exchange that has a slot now."""
        return [intent for _, intent in list(self._open.values())]

    def sync(self) -> None:
        """Bring the slots to the disk, if any changed."""
        if self._unsynced and self._file >= 0:
            self._unsynced = False
            os.fdatasync(self._file)  # takes what a map has changed along, on Linux

    def close(self) -> None:
        """Unmap and close. May be called twice."""
        if self._map is not None:
            self._map.close()
            self._map = None
            os.close(self._file)
            self._file = -1

    def _read(self) -> dict[int, Intent]:
        """The slots taken in the file as it is, whatever its size; a damaged file is kept aside."""
        size = self._size_on_disk()
        if size is None:
            if self._path.exists() and self._path.stat().st_size:
                kept = files.set_aside(self._path)
                logger.critical("the intents %s are damaged: kept as %s", self._path, kept)
            return {}
        if size[0] != SLOT_BYTES:
            raise OSError(0, f"{self._path.name} is of a newer version")
        left = {}
        with self._path.open("rb") as file:
            file.seek(_HEADER_BYTES)
            for slot in range(size[1]):
                data = file.read(SLOT_BYTES)
                try:
                    intent = intent_slots.decode(data)
                except TornSlotError:
                    self.torn += 1
                    text = data.rstrip(b"\0")
                    logger.exception("the intent in slot %d is torn and lost: %r", slot, text)
                    self._clear(_HEADER_BYTES + slot * SLOT_BYTES)
                else:
                    if intent is not None:
                        left[slot] = intent
        return left

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
        if magic != _MAGIC or zlib.crc32(header[:-4]) != crc:
            return None
        if self._path.stat().st_size != _HEADER_BYTES + slots * slot_bytes:
            return None
        return slot_bytes, slots

    def _make(self, slots: int, left: Sequence[Intent]) -> None:
        """Write a new file with these slots taken, and put it in the old one's place."""
        new = self._path.with_name(self._path.name + ".new")
        header = _HEADER.pack(_MAGIC, SLOT_BYTES, slots, 0)[:-4]
        header += zlib.crc32(header).to_bytes(4, "little")
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # All of it now: writing to a page that the disk has no room for would be fatal.
            os.posix_fallocate(file, 0, _HEADER_BYTES + slots * SLOT_BYTES)
            os.pwrite(file, header, 0)
            for slot, intent in enumerate(left):
                payload = intent_slots.encode(intent)
                data = intent_slots.head(payload) + payload
                os.pwrite(file, data, _HEADER_BYTES + slot * SLOT_BYTES)
            os.fsync(file)
        finally:
            os.close(file)
        new.rename(self._path)
