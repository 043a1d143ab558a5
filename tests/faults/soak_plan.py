"""What a soak does to the stack, cycle by cycle: drawn from a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from sentinel_extproc.demo.zion_faults import FaultKind

T = TypeVar("T")


class KillAt(StrEnum):
    """When the sidecar is killed."""

    ANY_TIME = "any time"
    REQUEST = "request at provider"
    FIRST_CHUNK = "first chunk"
    ANSWER_END = "end of an answer"
    REPORT = "report to Zion"
    DRAINING = "draining"


class RedisFate(StrEnum):
    """What becomes of Redis in a cycle."""

    UNHURT = "unhurt"
    KEEPS = "killed, keeps its data"
    FORGETS = "killed, forgets all"


@dataclass(frozen=True, slots=True)
class ZionFate:
    """How batches fail in a cycle.

    Attributes:
        kind: None: they don't.
        times: for so many batches; ``partial`` lasts until it is cleared.
        outlives: it isn't cleared before the sidecar is back.
    """

    kind: FaultKind | None
    times: int
    outlives: bool


@dataclass(frozen=True, slots=True)
class Cycle:
    """One death of the sidecar.

    Attributes:
        delay_s: between the moment of ``kill_at`` and the kill.
        redis_first: Redis dies before the sidecar does, not after.
        redis_late: Redis is started after the sidecar, not before.
    """

    kill_at: KillAt
    delay_s: float
    zion: ZionFate
    redis: RedisFate
    redis_first: bool
    redis_late: bool

    def __str__(self) -> str:
        zion = "well" if self.zion.kind is None else f"{self.zion.kind} ×{self.zion.times}"
        return f"kill at {self.kill_at}; Zion {zion}; Redis {self.redis}"


ZION_FAULTS = (
    None,
    FaultKind.ERROR_500,
    FaultKind.HANG,
    FaultKind.RATE_LIMITED,
    FaultKind.COMMIT_THEN_DROP,
    FaultKind.DROP,
    FaultKind.MALFORMED,
    FaultKind.PARTIAL,
    FaultKind.REFUSED,
)
REDIS_FATES = (RedisFate.UNHURT, RedisFate.UNHURT, RedisFate.KEEPS, RedisFate.FORGETS)
_LONGEST_DELAY_S = {
    KillAt.ANY_TIME: 0.8,
    KillAt.REQUEST: 0.01,
    KillAt.FIRST_CHUNK: 0.02,
    KillAt.ANSWER_END: 0.005,
    KillAt.REPORT: 0.02,
    KillAt.DRAINING: 0.5,
}


def cycles(seed: int, count: int) -> list[Cycle]:
    """The schedule: always the same for a seed, and every kind of fate as often as any other."""
    chance = random.Random(seed)
    kills, faults = _deck(chance, tuple(KillAt)), _deck(chance, ZION_FAULTS)
    redis = _deck(chance, REDIS_FATES)
    made = []
    for _ in range(count):
        kill_at, fault = next(kills), next(faults)
        # Batches are halved down to one item before that is a dead letter.
        most = 12 if fault is FaultKind.REFUSED else 4
        made.append(
            Cycle(
                kill_at=kill_at,
                delay_s=chance.uniform(0, _LONGEST_DELAY_S[kill_at]),
                zion=ZionFate(fault, chance.randint(1, most), chance.random() < 0.5),
                redis=next(redis),
                redis_first=chance.random() < 0.5,
                redis_late=chance.random() < 0.5,
            )
        )
    return made


def _deck(chance: random.Random, cards: Sequence[T]) -> Iterator[T]:
    """Shuffled, dealt to the last card, shuffled again."""
    while True:
        yield from chance.sample(cards, len(cards))
