"""Ending a foreground program: Ctrl-C and SIGTERM as exceptions, and neither while tearing down."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(Exception):
    """SIGTERM arrived: not an error, we were asked to end."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM as an exception, so that everything is torn down; needs the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(_number: int, _frame: FrameType | None) -> None:
        ignore_signals()
        raise Terminated

    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """From here on things are being stopped, each within its time: a second Ctrl-C can't help."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
