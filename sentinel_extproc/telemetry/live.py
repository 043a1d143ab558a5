"""The adapter from facts to what the live page shows: the last quarter of an hour, bounded.

An exchange costs some additions here; all sorting is done by whoever looks. One event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

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

_GENERATION_S = 300
_GENERATIONS = 3

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


class HeavyHitters:
    """The heaviest names of an unbounded crowd, in bounded memory: a space-saving sketch.

    Twice ``keep`` names are held; then all but the heaviest ``keep`` go at once, and a name that is
    new afterwards starts at the weight that the heaviest of those had. So every name with more than
    ``total / keep`` is in it, and adding costs the same however many there are.
    """

    def __init__(self, keep: int = 100) -> None:
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

    def heavy(self) -> list[Heavy]:
        """All that are held, in no order."""
        return [Heavy(name, *held) for name, held in self._held.items()]

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
        self._generations: list[_Generation] = [_Generation(int(clock()) // _GENERATION_S)]
        self.not_stored = 0
        """Records that were not durable when they should have been, since the start."""
        self.faults = 0
        """Bugs of ours, since the start."""

    def emit(self, fact: Fact) -> None:
        """An ``Emit``."""
        match fact:
            case ExchangeFinished():
                record = fact.record
                usage = record.usage
                sample = self._now()
                sample.admitted += 1
                sample.input_tokens += usage.input_tokens
                sample.output_tokens += usage.output_tokens
                # 1 for the request itself: who sends much that costs no tokens is seen, too.
                weight = usage.input_tokens + usage.output_tokens + 1
                generation = self._generations[-1]
                generation.users.add(record.external_id[:MAX_NAME_CHARS], weight)
                generation.models.add(record.model_requested[:MAX_NAME_CHARS], weight)
            case ExchangeRefused():
                self._now().refused += 1
                self._generations[-1].reasons.add(fact.code[:MAX_NAME_CHARS], 1)
            case RecordNotStored():
                self.not_stored += 1
            case InternalFault():
                self.faults += 1

    def samples(self) -> list[Sample]:
        """The last quarter of an hour, oldest first; the last one is still filling."""
        self._now()
        first = (self._slot + 1) % SAMPLES
        return [*self._ring[first:], *self._ring[:first]]

    def users(self, most: int) -> list[Heavy]:
        """By tokens, the heaviest first, of the last 10 to 15 minutes."""
        return self._top((one.users for one in self._recent()), most)

    def models(self, most: int) -> list[Heavy]:
        """As ``users``."""
        return self._top((one.models for one in self._recent()), most)

    def reasons(self, most: int) -> list[Heavy]:
        """Codes of refusals by number, as ``users``."""
        return self._top((one.reasons for one in self._recent()), most)

    def _now(self) -> Sample:
        now = int(self._clock())
        slot = now // STEP_S
        if slot != self._slot:
            for passed in range(max(self._slot + 1, slot - SAMPLES + 1), slot + 1):
                self._ring[passed % SAMPLES] = Sample()
            self._slot = slot
            number = now // _GENERATION_S
            if number != self._generations[-1].number:
                self._generations.append(_Generation(number))
                self._generations = self._recent()
        return self._ring[slot % SAMPLES]

    def _recent(self) -> list[_Generation]:
        now = int(self._clock()) // _GENERATION_S
        return [one for one in self._generations if one.number > now - _GENERATIONS]

    @staticmethod
    def _top(sketches: Iterable[HeavyHitters], most: int) -> list[Heavy]:
        sums: dict[str, list[int]] = {}
        for sketch in sketches:
            for one in sketch.heavy():
                held = sums.setdefault(one.name, [0, 0, 0])
                held[0] += one.weight
                held[1] += one.count
                held[2] += one.excess
        merged = [Heavy(name, *held) for name, held in sums.items()]
        return sorted(merged, key=lambda one: (-one.weight, one.name))[:most]
