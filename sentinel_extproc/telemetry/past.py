"""What several processes remember, as one would. Pure.

Steps and stretches of time are counted by the machine's one clock, so what two processes say of the
same number is of the same moment, and what one said that has ended stays true until it is too old.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from sentinel_extproc.safe_text import for_bytes
from sentinel_extproc.telemetry.live import (
    GENERATION_S,
    GENERATIONS,
    KEEP,
    SAMPLES,
    STEP_S,
    Generation,
    Heavy,
    Held,
    Past,
    Sample,
    heaviest,
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Past).decode


def pack(past: Past) -> bytes:
    """For another process; see ``portable``."""
    return _encode(portable(past))


def unpack(data: bytes) -> Past:
    """What ``pack`` made.

    Raises:
        msgspec.MsgspecError: it didn't.
    """
    return _decode(data)


def portable(past: Past) -> Past:
    """Of the names only the heaviest, so that it is bounded, and as bytes can carry them."""
    return together([past])


def later(one: Past, other: Past) -> Past:
    """Of two memories of one process, the later; the first if they are of the same moment."""
    return max(one, other, key=lambda past: (past.step, _total(past)))


def together(pasts: Sequence[Past]) -> Past:
    """All of them as one, up to the latest step of any; what is older than that allows is gone.
    However many there are, the result is no larger than one."""
    if not pasts:
        return Past()
    step = max(past.step for past in pasts)
    sums = [[0, 0, 0, 0] for _ in range(SAMPLES)]
    for past in pasts:
        first = past.step - len(past.samples) + 1
        for number, sample in enumerate(past.samples, first):
            place = number - step + SAMPLES - 1
            if place >= 0:
                for field, count in enumerate(sample):
                    sums[place][field] += count
    return Past(
        step=step,
        samples=[(one[0], one[1], one[2], one[3]) for one in sums],
        generations=_generations(
            [one for past in pasts for one in past.generations], step * STEP_S // GENERATION_S
        ),
        not_stored=sum(past.not_stored for past in pasts),
        faults=sum(past.faults for past in pasts),
    )


def samples_of(past: Past) -> list[Sample]:
    """As ``Live.samples``."""
    return [Sample(*one) for one in past.samples]


def top(past: Past, kind: Literal["users", "models", "reasons"], most: int) -> list[Heavy]:
    """As ``Live.users``, ``models`` and ``reasons``."""
    lists: list[list[Held]] = [getattr(one, kind) for one in past.generations]
    return heaviest(lists, most)


def _generations(given: Sequence[Generation], latest: int) -> list[Generation]:
    """By number, those that aren't too old."""
    numbers = sorted({one.number for one in given if one.number > latest - GENERATIONS})
    found: list[Generation] = []
    for number in numbers:
        same = [one for one in given if one.number == number]
        found.append(
            Generation(
                number,
                _names([one.users for one in same]),
                _names([one.models for one in same]),
                _names([one.reasons for one in same]),
            )
        )
    return found


def _names(lists: Sequence[Sequence[Held]]) -> list[Held]:
    ranked = heaviest(lists, KEEP)
    return [(for_bytes(one.name), one.weight, one.count, one.excess) for one in ranked]


def _total(past: Past) -> int:
    return sum(sum(sample) for sample in past.samples) + past.not_stored + past.faults
