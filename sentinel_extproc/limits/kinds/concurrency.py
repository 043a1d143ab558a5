"""So many exchanges at once, in leased holds.

An exchange counts from its reserve to its settlement. While it runs its lease is renewed, and a
hold whose lease ran out meanwhile counts again: whatever runs is counted, so that there may be more
than the limit allows, and nobody else is let in until there are fewer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .leases import Leases, live, move, new_lease, running

LEAST_WAIT_MS, LONGEST_WAIT_MS = 1_000, 60_000
"""Of a refused request. What a crash left is free again after the longer one."""

KEEP_MS = 600_000
"""How long it is remembered how long exchanges take."""

PARTS = 8
"""The newest exchange counts so much of the mean: 1/8."""

ConcurrencyHold = tuple[int, int, int]
"""When it was taken, ms; lease slot, amount."""


@dataclass(slots=True)
class Concurrency:
    """Attributes: ``usual`` is how long exchanges take, a moving mean in ms; 0 while unknown."""

    capacity: int
    now: int
    usual: int = 0
    leases: Leases = field(default_factory=dict)

    @classmethod
    def opened(cls, old: Concurrency | None, capacity: int, now: int) -> Concurrency:
        """The state at ``now`` under this definition, which may differ from the old one."""
        if old is None:
            return cls(capacity, now)
        return cls(capacity, now, old.usual, running(old.leases, now))

    def room(self) -> int:
        """See ``State.room``; negative when more run than may."""
        return self.capacity - sum(self.leases.values())

    def lacking(self, hold: object, target: int) -> int:  # noqa: ARG002 - other kinds need it
        """See ``State.lacking``: however an answer grows, it is one exchange."""
        return 0

    def take(self, hold: object | None, amount: int) -> ConcurrencyHold:
        """See ``State.take``; also moves an older hold to a new lease, whether or not its own one
        ran out."""
        since, lease = self.now, new_lease(self.now)
        if hold is not None:
            since, old_lease, amount = _hold(hold)
            if live(old_lease, self.now):
                move(self.leases, old_lease, -amount)
        move(self.leases, lease, amount)
        return since, lease, amount

    def settle(self, hold: object, actual: int) -> None:
        """See ``State.settle``: the exchange is over. What was only handed back took no time."""
        since, lease, amount = _hold(hold)
        if live(lease, self.now):
            move(self.leases, lease, -amount)
        if actual > 0 and since <= self.now:
            took = max(1, self.now - since)
            self.usual = self.usual + (took - self.usual) // PARTS if self.usual else took

    def charge(self, actual: int, at_ms: int) -> None:
        """See ``State.charge``: what is over takes no place."""

    def reset_ms(self) -> int:
        """See ``State.reset_ms``: nobody knows when those that run will end."""
        return -1 if self.room() < self.capacity else 0

    def wait_ms(self, amount: int) -> int:
        """See ``State.wait_ms``; a guess: of n that run and usually take t, one ends every t/n."""
        if amount > self.capacity:
            return -1
        room = self.room()
        expected = self.usual * (amount - room) // max(1, self.capacity - room)
        return max(LEAST_WAIT_MS, min(expected, LONGEST_WAIT_MS))

    def expires_ms(self) -> int:
        """See ``State.expires_ms``: when nothing is held, and what is usual is forgotten."""
        return self.now + KEEP_MS


def _hold(hold: object) -> ConcurrencyHold:
    assert isinstance(hold, tuple)  # noqa: S101
    return hold
