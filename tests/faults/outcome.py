"""What a test of a fault found, in numbers, for the table in docs/reliability.md."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

PROPERTY = "outcome"
"""Under which pytest carries it."""


@dataclass(slots=True)
class Outcome:
    """Filled by the test, which asserts all the same.

    Attributes:
        tried: requests, streams, commands: whatever the fault met.
        held: of those, how many came out as promised.
        lost: records lost or doubled; None where none are made.
        over: admitted beyond the stated bound; None where nothing is limited.
        clients: what clients saw: HTTP status, or a word.
        figures: anything else that was measured, by name.
    """

    tried: int = 0
    held: int = 0
    lost: int | None = None
    over: int | None = None
    clients: Counter[str] = field(default_factory=Counter)
    figures: dict[str, str] = field(default_factory=dict)

    def saw(self, status: int | str, *, held: bool = True) -> None:
        """One request ended so."""
        self.tried += 1
        self.held += held
        self.clients[str(status)] += 1

    def as_json(self) -> dict[str, Any]:
        """For the collector."""
        return {
            "tried": self.tried,
            "held": self.held,
            "lost": self.lost,
            "over": self.over,
            "clients": dict(self.clients),
            "figures": self.figures,
        }
