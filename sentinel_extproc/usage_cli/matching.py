"""Records and the items that sum them, within chunks that were sealed together. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from sentinel_extproc.usage.record import Outcome, UsageRecord
from sentinel_extproc.usage.sealing import DAY_MS, SealedItem, SumKey, seal, sum_key


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item of the outbox; ``chunk`` is the number of the first record sealed with it."""

    item: SealedItem
    state: str
    chunk: int


class Items:
    """Finds the items of records.

    Args:
        stored: all items of the chunks that the records are of.
    """

    def __init__(self, stored: Iterable[StoredItem]) -> None:
        self._by_key: dict[SumKey, list[StoredItem]] = {}
        for one in stored:
            item = one.item
            key = (item.external_id, item.email, item.model, item.first_ms // DAY_MS)
            self._by_key.setdefault(key, []).append(one)

    def of(self, seq: int, record: UsageRecord) -> list[StoredItem]:
        """The items that sum a record: none, one, or one for each metric."""
        if record.outcome is Outcome.UNKNOWN:
            return []
        return [
            one
            for one in self._by_key.get(sum_key(record), ())
            if one.item.first_seq <= seq <= one.item.last_seq
        ]


def misfits(
    records: Sequence[tuple[int, UsageRecord]], stored: Sequence[StoredItem]
) -> Iterator[tuple[str, str]]:
    """What is wrong with a chunk's items: sealing its records again must give the same.

    Args:
        records: all of the chunk's, by number.

    Yields:
        The id of an item, or the records that none sums, and a detail.
    """
    kept = Counter(_amounts(one.item) for one in stored)
    sealed = [Counter(map(_amounts, seal(records, str, split_metrics=s))) for s in (False, True)]
    expected = max(sealed, key=lambda fresh: (fresh & kept).total())
    surplus = kept - expected
    for one in stored:
        if surplus[_amounts(one.item)] > 0:
            surplus[_amounts(one.item)] -= 1
            yield one.item.id, "its amounts aren't those of its records"
    if len(stored) < expected.total():
        yield f"records {records[0][0]} to {records[-1][0]}", "an item that summed some is missing"


def _amounts(item: SealedItem) -> SealedItem:
    return replace(item, id="")
