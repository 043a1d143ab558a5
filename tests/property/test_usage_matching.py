"""Sealing again proves a chunk's items: right ones pass, and every changed one is found."""

from __future__ import annotations

import dataclasses
import itertools

from hypothesis import assume, example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from sentinel_extproc.usage.sealing import DAY_MS, seal
from sentinel_extproc.usage_cli.matching import Items, StoredItem, misfits

records = st.lists(
    st.builds(
        UsageRecord,
        id=st.just("r"),
        occurred_at_ms=st.integers(0, 2 * DAY_MS),
        external_id=st.sampled_from(["ext-a", "ext-b"]),
        email=st.just("a@example.org"),
        endpoint=st.just("chat"),
        model_requested=st.sampled_from(["gpt-4o", "o3"]),
        model_served=st.sampled_from([None, "gpt-4o-2024-08-06"]),
        requests=st.just(1),
        usage=st.builds(
            TokenUsage, input_tokens=st.integers(0, 9), output_tokens=st.integers(0, 9)
        ),
        provenance=st.just(Provenance.COUNTED),
        outcome=st.sampled_from(Outcome),
    ),
    min_size=1,
    max_size=12,
)


def _used(output: int, *, served: str | None = "gpt-4o-2024-08-06") -> UsageRecord:
    return UsageRecord(
        id="r",
        occurred_at_ms=0,
        external_id="ext-a",
        email="a@example.org",
        endpoint="chat",
        model_requested="gpt-4o",
        model_served=served,
        requests=1,
        usage=TokenUsage(output_tokens=output),
        provenance=Provenance.COUNTED,
        outcome=Outcome.COMPLETED,
    )


def chunk(
    taken: list[UsageRecord], *, split: bool
) -> tuple[list[tuple[int, UsageRecord]], list[StoredItem]]:
    numbered = list(enumerate(taken, 1))
    counter = itertools.count()
    sealed = seal(numbered, lambda: f"item-{next(counter)}", split_metrics=split)
    return numbered, [StoredItem(item, "done", 1) for item in sealed]


@given(records, st.booleans())
def test_what_was_sealed_passes(taken: list[UsageRecord], split: bool) -> None:
    numbered, stored = chunk(taken, split=split)
    assert list(misfits(numbered, stored)) == []
    items = Items(stored)
    for number, record in numbered:
        owners = items.of(number, record)
        assert bool(owners) == (record.outcome is not Outcome.UNKNOWN)
        assert all(one.item.external_id == record.external_id for one in owners)


@example([_used(0), _used(0, served=None), _used(1)], False, 0, "output_tokens", -1)
@given(
    records,
    st.booleans(),
    st.integers(0),
    st.sampled_from(["input_tokens", "output_tokens", "requests", "records"]),
    st.integers(-3, 3).filter(bool),
)
def test_a_changed_item_is_found(
    taken: list[UsageRecord], split: bool, which: int, name: str, change: int
) -> None:
    numbered, stored = chunk(taken, split=split)
    assume(stored)
    place = which % len(stored)
    item = stored[place].item
    wrong = replace(item, **{name: getattr(item, name) + change})
    stored[place] = dataclasses.replace(stored[place], item=wrong)
    blamed = {about for about, _ in misfits(numbered, stored)}
    # An item of one metric that is given another's as well can pass for that other, and one of all
    # that is left with one of them for an item of that one; then others don't fit.
    left = sum(map(bool, (wrong.requests, wrong.input_tokens, wrong.output_tokens)))
    assert blamed if split or left < 2 else item.id in blamed


@given(records, st.booleans(), st.integers(0))
def test_a_missing_item_is_found(taken: list[UsageRecord], split: bool, which: int) -> None:
    numbered, stored = chunk(taken, split=split)
    assume(stored)
    del stored[which % len(stored)]
    assert list(misfits(numbered, stored))
