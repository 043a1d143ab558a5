"""How long a recording is, and what sound costs in tokens. Pure."""

from __future__ import annotations

import math

IN_PER_SECOND = 10
"""Input tokens of a second of sound: one for 100 ms, by OpenAI's pricing guide."""

OUT_PER_SECOND = 20
"""Output tokens of a second of sound: one for 50 ms, by the same."""

SLOWEST_BYTES = 4_000
"""Bytes of a second at 32 kbit/s, the lowest rate that speech is commonly sent at; taken for what
doesn't tell its rate, so that the estimate is rather too high."""

_MP3_KBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MP3_LOW_KBITS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def seconds_of(head: bytes, size: int) -> float:
    """Seconds of a recording of ``size`` bytes, from its first bytes if they tell its rate."""
    return size / (_byte_rate(head) or SLOWEST_BYTES)


def input_tokens(seconds: float) -> int:
    """Input tokens of a recording, rounded up."""
    return math.ceil(seconds * IN_PER_SECOND)


def _byte_rate(head: bytes) -> float | None:
    if head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt " and len(head) >= 32:
        rate = int.from_bytes(head[28:32], "little")
        # A claim of gigabytes a second would make the recording free.
        return rate if SLOWEST_BYTES <= rate <= 1_536_000 else None
    return _mp3_rate(head)


def _mp3_rate(head: bytes) -> float | None:
    """The rate of a first frame of MPEG layer III (ISO 11172-3, 2.4.2.3); an ID3 tag hides it."""
    if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    kbits = _MP3_KBITS if head[1] & 0x18 == 0x18 else _MP3_LOW_KBITS
    place = head[2] >> 4
    return kbits[place] * 125 if 0 < place < len(kbits) else None
