"""Takes the samples for the shedder, and tells when shedding, or a lack of file descriptors,
begins and ends."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sentinel_extproc.overload.descriptors import descriptors_left
from sentinel_extproc.overload.memory import resident_bytes
from sentinel_extproc.overload.shedder import Sample, Shedder

log = logging.getLogger("sentinel.overload")


class Watch:
    """Called with each sample of the event loop's lag, in seconds.

    Args:
        commit_s: for how long the ledger's commit has been running.
        live: exchanges that have a stream.
    """

    def __init__(
        self,
        shedder: Shedder,
        *,
        commit_s: Callable[[], float],
        live: Callable[[], int],
        memory: Callable[[], int | None] = resident_bytes,
        descriptors: Callable[[], bool] = descriptors_left,
    ) -> None:
        self._shedder = shedder
        self._commit_s = commit_s
        self._live = live
        self._memory = memory
        self._descriptors = descriptors
        self._shedding = False
        self._short = False

    def __call__(self, lag_s: float) -> None:
        """Take a sample."""
        sample = Sample(lag_s, self._memory(), self._commit_s(), self._live())
        self._shedder.observe(sample)
        self._tell_descriptors(not self._descriptors())
        shedding = self._shedder.share < 1.0
        if shedding is self._shedding:
            return
        self._shedding = shedding
        if shedding:
            log.error(
                "shedding",
                extra={
                    "reasons": sorted(self._shedder.reasons),
                    "loop_lag_s": round(sample.lag_s, 3),
                    "commit_s": round(sample.commit_s, 3),
                    "memory_bytes": sample.memory_bytes,
                    "live": sample.live,
                },
            )
        else:
            log.warning("shedding_ended", extra={"live": sample.live})

    def _tell_descriptors(self, short: bool) -> None:
        """Whoever connects then is turned away by the event loop, which says nothing of it."""
        if short is self._short:
            return
        self._short = short
        if short:
            log.error(
                "descriptors_exhausted", extra={"reason": "no connection or file can be opened"}
            )
        else:
            log.warning("descriptors_left_again")
