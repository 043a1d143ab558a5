"""The bounded map, and the periods an entry goes through."""

from __future__ import annotations

import pytest

from sentinel_extproc.identity.cache import Freshness, LruMap, Periods, entry

PERIODS = Periods(fresh_s=60, stale_s=300, on_error_s=1800)


@pytest.mark.parametrize(
    ("age", "freshness"),
    [
        (0, Freshness.FRESH),
        (59.9, Freshness.FRESH),
        (60, Freshness.STALE),
        (299.9, Freshness.STALE),
        (300, Freshness.LAST_RESORT),
        (1799.9, Freshness.LAST_RESORT),
        (1800, Freshness.GONE),
    ],
)
def test_periods(age: float, freshness: Freshness) -> None:
    made = entry("v", PERIODS, now=1000, jitter=1)
    assert made.freshness(1000 + age) is freshness


def test_jitter_takes_up_to_half_of_the_fresh_period() -> None:
    assert entry("v", PERIODS, now=0, jitter=0).fresh_until == 30
    assert entry("v", PERIODS, now=0, jitter=0.5).fresh_until == 45


@pytest.mark.parametrize("expires_at", [-5, 0, 10, 100, 1000])
def test_nothing_outlives_its_token(expires_at: float) -> None:
    made = entry("v", PERIODS, now=0, jitter=1, expires_at=expires_at)
    assert made.freshness(expires_at) is Freshness.GONE
    assert made.freshness(1799) is Freshness.GONE


def test_a_fresh_period_longer_than_the_others_still_counts() -> None:
    made = entry("v", Periods(fresh_s=9000, stale_s=300, on_error_s=1800), now=0, jitter=1)
    assert made.freshness(8999) is Freshness.FRESH
    assert made.freshness(9000) is Freshness.GONE


def test_the_map_forgets_what_was_used_longest_ago() -> None:
    entries: LruMap[str, int] = LruMap(2)
    entries.put("a", 1)
    entries.put("b", 2)
    assert entries.get("a") == 1
    entries.put("c", 3)
    assert ("a" in entries, "b" in entries, "c" in entries) == (True, False, True)
    entries.put("a", 4)
    assert entries.get("a") == 4
    assert len(entries) == 2
    assert entries.evicted == 1


def test_removing() -> None:
    entries: LruMap[str, int] = LruMap(10)
    for number, letter in enumerate("abcd"):
        entries.put(letter, number)
    entries.remove("a")
    entries.remove("zz")
    assert entries.remove_where(lambda value: value > 1) == 2
    assert len(entries) == 1
    entries.clear()
    assert len(entries) == 0


def test_a_map_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="room"):
        LruMap(0)
