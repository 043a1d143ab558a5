"""Keeps serving free of memory that only the start, or other commands, have a use for."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """Have what is imported meanwhile find that these packages aren't installed.

    For those that a library takes if they are there and does without if not. One that has been
    imported already is left as it is.
    """
    hidden = [name for name in packages if name not in sys.modules]
    # None is how the import system says so; the type of ``sys.modules`` doesn't know.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def give_back() -> None:
    """Return freed memory that the allocator keeps: some 10 MiB once the encodings are built.

    Takes a few milliseconds. Does nothing where the C library has no such call (musl).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
