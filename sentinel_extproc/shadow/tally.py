"""Counts of what enforcing would have done. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sentinel_extproc.telemetry.facts import ExchangeFinished, ExchangeNoted, Fact

OTHERS = "(others)"
"""Stands for the users beyond the bound."""

UNKNOWN = "(unknown)"
"""Stands for whoever wasn't authenticated."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is counted apart.

    Attributes:
        reason: the error's code; empty: let through.
        limit: the limit that had no room; empty for other reasons.
        status: what the client would have got; 200: let through.
    """

    user: str
    reason: str = ""
    limit: str = ""
    status: int = 200


@dataclass(frozen=True, slots=True)
class Count:
    """How often, and when first and last, in milliseconds since the epoch."""

    requests: int
    first_ms: int
    last_ms: int

    def __add__(self, other: Count) -> Count:
        return Count(
            self.requests + other.requests,
            min(self.first_ms, other.first_ms),
            max(self.last_ms, other.last_ms),
        )


class Tally:
    """Takes facts, counts them.

    Args:
        max_rows: keys that are told apart; those of users beyond count under ``OTHERS``.
    """

    def __init__(self, *, max_rows: int) -> None:
        self._max_rows = max_rows
        self._known: set[Key] = set()
        self._counts: dict[Key, Count] = {}

    def know(self, keys: set[Key]) -> None:
        """Tell it of the rows that there are already."""
        self._known |= keys

    def take(self, fact: Fact) -> None:
        """Count a fact, if it is one of those that are counted."""
        match fact:
            case ExchangeNoted():
                # One whose answer would have been cut is let through too, and finishes.
                reason = f"{fact.code}" if not fact.cut else "answer_cut"
                key = Key(fact.user or UNKNOWN, reason, fact.limit or "", fact.status)
                self._add(key, fact.at_ms)
            case ExchangeFinished(record):
                self._add(Key(record.external_id), record.occurred_at_ms)
            case _:
                pass

    def drain(self) -> dict[Key, Count]:
        """What was counted since the last time."""
        counts, self._counts = self._counts, {}
        return counts

    def give_back(self, counts: dict[Key, Count]) -> None:
        """Count again what could not be kept."""
        for key, count in counts.items():
            known = self._counts.get(key)
            self._counts[key] = count if known is None else known + count

    def _add(self, key: Key, at_ms: int) -> None:
        if key not in self._known:
            if len(self._known) >= self._max_rows:
                key = replace(key, user=OTHERS)
            self._known.add(key)
        self.give_back({key: Count(1, at_ms, at_ms)})
