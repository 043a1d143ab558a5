"""What share of new requests is let in, by how the process fares. Pure.

Four times a second it is told how late the event loop is, how much memory is in use and how long
the ledger's disk has taken so far. While one of them is over its bound, the share is halved each
time; once all of them are well below (hysteresis), it grows back by a tenth each time. A little is
always let in, so that it recovers by itself and its signals stay true.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

LEAST_SHARE = 1 / 64
"""Let in even at the worst."""

GROWTH = 0.1
"""Of the share, at each calm sample: ten of them open the door again."""

LAG_SAMPLES = 4
"""A lag counts once that many samples in a row show it: one pause is no overload."""

LEAST_LIVE = 16
"""So few exchanges never count as too much memory: it isn't them who fill it."""

MOST_WAIT_S = 10
"""Longest ``Retry-After``."""

_LAG_CALM = 0.5
_COMMIT_CALM = 0.5
_MEMORY_CALM = 0.95
_MEMORY_STEP = 0.02


class Reason(StrEnum):
    """What is over its bound."""

    LOOP_LAG = "loop_lag"
    MEMORY = "memory"
    OUTBOX = "outbox"


@dataclass(frozen=True, slots=True)
class Bounds:
    """From where on it is too much.

    Attributes:
        lag_s: of the event loop.
        commit_s: of one commit of the ledger.
        memory_bytes: resident; None: no bound.
    """

    lag_s: float = 0.5
    commit_s: float = 2.0
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """How the process fares.

    Attributes:
        memory_bytes: resident; None where that can't be told.
        commit_s: for how long the commit that runs has been running; 0 when none runs.
        live: exchanges that have a stream.
    """

    lag_s: float
    memory_bytes: int | None
    commit_s: float
    live: int


class Shedder:
    """See the module. ``share`` is let in, from ``LEAST_SHARE`` to 1; ``reasons`` say why not
    all."""

    def __init__(self, bounds: Bounds) -> None:
        self.share = 1.0
        self.reasons: frozenset[Reason] = frozenset()
        self._bounds = bounds
        self._lags: deque[float] = deque(maxlen=LAG_SAMPLES)
        self._credit = 0.0
        self._turned_away = 0
        self._enough = 0
        """Exchanges that memory has room for, once it ran out."""
        self._mark: int | None = None
        """The memory in use when it was set."""

    def observe(self, sample: Sample) -> None:
        """Take a sample."""
        bounds = self._bounds
        self._lags.append(sample.lag_s)
        lag = min(self._lags) if len(self._lags) == LAG_SAMPLES else 0.0
        over = {
            Reason.LOOP_LAG: lag >= bounds.lag_s,
            Reason.OUTBOX: sample.commit_s >= bounds.commit_s,
            Reason.MEMORY: self._out_of_memory(sample),
        }
        uneasy = {
            Reason.LOOP_LAG: lag >= bounds.lag_s * _LAG_CALM,
            Reason.OUTBOX: sample.commit_s >= bounds.commit_s * _COMMIT_CALM,
            Reason.MEMORY: False,
        }
        self.reasons = frozenset(
            reason
            for reason in Reason
            if over[reason] or (reason in self.reasons and uneasy[reason])
        )
        if any(over.values()):
            self.share = max(LEAST_SHARE, self.share / 2)
        elif not self.reasons:
            self.share = min(1.0, self.share + GROWTH)

    def admits(self) -> bool:
        """Whether the next one is let in; spread evenly over the share."""
        if self.share >= 1.0:
            return True
        self._credit += self.share
        if self._credit < 1.0:
            self._turned_away += 1
            return False
        self._credit -= 1.0
        return True

    @property
    def retry_after_s(self) -> int:
        """When whoever was just turned away should come again: later the worse it is, and not all
        at once."""
        return 1 + self._turned_away % min(MOST_WAIT_S, max(1, round(1 / self.share)))

    def _out_of_memory(self, sample: Sample) -> bool:
        """Freed memory may stay with the process. So what counts isn't that it is in use, but that
        more exchanges run than half of those that ran when it went over its bound; and half again
        if it has grown since."""
        bound, used = self._bounds.memory_bytes, sample.memory_bytes
        if bound is None or used is None or used < bound * _MEMORY_CALM:
            self._mark = None
            return False
        if self._mark is None:
            if used < bound:
                return False
            self._mark, self._enough = used, max(LEAST_LIVE, sample.live // 2)
        elif used >= self._mark + bound * _MEMORY_STEP:
            fewer = min(self._enough, sample.live) // 2
            self._mark, self._enough = used, max(LEAST_LIVE, fewer)
        return sample.live > self._enough
