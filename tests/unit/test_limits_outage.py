from __future__ import annotations

import pytest

from sentinel_extproc.limits.limit import Kind, Limit, Period
from sentinel_extproc.limits.model import Unit
from sentinel_extproc.limits.store.outage import Outage
from sentinel_extproc.limits.store.shares import local_share
from sentinel_extproc.limits.store.slots import SLOTS, slot_of, tag_of_every_slot, tag_of_slot


def test_a_busy_store_that_dies_is_down_at_the_fifth_failure_after_quiet() -> None:
    outage = Outage(failures=5, quiet_s=0.2)
    outage.succeeded(10.0)
    assert [outage.failed(10.1) for _ in range(20)] == [False] * 20
    assert outage.failed(10.25)
    assert outage.down
    assert not outage.failed(10.3), "it is down already"
    assert outage.since_s == 10.25


def test_one_failure_asks_for_a_probe_whose_failure_is_enough() -> None:
    outage = Outage()
    assert (outage.suspected, outage.down) == (False, False)
    assert not outage.failed(50.0)
    assert (outage.suspected, outage.down) == (True, False)
    assert outage.probe_failed(50.1)
    assert (outage.suspected, outage.down) == (True, True)


def test_successes_contradict_a_failing_probe() -> None:
    outage = Outage(quiet_s=0.2)
    outage.failed(1.0)
    outage.succeeded(1.05)
    assert not outage.suspected
    assert not outage.probe_failed(1.1)
    assert not outage.down


def test_only_a_probe_ends_an_outage() -> None:
    outage = Outage()
    outage.probe_failed(1.0)
    outage.succeeded(1.1)
    assert (outage.suspected, outage.down) == (True, True)
    assert not outage.probe_failed(2.0)
    assert outage.probe_succeeded(3.0)
    assert (outage.suspected, outage.down) == (False, False)
    assert not outage.probe_succeeded(3.1), "it was up already"


def bucket(capacity: int, burst: int | None = None) -> Limit:
    return Limit(name="b", unit=Unit.TOTAL, kind=Kind.BUCKET, capacity=capacity, burst=burst)


def ring(capacity: int) -> Limit:
    return Limit(name="r", unit=Unit.TOTAL, kind=Kind.RING, capacity=capacity)


def month(capacity: int) -> Limit:
    return Limit(
        name="m", unit=Unit.TOTAL, kind=Kind.CALENDAR, capacity=capacity, period=Period.MONTH
    )


@pytest.mark.parametrize(
    ("limit", "replicas", "left", "room"),
    [
        (ring(100), 1, None, 50),
        (ring(100), 3, None, 16),
        (ring(100), 3, 7, 16),
        (ring(100), 0, None, 50),
        (ring(1), 1, None, None),
        (ring(0), 1, None, 0),
        (bucket(100), 4, None, 12),
        (bucket(100, burst=10), 4, None, 1),
        (bucket(100, burst=7), 4, None, None),
        (bucket(1, burst=100), 4, None, None),
        (month(1_000), 2, None, 250),
        (month(1_000), 2, 40, 10),
        (month(1_000), 2, 3, None),
        (month(1_000), 2, 0, None),
    ],
    ids=str,
)
def test_all_replicas_together_admit_at_most_half(
    limit: Limit, replicas: int, left: int | None, room: int | None
) -> None:
    share = local_share(limit, replicas, left)
    assert (None if share is None else share.room) == room


def test_every_slot_of_a_cluster_has_a_tag_that_falls_into_it() -> None:
    tags = tag_of_every_slot()
    assert len(tags) == SLOTS == 16_384
    assert all(slot_of(tag) == slot for slot, tag in enumerate(tags))
    assert slot_of(tag_of_slot("some user")) == slot_of("some user")
    # From the Redis Cluster specification: the CRC-16 of "123456789" is 0x31C3.
    assert slot_of("123456789") == 0x31C3 % SLOTS
