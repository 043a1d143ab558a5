"""Summing records into immutable items. Pure.

An item is what Zion bills and what its idempotency key stands for, so once made it never changes:
a retry sends the same sums under the same key. One user and model share an item within one UTC
day, because Zion's quotas start anew at 00:00 UTC and an item is charged to one period.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from sentinel_extproc.usage.record import Outcome, UsageRecord

DAY_MS = 24 * 60 * 60 * 1000
MAX_SUM = 2**53 - 1
"""Largest integer that every JSON reader takes exactly."""


class SealedItem(msgspec.Struct, frozen=True, gc=False):
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


SumKey = tuple[str, str, str, int]
"""External id, email, model and UTC day: what the records of an item have in common."""

Line = tuple[str, str, str, int, int, int, int, int, int]
"""What sealing needs of a record: its ``SumKey``, its number, when it occurred (milliseconds since
the epoch), input tokens, output tokens and requests."""


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
    """As ``seal_lines``, of whole records with their numbers, which ascend; those of unknown
    outcome are never billed."""
    lines: list[Line] = [
        (
            *sum_key(record),
            seq,
            record.occurred_at_ms,
            record.usage.input_tokens,
            record.usage.output_tokens,
            record.requests,
        )
        for seq, record in records
        if record.outcome is not Outcome.UNKNOWN
    ]
    return seal_lines(lines, new_id, split_metrics=split_metrics)


def seal_lines(
    lines: Iterable[Line], new_id: Callable[[], str], *, split_metrics: bool = False
) -> list[SealedItem]:
    """Sum records per user, model and UTC day.

    The sums over all items equal those of the records. What comes to nothing is in no item.

    Args:
        lines: of records that are to be billed, by number.
        new_id: makes a unique id, sortable by time.
        split_metrics: one item per metric, for a Zion that acknowledges metrics one by one.
    """
    by_key: dict[SumKey, list[Line]] = {}
    for line in lines:
        by_key.setdefault(line[:4], []).append(line)
    return [
        item
        for key, group in by_key.items()
        for part in _exact_parts(group)
        for item in _items(key, part, new_id, split_metrics=split_metrics)
    ]


def _exact_parts(lines: Sequence[Line]) -> list[Sequence[Line]]:
    """Runs of lines whose sums stay within ``MAX_SUM``: nearly always one."""
    *_, given, made, requests = zip(*lines, strict=True)
    if max(sum(given), sum(made), sum(requests)) <= MAX_SUM:
        return [lines]
    parts: list[list[Line]] = [[]]
    sums = [0, 0, 0]
    for line in lines:
        sums = [so_far + amount for so_far, amount in zip(sums, line[6:], strict=True)]
        if max(sums) > MAX_SUM and parts[-1]:
            parts.append([])
            sums = list(line[6:])
        parts[-1].append(line)
    return [*parts]


def _items(
    key: SumKey, lines: Sequence[Line], new_id: Callable[[], str], *, split_metrics: bool
) -> Iterator[SealedItem]:
    # Column by column, so that the sums are made in C.
    *_, seqs, times, given, made, requests = zip(*lines, strict=True)
    amounts = (sum(given), sum(made), sum(requests))
    shares = [amounts]
    if split_metrics:
        shares = [(amounts[0], 0, 0), (0, amounts[1], 0), (0, 0, amounts[2])]
    for share in shares:
        if share != (0, 0, 0):
            yield SealedItem(
                id=new_id(),
                external_id=key[0],
                email=key[1],
                model=key[2],
                input_tokens=share[0],
                output_tokens=share[1],
                requests=share[2],
                records=len(lines),
                first_ms=min(times),
                last_ms=max(times),
                first_seq=seqs[0],
                last_seq=seqs[-1],
            )


def batch_key(items: Sequence[SealedItem]) -> str:
    """The idempotency key of a batch of exactly these items in this order; 64 hex digits."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(item.id.encode())
        digest.update(b"\n")
    return digest.hexdigest()
