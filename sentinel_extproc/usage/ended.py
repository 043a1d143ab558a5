"""Exchanges that ended, in a file that outlives the process, until the database has their records.

A record is as safe here as in SQLite's log: both are the kernel's from then on. So an answer's end
needn't wait for a commit, and a commit can take the records of some milliseconds together. What is
still there at the next start goes into the database then.
"""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path

import msgspec

from sentinel_extproc.usage.rows import Row
from sentinel_extproc.usage.slot_file import HEADER_BYTES, SlotFile
from sentinel_extproc.usage.slots import CAPACITY, HEAD, SLOT_BYTES, value

SLOTS = 512
"""Records at once; when there are more, ends wait for their commits."""

_encode = msgspec.msgpack.Encoder().encode
_Fields = tuple[
    str, int, str, str, str, str, str | None, int,
    int, int, int, int, int, int, int, int, int, int,
    str, str, int | None, str | None, str | None, str | None, int | None, int | None,
]  # fmt: skip
_decode = msgspec.msgpack.Decoder(_Fields).decode


class Ended(SlotFile[Row]):
    """The file of one outbox. ``keep`` and ``end`` may come from two threads.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path, *, slots: int = SLOTS) -> None:
        super().__init__(
            path,
            slots=slots,
            magic=b"SENTEND1",
            noun="record",
            encode=_encode,
            decode=decode,
            id_of=itemgetter(0),
        )

    def keep(self, row: Row) -> bool:
        """Whether the row of a record is safe here, until ``end`` is called for its id; False if
        there is no room, it doesn't fit, could not be read again, or its id is here already."""
        record_id = str(row[0])
        try:
            packed = _encode(row)
            _decode(packed)  # 0.4 us, and the database takes what comes out of it
        except (msgspec.MsgspecError, OverflowError, TypeError):
            return False  # the database will say what is wrong with it
        if len(packed) > CAPACITY or self.find(record_id) is not None:
            return False
        return self.put(record_id, row, packed)


def waiting(path: Path) -> int:
    """Records in the file at ``path``, read from outside, beside its user or after one.

    Raises:
        OSError: it can't be read.
    """
    try:
        slots = path.read_bytes()[HEADER_BYTES:]
    except FileNotFoundError:
        return 0
    # By their heads alone: one that is being written isn't torn.
    heads = (HEAD.unpack_from(slots, at) for at in range(0, len(slots) - HEAD.size, SLOT_BYTES))
    return sum(1 for _, length in heads if length)


def decode(slot: bytes | memoryview) -> Row | None:
    """The row in a slot; None if the slot is free.

    Raises:
        TornSlotError: the content isn't what was written.
    """
    return value(slot, _decode)
