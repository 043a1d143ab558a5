"""How long revocations take until they hold at this replica. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EffectTimes:
    """Sums for telemetry, and extremes for a person.

    Attributes:
        count: revocations that were applied here, by a message or because an epoch had moved.
        seconds: sum of the times from each revocation to its application.
        last_s, longest_s: the latest and the longest of them.
    """

    count: int = 0
    seconds: float = 0.0
    last_s: float = 0.0
    longest_s: float = 0.0

    def applied(self, revoked_at_ms: float, now_s: float) -> None:
        """A revocation holds here from now on.

        Args:
            revoked_at_ms: when it was made, in ms since the epoch; by another machine's clock, so
                that a difference of clocks is part of what is measured, down to 0.
            now_s: seconds since the epoch.
        """
        self.last_s = max(0.0, now_s - revoked_at_ms / 1000)
        self.count += 1
        self.seconds += self.last_s
        self.longest_s = max(self.longest_s, self.last_s)
