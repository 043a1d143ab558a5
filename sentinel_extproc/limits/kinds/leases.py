"""Holds by lease: summed per slot of 5 s, they count until that slot has passed.

So what a crash leaves is free again within 60 s, and a state holds 13 sums at most, whatever the
number of exchanges.
"""

from __future__ import annotations

LEASE_MS = 60_000
LEASE_SLOT_MS = 5_000

Leases = dict[int, int]
"""Amounts by slot."""


def new_lease(now: int) -> int:
    """The slot of a hold that is taken or renewed at ``now``."""
    return (now + LEASE_MS) // LEASE_SLOT_MS


def live(lease: int, now: int) -> bool:
    """Whether it still counts at ``now``."""
    return lease * LEASE_SLOT_MS > now


def running(leases: Leases, now: int) -> Leases:
    """Those that count at ``now``."""
    return {lease: held for lease, held in leases.items() if live(lease, now) and held > 0}


def move(leases: Leases, lease: int, amount: int) -> None:
    """Add to a slot; never below 0."""
    held = max(0, leases.get(lease, 0) + amount)
    if held or lease in leases:
        leases[lease] = held
