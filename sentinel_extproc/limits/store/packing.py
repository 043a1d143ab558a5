"""Claims as the scripts read them, and verdicts as they write them. Pure."""

from __future__ import annotations

import struct
from functools import lru_cache

from ..kinds.concurrency import KEEP_MS
from ..kinds.ring import SLOTS
from ..limit import Kind, Limit, Period
from . import Decision, Line, LineVerdict, StoreError, Verdict, scripts

_PERIODS = {Period.DAY: 1, Period.WEEK: 2, Period.MONTH: 3, Period.LIFETIME: 4}
"""As the scripts number them; ``lines.lua`` says what a line is."""

_SPARE_MS = 1_002
"""How much longer states are kept: rounding, and a second more."""

_AMOUNT = struct.Struct("<d").pack
_SEED = struct.Struct("<2d")
_TAIL = struct.Struct("<6d")
_DECISIONS = {int(decision): decision for decision in Decision}


def pack_lines(
    lines: tuple[Line, ...], head: str, keys: list[str], arguments: list[bytes | str | int]
) -> int:
    """Add to a script's keys and arguments what it must be told of ``lines``: of each its key,
    after ``head``, and as one argument kind, amount, room, period, capacity, shadow, what another
    authority says is used and when it said so, eight doubles; then for how long to keep its state.

    Returns:
        The kinds that occur, as in ``scripts.ByKinds``.
    """
    kinds = 0
    for line in lines:
        keys.append(head + line.key)
        kind, before, after = _terms(line.limit)
        kinds |= kind
        if line.seed is not None:
            # Of a calendar: no time to keep it, so that these come last, and are 0 without a seed.
            after = after[:-16] + _SEED.pack(line.seed.used, line.seed.seen_ms)
        arguments.append(before + _AMOUNT(line.amount) + after)
    return kinds


@lru_cache(maxsize=4096)
def _terms(limit: Limit) -> tuple[int, bytes, bytes]:
    """A limit's kind, and what stands before and after the amount in its line: the same at every
    request, so that it is packed once. A limit keeps its own hash."""
    number = scripts.NUMBERS[limit.kind]
    period = _PERIODS[limit.period] if limit.kind is Kind.CALENDAR else limit.period_ms
    tail = _TAIL.pack(limit.room, period, limit.capacity, limit.shadow, 0, 0)
    return 1 << number, _AMOUNT(number), tail + _ttl_ms(limit)


def _ttl_ms(limit: Limit) -> bytes:
    """For how long a state without debt differs from a new one, at most: a bucket refills, a ring's
    slots leave the window. A calendar's window ends when it ends. Of concurrency it is how long it
    is remembered how long exchanges take. As text: Redis reads that faster.
    """
    match limit.kind:
        case Kind.CONCURRENCY:
            return b"%d" % KEEP_MS
        case Kind.BUCKET:
            return b"%d" % (limit.room * limit.period_ms // limit.capacity + _SPARE_MS)
        case Kind.RING:
            return b"%d" % (limit.period_ms + limit.period_ms // SLOTS + _SPARE_MS)
    return b""


def verdict_of(reply: object) -> Verdict:
    """What a script says: a decision, the time, and four numbers for each line, all doubles.

    Raises:
        StoreError: something else.
    """
    if not isinstance(reply, bytes) or len(reply) < 16 or len(reply) % 32 != 16:
        raise StoreError("Redis answered with something else than a verdict")
    numbers = list(map(int, struct.unpack(f"<{len(reply) // 8}d", reply)))
    decision = _DECISIONS.get(numbers[0])
    if decision is None:
        raise StoreError(f"Redis answered with decision {numbers[0]}")
    fits = map(bool, numbers[2::4])
    lines = tuple(map(LineVerdict, fits, numbers[3::4], numbers[4::4], numbers[5::4]))
    return Verdict(decision, numbers[1], lines)
