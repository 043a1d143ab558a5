"""Sealing loses nothing, doubles nothing, and mixes nobody's usage with another's."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.sealing import DAY_MS, MAX_SUM, batch_key, seal

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


@given(records, st.booleans())
def test_every_record_is_in_one_group_and_every_sum_is_exact(
    taken: list[UsageRecord], split: bool
) -> None:
    groups = seal(taken, ids(), split_metrics=split)
    by_id = {record.id: record for record in taken}
    assert Counter(i for group in groups for i in group.record_ids) == Counter(list(by_id))
    for group in groups:
        own = [by_id[record_id] for record_id in group.record_ids]
        sums = (
            sum(record.usage.input_tokens for record in own),
            sum(record.usage.output_tokens for record in own),
            sum(record.requests for record in own),
        )
        billed = (
            sum(item.input_tokens for item in group.items),
            sum(item.output_tokens for item in group.items),
            sum(item.requests for item in group.items),
        )
        assert billed == sums
        assert bool(group.items) == any(sums)
        for item in group.items:
            assert {record.external_id for record in own} == {item.external_id}
            assert {record.email for record in own} == {item.email}
            assert {r.model_served or r.model_requested for r in own} == {item.model}
            assert item.records == len(own)
            assert item.first_ms == min(record.occurred_at_ms for record in own)
            assert item.last_ms == max(record.occurred_at_ms for record in own)
            assert item.first_ms // DAY_MS == item.last_ms // DAY_MS
            assert max(item.input_tokens, item.output_tokens, item.requests) <= MAX_SUM
            metrics = (item.input_tokens, item.output_tokens, item.requests)
            assert not split or sum(map(bool, metrics)) == 1


@given(records, st.booleans())
def test_item_ids_are_unique_and_batches_known_by_their_composition(
    taken: list[UsageRecord], split: bool
) -> None:
    items = [item for group in seal(taken, ids(), split_metrics=split) for item in group.items]
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
    }
    assert len(seal(small, ids())) == len(keys)
