"""Keeps the interpreter from stopping the event loop for long.

Two things of CPython's can: a thread that computes keeps the lock for a whole switch interval, and
the collector of cycles looks at everything when much has been allocated, which the decoding of one
large body does several times over.
"""

from __future__ import annotations

import gc
import sys

SWITCH_INTERVAL_S = 0.001
"""CPython's is 5 ms. Other threads are only those that count large bodies and write to the disk, so
that there is little to switch between."""

THRESHOLDS = (20_000, 10, 10)
"""Objects between two looks at the youngest; CPython's is 700 (2,000 from 3.13 on). It takes about
a millisecond to look at so many. What has no cycles is freed at once in any case."""


def keep_pauses_short() -> None:
    """Set this up, once everything that stays for good is there. Takes a few 10 ms."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*THRESHOLDS)
    gc.collect()
    gc.freeze()
