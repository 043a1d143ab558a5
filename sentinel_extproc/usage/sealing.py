"""Summing records into immutable items. Pure.

An item is what Zion bills and what its idempotency key stands for, so once made it never changes:
a retry sends the same sums under the same key. One user and model share an item within one UTC
day, because Zion's quotas start anew at 00:00 UTC and an item is charged to one period.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sentinel_extproc.usage.record import UsageRecord

DAY_MS = 24 * 60 * 60 * 1000
MAX_SUM = 2**53 - 1
"""Largest integer that every JSON reader takes exactly."""


@dataclass(frozen=True, slots=True)
class SealedItem:
    """A sum of usage, ready to be billed.

    Attributes:
        id: UUIDv7, text form; the idempotency key of the item for ever.
        group: shared by the items that bill the same records (one per metric, when split).
        records: how many records it sums.
        first_ms, last_ms: earliest and latest of them, milliseconds since the epoch, UTC.
    """

    id: str
    group: str
    external_id: str
    email: str
    model: str
    input_tokens: int
    output_tokens: int
    requests: int
    records: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class SealedGroup:
    """Records and the items that bill them; no items when there is nothing to bill."""

    record_ids: tuple[str, ...]
    items: tuple[SealedItem, ...]


class _Sum:
    __slots__ = ("first_ms", "ids", "input_tokens", "last_ms", "output_tokens", "requests")

    def __init__(self, record: UsageRecord) -> None:
        self.ids: list[str] = []
        self.input_tokens = self.output_tokens = self.requests = 0
        self.first_ms = self.last_ms = record.occurred_at_ms

    def fits(self, record: UsageRecord) -> bool:
        return (
            self.input_tokens + record.usage.input_tokens <= MAX_SUM
            and self.output_tokens + record.usage.output_tokens <= MAX_SUM
            and self.requests + record.requests <= MAX_SUM
        )

    def add(self, record: UsageRecord) -> None:
        self.ids.append(record.id)
        self.input_tokens += record.usage.input_tokens
        self.output_tokens += record.usage.output_tokens
        self.requests += record.requests
        self.first_ms = min(self.first_ms, record.occurred_at_ms)
        self.last_ms = max(self.last_ms, record.occurred_at_ms)


def seal(
    records: Iterable[UsageRecord], new_id: Callable[[], str], *, split_metrics: bool = False
) -> list[SealedGroup]:
    """Sum records per user, model and UTC day.

    Every record is in exactly one group, and over all items of a group the sums equal those of
    its records.

    Args:
        new_id: makes a unique id, sortable by time.
        split_metrics: one item per metric, for a Zion that acknowledges metrics one by one.
    """
    sums: dict[tuple[str, str, str, int], list[_Sum]] = {}
    for record in records:
        model = record.model_served or record.model_requested
        key = (record.external_id, record.email, model, record.occurred_at_ms // DAY_MS)
        of_key = sums.setdefault(key, [])
        if not of_key or not of_key[-1].fits(record):
            of_key.append(_Sum(record))
        of_key[-1].add(record)
    return [
        _group(key, total, new_id, split_metrics=split_metrics)
        for key, of_key in sums.items()
        for total in of_key
    ]


def _group(
    key: tuple[str, str, str, int], total: _Sum, new_id: Callable[[], str], *, split_metrics: bool
) -> SealedGroup:
    amounts = (total.input_tokens, total.output_tokens, total.requests)
    if split_metrics:
        shares = [
            tuple(amount if index == kept else 0 for index, amount in enumerate(amounts))
            for kept in range(3)
        ]
    else:
        shares = [amounts]
    billed = [share for share in shares if any(share)]
    ids = [new_id() for _ in billed]
    items = tuple(
        SealedItem(
            id=item_id,
            group=ids[0],
            external_id=key[0],
            email=key[1],
            model=key[2],
            input_tokens=share[0],
            output_tokens=share[1],
            requests=share[2],
            records=len(total.ids),
            first_ms=total.first_ms,
            last_ms=total.last_ms,
        )
        for item_id, share in zip(ids, billed, strict=True)
    )
    return SealedGroup(tuple(total.ids), items)


def batch_key(items: Sequence[SealedItem]) -> str:
    """The idempotency key of a batch of exactly these items in this order; 64 hex digits."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(item.id.encode())
        digest.update(b"\n")
    return digest.hexdigest()
