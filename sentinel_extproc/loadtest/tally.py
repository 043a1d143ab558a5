"""Everything that is known of a test, in bounded memory. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .histogram import Histogram
from .outcome import Outcome, Result

MAX_BINS = 240
MAX_REASONS = 50
_OTHER = "(other)"


@dataclass(slots=True)
class Sums:
    """Of one kind of request, or of all.

    Attributes:
        ttft: of streams, from the moment at which the request was due to the first text.
        total: to the end; of what went well, as ``ttft`` and ``gap``.
        lag: from that moment to the sending; of everything.
        output_tokens: of what went well.
        in_time: answers that went well before the end of sending, and ``tokens_in_time`` of them;
            what comes later came at a lesser load.
        untold: answers whose tokens were counted by their events.
    """

    results: Counter[Result] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    ttft: Histogram = field(default_factory=Histogram)
    gap: Histogram = field(default_factory=Histogram)
    total: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    output_tokens: int = 0
    in_time: int = 0
    tokens_in_time: int = 0
    untold: int = 0

    def add(self, one: Outcome, *, in_time: bool) -> None:
        """Count one more."""
        self.results[one.result] += 1
        self.lag.add(one.sent_s - one.due_s)
        if one.status is not None:
            self.statuses[one.status] += 1
        if one.reason is not None:
            known = one.reason in self.reasons or len(self.reasons) < MAX_REASONS
            self.reasons[one.reason if known else _OTHER] += 1
        # The first token of who left later is as good as any other.
        if one.first_s is not None and one.result in (Result.OK, Result.LEFT):
            self.ttft.add(one.first_s - one.due_s)
        if one.gaps is not None and one.result in (Result.OK, Result.LEFT):
            self.gap.merge(one.gaps)
        if one.result is Result.OK:
            self.total.add(one.ended_s - one.due_s)
            self.output_tokens += one.output_tokens
            self.in_time += in_time
            self.tokens_in_time += one.output_tokens if in_time else 0
            self.untold += not one.told


@dataclass(slots=True)
class Bin:
    """One stretch of time.

    Attributes:
        sent: requests sent in it.
        results: of those that ended in it.
        running: the most at once that were seen in it.
    """

    sent: int = 0
    results: Counter[Result] = field(default_factory=Counter)
    ttft: Histogram = field(default_factory=Histogram)
    total: Histogram = field(default_factory=Histogram)
    output_tokens: int = 0
    running: int = 0


class Tally:
    """Counts outcomes, by kind, for all, and over time.

    Args:
        kinds: names, in the order in which they are shown.
        sending_s: how long requests are sent.
        longest_s: how long the test can last; what comes later counts as the last moment.

    Attributes:
        not_sent: arrivals for which there was no room even in the line.
        held_back: arrivals that were skipped since every user had been told to come back later.
        running: requests that are.
    """

    def __init__(self, kinds: Iterable[str], *, sending_s: float, longest_s: float) -> None:
        self._sending_s = sending_s
        self.all = Sums()
        self.kinds = {name: Sums() for name in kinds}
        self.bin_s = max(1, math.ceil(longest_s / MAX_BINS))
        self._bins: dict[int, Bin] = {}
        self.not_sent = 0
        self.held_back = 0
        self.running = 0

    def sending(self, now_s: float) -> None:
        """A request is being sent."""
        self.running += 1
        bin_ = self._bin(now_s)
        bin_.sent += 1
        bin_.running = max(bin_.running, self.running)

    def ended(self, one: Outcome) -> None:
        """It has ended."""
        self.running -= 1
        in_time = one.ended_s <= self._sending_s
        self.all.add(one, in_time=in_time)
        self.kinds[one.kind].add(one, in_time=in_time)
        bin_ = self._bin(one.ended_s)
        bin_.results[one.result] += 1
        bin_.running = max(bin_.running, self.running)
        if one.result is Result.OK:
            bin_.output_tokens += one.output_tokens
            bin_.total.add(one.ended_s - one.due_s)
            if one.first_s is not None:
                bin_.ttft.add(one.first_s - one.due_s)

    def bins(self) -> list[Bin]:
        """Stretches of ``bin_s`` from the beginning on, without a hole."""
        return [self._bins.get(n) or Bin() for n in range(max(self._bins, default=-1) + 1)]

    def _bin(self, at_s: float) -> Bin:
        place = min(MAX_BINS, max(0, int(at_s / self.bin_s)))
        return self._bins.setdefault(place, Bin())
