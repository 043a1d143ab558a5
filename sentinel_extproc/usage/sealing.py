"""Summing records into immutable items. Pure.

An item is what Zion bills and what its idempotency key stands for, so once made it never changes:
a retry sends the same sums under the same key. One user and model share an item within one UTC
day, because Zion's quotas start anew at 00:00 UTC and an item is charged to one period.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sentinel_extproc.usage.record import Outcome, UsageRecord

DAY_MS = 24 * 60 * 60 * 1000
MAX_SUM = 2**53 - 1
"""Largest integer that every JSON reader takes exactly."""


@dataclass(frozen=True, slots=True)
class SealedItem:
    """A sum of usage, ready to be billed.

    Attributes:
        id: UUIDv7, text form; the idempotency key of the item for ever.
        records: how many records it sums.
        first_ms, last_ms: earliest and latest of them, milliseconds since the epoch, UTC.
        first_seq, last_seq: between them, both included, are the numbers of its records: all that
            have its user, email, model and UTC day. Items that share them bill one metric each.
    """

    id: str
    external_id: str
    email: str
    model: str
    input_tokens: int
    output_tokens: int
    requests: int
    records: int
    first_ms: int
    last_ms: int
    first_seq: int
    last_seq: int


@dataclass(slots=True)
class _Sum:
    first_ms: int
    last_ms: int
    first_seq: int
    last_seq: int
    records: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0

    def fits(self, record: UsageRecord) -> bool:
        return (
            self.input_tokens + record.usage.input_tokens <= MAX_SUM
            and self.output_tokens + record.usage.output_tokens <= MAX_SUM
            and self.requests + record.requests <= MAX_SUM
        )

    def add(self, seq: int, record: UsageRecord) -> None:
        self.records += 1
        self.input_tokens += record.usage.input_tokens
        self.output_tokens += record.usage.output_tokens
        self.requests += record.requests
        self.first_ms = min(self.first_ms, record.occurred_at_ms)
        self.last_ms = max(self.last_ms, record.occurred_at_ms)
        self.last_seq = seq


SumKey = tuple[str, str, str, int]
"""External id, email, model and UTC day: what the records of an item have in common."""


def sum_key(record: UsageRecord) -> SumKey:
    """What decides which records share an item."""
    model = record.model_served or record.model_requested
    return record.external_id, record.email, model, record.occurred_at_ms // DAY_MS


def seal(
    records: Iterable[tuple[int, UsageRecord]],
    new_id: Callable[[], str],
    *,
    split_metrics: bool = False,
) -> list[SealedItem]:
    """Sum records per user, model and UTC day.

    The sums over all items equal those of the records, but for records of unknown outcome, which
    are never billed. What comes to nothing is in no item.

    Args:
        records: with their numbers, which ascend.
        new_id: makes a unique id, sortable by time.
        split_metrics: one item per metric, for a Zion that acknowledges metrics one by one.
    """
    sums: dict[SumKey, list[_Sum]] = {}
    for seq, record in records:
        if record.outcome is Outcome.UNKNOWN:
            continue
        at_ms = record.occurred_at_ms
        of_key = sums.setdefault(sum_key(record), [])
        if not of_key or not of_key[-1].fits(record):
            of_key.append(_Sum(at_ms, at_ms, seq, seq))
        of_key[-1].add(seq, record)
    return [
        item
        for key, of_key in sums.items()
        for total in of_key
        for item in _items(key, total, new_id, split_metrics=split_metrics)
    ]


def _items(
    key: SumKey, total: _Sum, new_id: Callable[[], str], *, split_metrics: bool
) -> Iterator[SealedItem]:
    amounts = (total.input_tokens, total.output_tokens, total.requests)
    if split_metrics:
        shares = [
            tuple(amount if index == kept else 0 for index, amount in enumerate(amounts))
            for kept in range(3)
        ]
    else:
        shares = [amounts]
    for share in shares:
        if any(share):
            yield SealedItem(
                id=new_id(),
                external_id=key[0],
                email=key[1],
                model=key[2],
                input_tokens=share[0],
                output_tokens=share[1],
                requests=share[2],
                records=total.records,
                first_ms=total.first_ms,
                last_ms=total.last_ms,
                first_seq=total.first_seq,
                last_seq=total.last_seq,
            )


def batch_key(items: Sequence[SealedItem]) -> str:
    """The idempotency key of a batch of exactly these items in this order; 64 hex digits."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(item.id.encode())
        digest.update(b"\n")
    return digest.hexdigest()
