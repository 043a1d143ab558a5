"""Sealing loses nothing, doubles nothing, and mixes nobody's usage with another's."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.sealing import DAY_MS, MAX_SUM, SealedItem, batch_key, seal

amounts = st.integers(0, 10_000) | st.integers(MAX_SUM - 5, MAX_SUM)
records = st.lists(
    st.builds(
        UsageRecord,
        id=st.uuids().map(str),
        occurred_at_ms=st.integers(0, 3 * DAY_MS),
        external_id=st.sampled_from(["ext-a", "ext-b"]),
        email=st.sampled_from(["a@example.org", "b@example.org"]),
        endpoint=st.just("chat"),
        model_requested=st.sampled_from(["gpt-4o", "o3"]),
        model_served=st.sampled_from([None, "gpt-4o-2024-08-06"]),
        requests=st.integers(0, 2),
        usage=st.builds(TokenUsage, input_tokens=amounts, output_tokens=amounts),
        provenance=st.sampled_from(Provenance),
        outcome=st.sampled_from(Outcome),
    ),
    max_size=30,
    unique_by=lambda record: record.id,
)


def ids() -> Any:
    counter = itertools.count()
    return lambda: f"item-{next(counter)}"


def numbered(taken: list[UsageRecord]) -> list[tuple[int, UsageRecord]]:
    return list(enumerate(taken, 1))


def own(item: SealedItem, taken: list[UsageRecord]) -> list[UsageRecord]:
    """The records of an item, by the rule that the view ``record_items`` goes by."""
    return [
        record
        for seq, record in numbered(taken)
        if item.first_seq <= seq <= item.last_seq
        and record.outcome is not Outcome.UNKNOWN
        and (record.external_id, record.email) == (item.external_id, item.email)
        and (record.model_served or record.model_requested) == item.model
        and record.occurred_at_ms // DAY_MS == item.first_ms // DAY_MS
    ]


@given(records, st.booleans())
def test_every_record_is_billed_once_and_every_sum_is_exact(
    taken: list[UsageRecord], split: bool
) -> None:
    items = seal(numbered(taken), ids(), split_metrics=split)
    billed: Counter[tuple[str, str]] = Counter()
    for item in items:
        records_of = own(item, taken)
        assert item.records == len(records_of)
        sums = {
            "input": sum(record.usage.input_tokens for record in records_of),
            "output": sum(record.usage.output_tokens for record in records_of),
            "requests": sum(record.requests for record in records_of),
        }
        metrics = {
            "input": item.input_tokens,
            "output": item.output_tokens,
            "requests": item.requests,
        }
        assert max(metrics.values()) <= MAX_SUM
        shown = {name: amount for name, amount in metrics.items() if amount}
        assert shown
        assert not split or len(shown) == 1
        assert all(sums[name] == amount for name, amount in shown.items())
        assert split or metrics == sums
        assert item.first_ms == min(record.occurred_at_ms for record in records_of)
        assert item.last_ms == max(record.occurred_at_ms for record in records_of)
        assert item.first_ms // DAY_MS == item.last_ms // DAY_MS
        billed.update((record.id, name) for record in records_of for name in shown)
    for record in taken:
        amounts = {
            "input": record.usage.input_tokens,
            "output": record.usage.output_tokens,
            "requests": record.requests,
        }
        for name, amount in amounts.items():
            times = billed[record.id, name]
            assert times <= 1
            if record.outcome is Outcome.UNKNOWN:
                assert times == 0
            elif amount:
                assert times == 1


@given(records, st.booleans())
def test_item_ids_are_unique_and_batches_known_by_their_composition(
    taken: list[UsageRecord], split: bool
) -> None:
    items = seal(numbered(taken), ids(), split_metrics=split)
    assert len({item.id for item in items}) == len(items)
    assert batch_key(items) == batch_key(list(items))
    if len(items) > 1:
        assert batch_key(items) != batch_key(items[::-1])
        assert batch_key(items) != batch_key(items[1:])


@given(records)
def test_few_items_per_user_model_and_day(taken: list[UsageRecord]) -> None:
    small = [record for record in taken if max(record.usage.input_tokens, 0) <= 10_000]
    small = [record for record in small if record.usage.output_tokens <= 10_000]
    keys = {
        (r.external_id, r.email, r.model_served or r.model_requested, r.occurred_at_ms // DAY_MS)
        for r in small
        if r.outcome is not Outcome.UNKNOWN and (r.requests or r.usage != TokenUsage())
    }
    assert len(seal(numbered(small), ids())) == len(keys)
