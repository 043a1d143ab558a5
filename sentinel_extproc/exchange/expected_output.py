"""How much output to reserve for when a request has no cap: learned per model and user. Pure.

What is learned is a high percentile of what such requests generated before, so that most need no
more than was reserved. It is only a guess at what to hold: holds follow an answer as it grows, and
the settlement takes what was really used, so that a wrong guess is never a wrong bill.

Who has too short a history of their own gets what others generated with the same model while they
had none: the very population that the fallback is for. Everybody counts in it only with their first
few answers, so that nobody can move it much for the others.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict
from enum import StrEnum
from itertools import accumulate
from typing import Protocol

from msgspec import Struct

EDGES = tuple(sorted({round(2 ** (step / 2)) for step in range(41)}))
"""Upper ends of the bins: tokens from 1 to 2^20, each √2 times the one before. No model writes a
million tokens at once; what is more counts as that."""

NEWCOMERS = 4
"""Users, at least, that the history of a model's newcomers comes from before it counts."""

HALF_LIFE = 64
"""Answers after which what was learned weighs half: habits change within a day, not an hour."""

MODELS_PER_USER = 16
"""Models that one user's history is kept for; of more than that only the first."""

MODELS = 512
"""Models whose newcomers are known; the one not met for longest is forgotten."""

_GROWTH = 2 ** (1 / HALF_LIFE)
_RESCALE = 2.0**60  # far inside of what a C float holds, and beyond every weight that matters


class Basis(StrEnum):
    """Where a reservation of output comes from."""

    CAP = "cap"
    """The request says so itself."""
    USER = "user"
    """What this user's answers from this model were like."""
    MODEL = "model"
    """What newcomers' answers from this model were like."""
    DEFAULT = "default"
    """Nothing is known yet: the setting."""


class Expected(Struct, frozen=True, gc=False):
    """Output to reserve.

    Attributes:
        tokens: for one choice.
    """

    tokens: int
    basis: Basis


class OutputExpectation(Protocol):
    """Knows what to expect of a request without a cap."""

    @property
    def default(self) -> int:
        """What to reserve when nothing is known, in tokens."""
        ...

    def expect(self, user: str, kind: str) -> Expected:
        """What to reserve for one choice; ``kind`` names the endpoint and the model."""
        ...

    def learn(self, user: str, kind: str, tokens: int) -> None:
        """Take in what one choice of a whole, uncapped answer came to."""
        ...


class FixedOutput:
    """An ``OutputExpectation`` that always expects the same."""

    def __init__(self, tokens: int) -> None:
        self.default = tokens

    def expect(self, user: str, kind: str) -> Expected:  # noqa: ARG002
        return Expected(self.default, Basis.DEFAULT)

    def learn(self, user: str, kind: str, tokens: int) -> None:
        """Learn nothing."""


class Quantile:
    """An online estimate of quantiles of recent values: some 250 bytes, constant time.

    A histogram over ``EDGES`` whose counts halve in weight every ``HALF_LIFE`` values. Instead of
    all old counts shrinking at each value, the new value's weight grows.

    Attributes:
        seen: values taken in.
    """

    __slots__ = ("_bins", "_weight", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self._weight = 1.0
        self._bins = array("f", bytes(4 * len(EDGES)))

    def add(self, value: int) -> None:
        """Take in a value; below 1 counts as 1."""
        self.seen += 1
        self._bins[min(bisect_left(EDGES, value), len(EDGES) - 1)] += self._weight
        self._weight *= _GROWTH
        if self._weight > _RESCALE:
            self._bins = array("f", (one / self._weight for one in self._bins))
            self._weight = 1.0

    def at(self, fraction: float) -> int:
        """A bound that ``fraction`` of the weight lies at or below, at most √2 times too high.

        Needs a value to have been seen.
        """
        wanted = fraction * sum(self._bins)
        sums = accumulate(self._bins)
        return next(edge for edge, below in zip(EDGES, sums, strict=True) if 0 < below >= wanted)


class LearnedOutput:
    """Learns from every answer, within bounds. An ``OutputExpectation``.

    Args:
        default: tokens to expect while nothing is known; taken as it is, not bounded.
        percentile: above 0, below 1.
        least, most: bounds of what is learned, in tokens.
        samples: answers that must have been seen before they count.
        users: histories kept; the user not met for longest is forgotten.
    """

    def __init__(
        self,
        *,
        default: int,
        percentile: float = 0.95,
        least: int = 64,
        most: int = 16_384,
        samples: int = 20,
        users: int = 10_000,
    ) -> None:
        self.default = default
        self._percentile = percentile
        self._least, self._most = least, most
        self._samples = samples
        self._first = max(1, samples // NEWCOMERS)
        self._max_users = users
        self._users: OrderedDict[str, dict[str, Quantile]] = OrderedDict()
        self._newcomers: OrderedDict[str, Quantile] = OrderedDict()

    def __len__(self) -> int:
        """Users that are remembered."""
        return len(self._users)

    def expect(self, user: str, kind: str) -> Expected:
        own = self._users.get(user, {}).get(kind)
        if own is not None and own.seen >= self._samples:
            return Expected(self._bounded(own), Basis.USER)
        others = self._newcomers.get(kind)
        if others is not None and others.seen >= self._samples:
            return Expected(self._bounded(others), Basis.MODEL)
        return Expected(self.default, Basis.DEFAULT)

    def learn(self, user: str, kind: str, tokens: int) -> None:
        models = self._users.setdefault(user, {})
        self._users.move_to_end(user)
        if len(self._users) > self._max_users:
            self._users.popitem(last=False)
        own = models.get(kind)
        if own is None:
            # No other one is forgotten for it: else a new name each time would be a newcomer each
            # time, who may teach what all newcomers get.
            if len(models) >= MODELS_PER_USER:
                return
            own = models[kind] = Quantile()
        if own.seen < self._first:
            self._meet(kind).add(tokens)
        own.add(tokens)

    def _meet(self, kind: str) -> Quantile:
        newcomers = self._newcomers.setdefault(kind, Quantile())
        self._newcomers.move_to_end(kind)
        if len(self._newcomers) > MODELS:
            self._newcomers.popitem(last=False)
        return newcomers

    def _bounded(self, quantile: Quantile) -> int:
        return min(self._most, max(self._least, quantile.at(self._percentile)))
