"""A circuit breaker as a state machine: no clock, no lock, no I/O.

    CLOSED --(>= min_calls in the window, >= failure_ratio of them failed)--> OPEN
    OPEN --(its time is over, next call is the probe)--> HALF_OPEN
    HALF_OPEN --(probe succeeds)--> CLOSED    --(probe fails)--> OPEN, twice as long

Every ``now`` is in seconds of one monotonic clock. A permit belongs to the state it was given in:
the result of a call that started before the breaker opened can neither close nor re-open it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open and for how long.

    Attributes:
        window_s: calls older than this are forgotten, in steps of a tenth of it.
        min_calls: fewer calls in the window say nothing.
        failure_ratio: share of failures that opens.
        open_s, max_open_s: first and longest time open; doubled at every failed probe.
        probe_s: a probe without a result for this long is given up for lost.
    """

    window_s: float = 30.0
    min_calls: int = 20
    failure_ratio: float = 0.5
    open_s: float = 5.0
    max_open_s: float = 60.0
    probe_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call; to be given back with exactly one of the three results."""

    era: int
    probe: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """No call now."""

    retry_after_s: float


class Breaker:
    """See the module's table. Not shared between threads."""

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self._policy = policy or BreakerPolicy()
        self._state = State.CLOSED
        self._era = 0
        self._slots: deque[list[float]] = deque()  # [slot number, calls, failures]
        self._calls = 0
        self._failures = 0
        self._open_s = self._policy.open_s
        self._until = 0.0
        self.opened = 0
        """How often it has opened."""

    @property
    def state(self) -> State:
        """The state as of the last event; an open breaker whose time is over still says open."""
        return self._state

    @property
    def policy(self) -> BreakerPolicy:
        """As given."""
        return self._policy

    @property
    def open_s(self) -> float:
        """How long it is open for, or would be if it opened now."""
        return self._open_s

    def left_s(self, now: float) -> float:
        """Seconds until a call may go through; 0 when one may now."""
        return 0.0 if self._state is State.CLOSED else max(0.0, self._until - now)

    def probe_due(self, now: float) -> bool:
        """Whether the next permit would be for a probe."""
        return self._state is not State.CLOSED and now >= self._until

    def adopt_open(self, open_s: float, left_s: float, now: float) -> None:
        """Another breaker for the same service is open, for ``open_s`` of which ``left_s`` are to
        go; both are held to the policy's bound, whatever they say."""
        self._open_s = min(max(open_s, self._policy.open_s), self._policy.max_open_s)
        self._enter(State.OPEN)
        self._until = now + min(max(left_s, 0.0), self._policy.max_open_s)

    def adopt_closed(self) -> None:
        """Another breaker for the same service was closed by its probe."""
        self._open_s = self._policy.open_s
        self._enter(State.CLOSED)

    def admit(self, now: float) -> Permit | Refusal:
        """Ask for leave to make one call."""
        if self._state is State.CLOSED:
            return Permit(self._era, probe=False)
        if now < self._until:
            # While half open, this is the time after which the probe is given up for lost.
            return Refusal(self._until - now)
        self._enter(State.HALF_OPEN)
        self._until = now + self._policy.probe_s
        return Permit(self._era, probe=True)

    def success(self, permit: Permit, now: float) -> None:
        """The call got a proper answer, whatever it said."""
        if permit.era != self._era:
            return
        if self._state is State.HALF_OPEN:
            self._open_s = self._policy.open_s
            self._enter(State.CLOSED)
        else:
            self._count(now, failed=False)

    def failure(self, permit: Permit, now: float) -> None:
        """The call failed in a way that tells of ill health."""
        if permit.era != self._era:
            return
        if self._state is State.HALF_OPEN:
            self._open_s = min(self._open_s * 2, self._policy.max_open_s)
            self._open(now)
            return
        self._count(now, failed=True)
        enough = self._calls >= self._policy.min_calls
        if enough and self._failures >= self._policy.failure_ratio * self._calls:
            self._open(now)

    def abandon(self, permit: Permit, now: float) -> None:
        """The call ended without telling anything (cancelled, refused before it was sent)."""
        if permit.era == self._era and permit.probe:
            self._enter(State.OPEN)
            self._until = now

    def _open(self, now: float) -> None:
        self._enter(State.OPEN)
        self._until = now + self._open_s
        self.opened += 1

    def _enter(self, state: State) -> None:
        self._state = state
        self._era += 1
        self._slots.clear()
        self._calls = self._failures = 0

    def _count(self, now: float, *, failed: bool) -> None:
        slot = now // (self._policy.window_s / 10)
        while self._slots and self._slots[0][0] <= slot - 10:
            _, calls, failures = self._slots.popleft()
            self._calls -= int(calls)
            self._failures -= int(failures)
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append([slot, 0, 0])
        self._slots[-1][1] += 1
        self._slots[-1][2] += failed
        self._calls += 1
        self._failures += failed
