"""How much one replica may admit by itself while the store is away. Pure.

Each of n replicas gets 1/(2n) of a limit, so that all of them together admit at most half of it on
top of what was admitted before; of a calendar quota, 1/(2n) of what was last known to be left.
"""

from __future__ import annotations

from msgspec.structs import replace

from ..limit import Kind, Limit


def local_share(limit: Limit, replicas: int, left: int | None) -> Limit | None:
    """The limit for this replica alone; None when its share is less than one.

    Args:
        left: of a calendar quota, what was last known to remain; None when unknown.
    """
    parts = 2 * max(1, replicas)
    whole = limit.capacity if limit.kind is not Kind.CALENDAR or left is None else left
    capacity = whole // parts
    if limit.capacity == 0:
        return limit
    if capacity == 0:
        return None
    if limit.burst is None:
        return replace(limit, capacity=capacity)
    burst = limit.burst // parts
    return replace(limit, capacity=capacity, burst=burst) if burst else None
