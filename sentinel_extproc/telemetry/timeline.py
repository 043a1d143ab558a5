"""When what of one exchange happened. Written by the driver, read by adapters at its end."""

from __future__ import annotations

from time import perf_counter_ns

from msgspec import Struct, field

PHASES = ("authenticate", "read", "count", "reserve", "record", "settle")
"""What an exchange spends time on here, in order; ``settle`` is behind the answer, nobody waits."""


class PhaseTimed(Struct, frozen=True, gc=False):
    """One phase; times as of ``Timeline``.

    Attributes:
        name: one of ``PHASES``.
        error: code of the error that it ended with.
    """

    name: str
    began_ns: int
    ended_ns: int
    error: str | None = None


class Timeline(Struct, gc=False):
    """Times in nanoseconds of ``time.perf_counter_ns``, which never jumps.

    Attributes:
        replied_ns: when the last reply was written.
        waited_ns: how long Envoy has waited for replies, each from its message's being read here
            until it was written.
        request_ns: the share of that until the request was decided; 0 before.
        messages: how many came.
    """

    began_ns: int = field(default_factory=perf_counter_ns)
    phases: list[PhaseTimed] = field(default_factory=list)
    replied_ns: int = 0
    waited_ns: int = 0
    request_ns: int = 0
    messages: int = 0

    def phase(self, name: str, began_ns: int, error: str | None = None) -> None:
        """A phase that began then is over."""
        self.phases.append(PhaseTimed(name, began_ns, perf_counter_ns(), error))
