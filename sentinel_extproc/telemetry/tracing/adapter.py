"""The adapter from facts to what a trace is made of. Costs some microseconds on the event loop;
whatever is dear about a span is done by the shipper's thread."""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from sentinel_extproc.limits.facts import LimitFact, SettlementApplied
from sentinel_extproc.telemetry.facts import ExchangeFinished, ExchangeTimed, Fact
from sentinel_extproc.telemetry.timeline import PhaseTimed

MAX_SETTLING = 2000
"""Settlements that wait for their exchange's end, and the other way round. One that is pushed out
has no span; the store takes most within a millisecond."""


class Place(NamedTuple):
    """Which span it is, and what it belongs to.

    Attributes:
        parent_id: span of somebody else's; None begins a trace.
        state: ``tracestate`` as it came.
    """

    trace_id: int
    span_id: int
    parent_id: int | None = None
    state: str = ""


class TracedExchange(NamedTuple):
    """One exchange, all of it.

    Attributes:
        unix_ns: what to add to its times for nanoseconds since the epoch.
        settled: the settlement, if it was applied before the end.
    """

    place: Place
    fact: ExchangeTimed
    unix_ns: int
    ended_ns: int
    settled: PhaseTimed | None

    @property
    def spans(self) -> int:
        """How many it becomes."""
        return 1 + len(self.fact.timeline.phases) + (self.settled is not None)


class TracedSettlement(NamedTuple):
    """A settlement that was applied after its exchange's end."""

    place: Place
    phase: PhaseTimed
    unix_ns: int

    @property
    def spans(self) -> int:
        """How many it becomes."""
        return 1


Traced = TracedExchange | TracedSettlement


class Traces:
    """Decides which exchanges are traced, and hands those on.

    Args:
        ship: takes them; quick, and never raises.
        ratio: share of exchanges to trace where nobody else has decided. Where Envoy, or whoever
            called it, has begun a trace, that one's own decision holds.
        draw: a random number from 0 to 1.
    """

    def __init__(
        self,
        ship: Callable[[Traced], None],
        *,
        ratio: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._ship = ship
        self._ratio = ratio
        self._draw = draw
        self._settled: OrderedDict[str, PhaseTimed] = OrderedDict()
        self._settling: OrderedDict[str, Place] = OrderedDict()

    def emit(self, fact: Fact) -> None:
        """An ``Emit``."""
        if isinstance(fact, ExchangeTimed):
            self._over(fact)

    def emit_limits(self, fact: LimitFact) -> None:
        """An ``EmitLimitFact``."""
        if not isinstance(fact, SettlementApplied):
            return
        now_ns = time.perf_counter_ns()
        phase = PhaseTimed("settle", now_ns - int(fact.after_s * 1e9), now_ns)
        place = self._settling.pop(fact.exchange_id, None)
        if place is not None:
            self._ship(TracedSettlement(place, phase, _unix_ns()))
            return
        self._settled[fact.exchange_id] = phase
        if len(self._settled) > MAX_SETTLING:
            self._settled.popitem(last=False)

    def _over(self, fact: ExchangeTimed) -> None:
        settled = self._settled.pop(fact.exchange_id, None)
        trace = fact.trace
        if not (self._draw() < self._ratio if trace is None else trace.sampled):
            return
        place = (
            Place(new_id(128), new_id(64))
            if trace is None
            else Place(trace.trace_id, new_id(64), trace.span_id, trace.state)
        )
        if settled is None and isinstance(fact.end, ExchangeFinished):
            self._settling[fact.exchange_id] = place
            if len(self._settling) > MAX_SETTLING:
                self._settling.popitem(last=False)
        self._ship(TracedExchange(place, fact, _unix_ns(), time.perf_counter_ns(), settled))


def new_id(bits: int) -> int:
    """A random id for a trace (128 bits) or a span (64); never 0, which means none."""
    return random.getrandbits(bits) or 1


def _unix_ns() -> int:
    return time.time_ns() - time.perf_counter_ns()
