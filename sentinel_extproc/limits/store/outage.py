"""Whether the store is away, as a state machine: no clock, no I/O.

    UP   --(``failures`` in a row and no success for ``quiet_s``)--> DOWN
    UP   --(a probe fails, and no command succeeded for ``quiet_s``)--> DOWN
    DOWN --(a probe succeeds)--> UP

A first failure makes a probe due, so that with little traffic, too, an outage is known within a
second. Every ``now`` is in seconds of one monotonic clock.
"""

from __future__ import annotations


class Outage:
    """See the module's table.

    Args:
        failures: in a row, over all commands.
        quiet_s: a success as recent as this contradicts the failures: it is load, or one shard.
        probe_every_s: between two probes while DOWN.
    """

    def __init__(
        self, *, failures: int = 5, quiet_s: float = 0.2, probe_every_s: float = 0.25
    ) -> None:
        self._failures = failures
        self._quiet_s = quiet_s
        self.probe_every_s = probe_every_s
        self._in_a_row = 0
        self._last_success_s = float("-inf")
        self.down = False
        self.since_s = 0.0
        """When it went DOWN."""

    @property
    def suspected(self) -> bool:
        """Whether a probe should find out: a command failed and none has succeeded since."""
        return self.down or self._in_a_row > 0

    def succeeded(self, now_s: float) -> None:
        """A command was answered. Only a probe ends an outage: this may be a late answer."""
        self._in_a_row = 0
        self._last_success_s = now_s

    def failed(self, now_s: float) -> bool:
        """A command was not answered. Returns whether this is the moment it went DOWN."""
        self._in_a_row += 1
        return self._in_a_row >= self._failures and self._open(now_s)

    def probe_failed(self, now_s: float) -> bool:
        """Returns whether this is the moment it went DOWN."""
        self._in_a_row += 1
        return self._open(now_s)

    def probe_succeeded(self, now_s: float) -> bool:
        """Returns whether this is the moment it came UP again."""
        came_back, self.down = self.down, False
        self.succeeded(now_s)
        return came_back

    def _open(self, now_s: float) -> bool:
        if self.down or now_s - self._last_success_s < self._quiet_s:
            return False
        self.down, self.since_s = True, now_s
        return True
