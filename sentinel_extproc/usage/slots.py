"""How a value lies in a slot of a slot file. Pure.

A slot is ``SLOT_BYTES`` long: CRC-32 of the payload and its length, four bytes each, little
endian, then the payload. A length of 0 means that the slot is free. The length is written last, so
that a slot is free or whole whenever the process dies; after the loss of power it may be torn,
which the CRC tells.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")

SLOT_BYTES = 1024

HEAD = struct.Struct("<II")
CAPACITY = SLOT_BYTES - HEAD.size


class TornSlotError(Exception):
    """The slot was in use, and its content can't be read."""


def head(payload: bytes) -> bytes:
    """What goes in front of a payload."""
    return HEAD.pack(zlib.crc32(payload), len(payload))


def value(slot: bytes | memoryview, decode: Callable[[bytes], T]) -> T | None:
    """What ``decode`` makes of the payload in a slot; None if the slot is free.

    Raises:
        TornSlotError: the content isn't what was written.
    """
    crc, length = HEAD.unpack_from(slot)
    if not length:
        return None
    found = bytes(slot[HEAD.size : HEAD.size + length])
    if length > CAPACITY or zlib.crc32(found) != crc:
        raise TornSlotError
    try:
        return decode(found)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TornSlotError from error
