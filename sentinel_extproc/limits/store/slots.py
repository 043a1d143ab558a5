"""A hash tag for every slot of a Redis Cluster, for keys that every user's script must see."""

from __future__ import annotations

import binascii
from functools import lru_cache

SLOTS = 16_384


def slot_of(tag: str) -> int:
    """The slot of keys with this hash tag: CRC-16/XMODEM modulo 16384 (Redis Cluster spec)."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


@lru_cache(maxsize=1)
def tag_of_every_slot() -> tuple[str, ...]:
    """One short tag per slot, by trying numbers in order: the same on every replica."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < SLOTS:
        tag = f"{number:x}"
        found.setdefault(slot_of(tag), tag)
        number += 1
    return tuple(found[slot] for slot in range(SLOTS))


def tag_of_slot(tag: str) -> str:
    """The tag that stands for the slot which ``tag`` falls into."""
    return tag_of_every_slot()[slot_of(tag)]
