"""How long to wait before the next attempt. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential, with full jitter: uniform between 0 and the exponential bound, which spreads
    many clients better than jitter around it (Brooker, "Exponential Backoff And Jitter", 2015).

    Attributes:
        base_s: the bound of the first wait.
        cap_s: the largest bound.
    """

    base_s: float = 0.5
    cap_s: float = 60.0

    def wait_s(self, attempt: int, chance: float, *, retry_after_s: float | None = None) -> float:
        """Seconds before attempt number ``attempt + 1``.

        Args:
            attempt: failed attempts so far, at least 1.
            chance: 0 to 1, drawn at random.
            retry_after_s: what the other side asked for: never less than this.
        """
        # 2^30 is beyond any cap, and larger powers would be big integers.
        bound = min(self.cap_s, self.base_s * (1 << min(attempt - 1, 30)))
        wait = bound * chance
        if retry_after_s is not None:
            # Still spread, so that all who were told the same don't come back together.
            wait = max(wait, retry_after_s + self.base_s * chance)
        return wait
