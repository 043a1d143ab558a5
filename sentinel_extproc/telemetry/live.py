"""The adapter from facts to what the live page shows: the last quarter of an hour, bounded.

An exchange costs some additions here; all sorting is done by whoever looks. One event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from sentinel_extproc.telemetry.batching import Batch
from sentinel_extproc.telemetry.facts import (
    ExchangeFinished,
    ExchangeRefused,
    Fact,
    InternalFault,
    RecordNotStored,
)

STEP_S = 5
"""Time that one sample stands for."""

SAMPLES = 180
"""A quarter of an hour."""

GENERATION_S = 300
GENERATIONS = 3
KEEP = 100
"""Names of each stretch and kind that are kept for sure."""

MAX_NAME_CHARS = 200
"""Of a user, model or code that is kept; longer ones are cut, and may then fall together."""


@dataclass(slots=True)
class Sample:
    """What came to its end within ``STEP_S`` seconds."""

    admitted: int = 0
    refused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Heavy:
    """One of the heaviest names.

    Attributes:
        weight: what it took; too high by ``excess`` at most, never too low.
        count: exchanges seen while its name was kept; never too high.
    """

    name: str
    weight: int
    count: int
    excess: int


Held = tuple[str, int, int, int]
"""A name with what ``Heavy`` has of it."""


class Generation(msgspec.Struct, frozen=True, array_like=True):
    """Names of one stretch of time, in no order; ``number`` counts those of the machine's clock."""

    number: int
    users: list[Held]
    models: list[Held]
    reasons: list[Held]


class Past(msgspec.Struct, frozen=True, array_like=True):
    """What a process remembers, for another one.

    Attributes:
        step: which one of the machine's clock the last sample is of.
        samples: as of ``Sample``, oldest first, ``SAMPLES`` at most.
        not_stored, faults: since the start.
    """

    step: int = 0
    samples: list[tuple[int, int, int, int]] = []
    generations: list[Generation] = []
    not_stored: int = 0
    faults: int = 0


class HeavyHitters:
    """The heaviest names of an unbounded crowd, in bounded memory: a space-saving sketch.

    Twice ``keep`` names are held; then all but the heaviest ``keep`` go at once, and a name that is
    new afterwards starts at the weight that the heaviest of those had. So every name with more than
    ``total / keep`` is in it, and adding costs the same however many there are.
    """

    def __init__(self, keep: int = KEEP) -> None:
        self._keep = keep
        self._floor = 0
        self._held: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, name: str, weight: int) -> None:
        """Count one exchange of ``name``."""
        held = self._held.get(name)
        if held is not None:
            held[0] += weight
            held[1] += 1
            return
        if len(self._held) >= 2 * self._keep:
            self._shrink()
        self._held[name] = [self._floor + weight, 1, self._floor]

    def held(self) -> list[Held]:
        """All of them, in no order."""
        return [(name, one[0], one[1], one[2]) for name, one in self._held.items()]

    def _shrink(self) -> None:
        ranked = sorted(self._held.items(), key=lambda item: item[1][0], reverse=True)
        self._floor = max(self._floor, ranked[self._keep][1][0])
        self._held = dict(ranked[: self._keep])


@dataclass(slots=True)
class _Generation:
    """Names of five minutes, so that who was busy once doesn't stay on top for ever."""

    number: int
    users: HeavyHitters = field(default_factory=HeavyHitters)
    models: HeavyHitters = field(default_factory=HeavyHitters)
    reasons: HeavyHitters = field(default_factory=HeavyHitters)


class Live:
    """Takes facts, keeps the recent past.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = int(clock()) // STEP_S
        self._slot = self._started
        self._ring = [Sample() for _ in range(SAMPLES)]
        self._generations: list[_Generation] = [_Generation(int(clock()) // GENERATION_S)]
        self._ended: Batch[tuple[ExchangeFinished | ExchangeRefused, int]] = Batch(self._take)
        self.not_stored = 0
        """Records that were not durable when they should have been, since the start."""
        self.faults = 0
        """Bugs of ours, since the start."""

    def emit(self, fact: Fact) -> None:
        """An ``Emit``."""
        if type(fact) is ExchangeFinished or type(fact) is ExchangeRefused:
            self._ended.add((fact, int(self._clock())))
        elif type(fact) is RecordNotStored:
            self.not_stored += 1
        elif type(fact) is InternalFault:
            self.faults += 1

    def _take(self, ended: tuple[ExchangeFinished | ExchangeRefused, int]) -> None:
        fact, at_s = ended
        sample = self._at(at_s)
        if isinstance(fact, ExchangeRefused):
            sample.refused += 1
            self._generations[-1].reasons.add(fact.code[:MAX_NAME_CHARS], 1)
            return
        record = fact.record
        usage = record.usage
        sample.admitted += 1
        sample.input_tokens += usage.input_tokens
        sample.output_tokens += usage.output_tokens
        # 1 for the request itself: who sends much that costs no tokens is seen, too.
        weight = usage.input_tokens + usage.output_tokens + 1
        generation = self._generations[-1]
        generation.users.add(record.external_id[:MAX_NAME_CHARS], weight)
        generation.models.add(record.model_requested[:MAX_NAME_CHARS], weight)

    def samples(self) -> list[Sample]:
        """The last quarter of an hour, oldest first; the last one is still filling."""
        self._ended.drain()
        self._at(int(self._clock()))
        first = (self._slot + 1) % SAMPLES
        return [*self._ring[first:], *self._ring[:first]]

    def past(self) -> Past:
        """All of it. Nothing in it changes any more."""
        self._ended.drain()
        return Past(
            step=int(self._clock()) // STEP_S,
            samples=[
                (one.admitted, one.refused, one.input_tokens, one.output_tokens)
                for one in self.samples()
            ],
            generations=[
                Generation(one.number, one.users.held(), one.models.held(), one.reasons.held())
                for one in self._recent()
            ],
            not_stored=self.not_stored,
            faults=self.faults,
        )

    def users(self, most: int) -> list[Heavy]:
        """By tokens, the heaviest first, of the last 10 to 15 minutes."""
        self._ended.drain()
        return heaviest((one.users.held() for one in self._recent()), most)

    def models(self, most: int) -> list[Heavy]:
        """As ``users``."""
        self._ended.drain()
        return heaviest((one.models.held() for one in self._recent()), most)

    def reasons(self, most: int) -> list[Heavy]:
        """Codes of refusals by number, as ``users``."""
        self._ended.drain()
        return heaviest((one.reasons.held() for one in self._recent()), most)

    def _at(self, now: int) -> Sample:
        slot = now // STEP_S
        if slot != self._slot:
            for passed in range(max(self._slot + 1, slot - SAMPLES + 1), slot + 1):
                self._ring[passed % SAMPLES] = Sample()
            self._slot = slot
            number = now // GENERATION_S
            if number != self._generations[-1].number:
                self._generations.append(_Generation(number))
                self._generations = self._recent()
        return self._ring[slot % SAMPLES]

    def _recent(self) -> list[_Generation]:
        now = int(self._clock()) // GENERATION_S
        return [one for one in self._generations if one.number > now - GENERATIONS]


def heaviest(lists: Iterable[Iterable[Held]], most: int) -> list[Heavy]:
    """The heaviest of several, added up by name."""
    sums: dict[str, list[int]] = {}
    for name, weight, count, excess in (one for held in lists for one in held):
        both = sums.setdefault(name, [0, 0, 0])
        both[0] += weight
        both[1] += count
        both[2] += excess
    merged = [Heavy(name, *both) for name, both in sums.items()]
    return sorted(merged, key=lambda one: (-one.weight, one.name))[:most]


def tokens_by_name(ranked: Iterable[Heavy]) -> dict[str, int]:
    """Tokens alone: a weight has 1 more for each request."""
    return {one.name: max(0, one.weight - one.count) for one in ranked}
