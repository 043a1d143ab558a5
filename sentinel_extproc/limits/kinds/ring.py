"""A strict cap in any window, counted in whole slots.

A slot is 1/60 of the window and counts until the window has left all of it, so that what is counted
always covers more than the window: the current slot and the 60 before it.
"""

from __future__ import annotations

from dataclasses import dataclass

SLOTS = 60

RingHold = tuple[int, tuple[tuple[int, int], ...]]
"""Total, and (slot, amount) of each part that the window may still contain, oldest first."""


def _gone(slot: int, period: int) -> int:
    """When ``slot`` has left the window, ms."""
    return -(-(slot + SLOTS + 1) * period // SLOTS)


@dataclass(slots=True)
class Ring:
    """Attributes: ``counts`` by slot number, none of them zero or out of the window."""

    capacity: int
    period: int
    now: int
    head: int
    counts: dict[int, int]

    @classmethod
    def opened(cls, old: Ring | None, capacity: int, period: int, now: int) -> Ring:
        """The state at ``now`` under this definition, which may differ from the old one."""
        head = now * SLOTS // period
        if old is None:
            return cls(capacity, period, now, head, {})
        if old.period != period or old.head - head > SLOTS:
            # What was counted can't be placed any more: it counts as if it were now.
            total = sum(old.counts.values())
            return cls(capacity, period, now, head, {head: total} if total else {})
        head = max(head, old.head)
        counts = {slot: count for slot, count in old.counts.items() if slot >= head - SLOTS}
        return cls(capacity, period, now, head, counts)

    def room(self) -> int:
        """See ``State.room``."""
        return self.capacity - sum(self.counts.values())

    def lacking(self, hold: object, target: int) -> int:
        """See ``State.lacking``."""
        return target - _hold(hold)[0]

    def take(self, hold: object | None, amount: int) -> RingHold:
        """See ``State.take``."""
        self._add(self.head, amount)
        total, parts = (0, ()) if hold is None else _hold(hold)
        live = {slot: part for slot, part in parts if slot >= self.head - SLOTS}
        live[self.head] = live.get(self.head, 0) + amount
        return total + amount, tuple(live.items())

    def settle(self, hold: object, actual: int) -> None:
        """Hands back to the stamped slots only, latest first; use beyond the hold is use now."""
        total, parts = _hold(hold)
        back = total - actual
        if back < 0:
            self._add(self.head, -back)
        for slot, amount in reversed(parts if back > 0 else ()):
            part = min(back, amount, self.counts.get(slot, 0))
            self._add(slot, -part)
            back -= part

    def charge(self, actual: int, at_ms: int) -> None:
        """See ``State.charge``: counts in its own slot, until that has left the window."""
        slot = min(self.head, at_ms * SLOTS // self.period)
        if slot >= self.head - SLOTS:
            self._add(slot, actual)

    def reset_ms(self) -> int:
        """See ``State.reset_ms``."""
        return _gone(max(self.counts), self.period) - self.now if self.counts else 0

    def wait_ms(self, amount: int) -> int:
        """See ``State.wait_ms``."""
        room, wanted = self.room(), min(amount, self.capacity)
        for slot in sorted(self.counts):
            room += self.counts[slot]
            if room >= wanted:
                return max(1, _gone(slot, self.period) - self.now)
        return max(1, _gone(self.head, self.period) - self.now)

    def expires_ms(self) -> int:
        """See ``State.expires_ms``: when every slot has left the window."""
        return _gone(self.head, self.period) + 1000

    def _add(self, slot: int, amount: int) -> None:
        count = self.counts.get(slot, 0) + amount
        if count:
            self.counts[slot] = count
        else:
            self.counts.pop(slot, None)


def _hold(hold: object) -> RingHold:
    assert isinstance(hold, tuple)  # noqa: S101
    return hold
