"""Which items go first when not all can: pure.

Settlements of old doubts before all else, for somebody may be looking at a wrong balance; then
fresh usage, so that balances stay right for most while an outage is worked off; then the backlog.
A tenth is the backlog's own, whatever else there is: nothing waits for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

FRESH_S = 60.0
"""Usage of the last minute is fresh."""


class Urgency(StrEnum):
    """Classes of items, most urgent first."""

    SETTLEMENT = "settlement"
    """Refused before, and due again."""
    FRESH = "fresh"
    BACKLOG = "backlog"


@dataclass(slots=True)
class Shares:
    """Divides places between the classes.

    Attributes:
        floor: share of the places that the backlog gets as long as it has items, 0 to 1.
        owed: places that it is owed from before, as fractions of one; under 1 between calls
            unless there was no place to give.
    """

    floor: float = 0.1
    owed: float = 0.0

    def divide(self, places: int, waiting: Mapping[Urgency, int]) -> dict[Urgency, int]:
        """How many of each class to take: all places are used if enough is waiting.

        Args:
            waiting: items of each class; numbers beyond ``places`` make no difference.
        """
        backlog = waiting.get(Urgency.BACKLOG, 0)
        kept = 0
        if backlog:
            self.owed += self.floor * places
            kept = min(int(self.owed), backlog, places)
        taken = dict.fromkeys(Urgency, 0)
        left = places - kept
        for urgency in (Urgency.SETTLEMENT, Urgency.FRESH):
            taken[urgency] = min(left, waiting.get(urgency, 0))
            left -= taken[urgency]
        taken[Urgency.BACKLOG] = kept + min(left, backlog - kept)
        # What it got beyond its due counts as paid; with none left nothing is owed.
        more = backlog > taken[Urgency.BACKLOG]
        self.owed = max(0.0, self.owed - taken[Urgency.BACKLOG]) if more else 0.0
        return taken
