"""The ledgers of a sidecar with several workers, read as one: each has a file of its own."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentinel_extproc.usage.files import outbox_paths
from sentinel_extproc.usage.item_queue import HeldItem
from sentinel_extproc.usage_cli.columns import Entry
from sentinel_extproc.usage_cli.filters import Filter
from sentinel_extproc.usage_cli.ledger_file import LedgerFile

_OF_ONE = ("sidecar", "name", "head")
"""Facts that aren't numbers of anything."""


def beside(outbox: Path) -> list[Path]:
    """The outbox and those of further workers; one that isn't there is left to the reader."""
    return outbox_paths(outbox) or [outbox]


def entries(outbox: Path, wanted: Filter, *, newest_first: bool = False) -> Iterator[Entry]:
    """See ``LedgerFile.entries``; of all of them by the time at which the exchanges began."""
    each = [LedgerFile(path).entries(wanted, newest_first=newest_first) for path in beside(outbox)]
    if len(each) == 1:
        return each[0]
    return heapq.merge(*each, key=lambda one: one.record.occurred_at_ms, reverse=newest_first)


def held(outbox: Path, user: str | None = None) -> Iterator[HeldItem]:
    """See ``LedgerFile.held``."""
    for path in beside(outbox):
        yield from LedgerFile(path).held(user)


def status(outbox: Path) -> dict[str, Any]:
    """See ``LedgerFile.status``; of several the sums, and below ``outboxes`` each of them."""
    paths = beside(outbox)
    each = [LedgerFile(path).status() for path in paths]
    if len(each) == 1:
        return each[0]
    return _sums(each) | {
        "outboxes": [{"outbox": path.name, **one} for path, one in zip(paths, each, strict=True)]
    }


def _sums(each: Sequence[Mapping[str, str | int | None]]) -> dict[str, Any]:
    names = [name for name in each[0] if name not in _OF_ONE]
    known = {name: [one[name] for one in each if one.get(name) is not None] for name in names}
    return {
        name: sum(v for v in values if isinstance(v, int))
        if any(isinstance(v, int) for v in values)
        else min((str(v) for v in values), default=None)
        for name, values in known.items()
    }
