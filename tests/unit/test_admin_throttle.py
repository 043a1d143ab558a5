"""What an address may ask and guess, and that nothing grows with the number of addresses."""

from __future__ import annotations

import pytest

from sentinel_extproc.admin.throttle import (
    FORGOTTEN_AFTER_S,
    FREE,
    GuessThrottle,
    Pace,
    Rate,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_waits_double_up_to_a_minute_and_are_forgotten() -> None:
    clock = Clock()
    throttle = GuessThrottle(clock=clock)
    waits = []
    for _ in range(FREE + 9):
        throttle.failed("192.0.2.1")
        waits.append(throttle.wait_s("192.0.2.1"))
        clock.now += waits[-1]
        assert throttle.wait_s("192.0.2.1") == 0
    assert waits == [0] * (FREE - 1) + [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert throttle.wait_s("192.0.2.2") == 0
    clock.now += FORGOTTEN_AFTER_S
    throttle.failed("192.0.2.1")
    assert throttle.wait_s("192.0.2.1") == 0


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("local", "local", True),
    ],
)
def test_what_counts_as_one_address(first: str, second: str, *, same: bool) -> None:
    throttle = GuessThrottle(clock=Clock())
    for _ in range(FREE):
        throttle.failed(first)
    assert (throttle.wait_s(second) > 0) is same


def test_many_addresses_share_one_wait_and_forget_nobody_else() -> None:
    clock = Clock()
    throttle = GuessThrottle(max_sources=3, clock=clock)
    for number in range(3):
        throttle.failed(f"192.0.2.{number}")
    for number in range(10, 10 + FREE):
        throttle.failed(f"192.0.2.{number}")
    assert throttle.wait_s("192.0.2.99") == 1, "one of the many"
    assert throttle.wait_s("192.0.2.1") == 0
    clock.now += FORGOTTEN_AFTER_S
    throttle.failed("192.0.2.97")
    assert throttle.wait_s("192.0.2.99") == 0


EACH = Rate(burst=3, per_second=0.5)
MANY = Rate(burst=1000, per_second=1000.0)


def taken(pace: Pace, address: str, times: int) -> list[float]:
    return [pace.take(address) for _ in range(times)]


def test_an_address_has_a_burst_and_then_a_rate() -> None:
    clock = Clock()
    pace = Pace(each=EACH, in_all=MANY, clock=clock)
    assert taken(pace, "192.0.2.1", 4) == [0, 0, 0, 2]
    assert taken(pace, "192.0.2.1", 2) == [2, 2], "who is refused doesn't wait longer for it"
    assert pace.take("192.0.2.2") == 0
    clock.now += 2
    assert taken(pace, "192.0.2.1", 2) == [0, 2]
    clock.now += 3600
    assert taken(pace, "192.0.2.1", 4) == [0, 0, 0, 2], "no more is saved up than the burst"


def test_all_addresses_together_are_bounded_and_a_refusal_takes_nothing() -> None:
    clock = Clock()
    pace = Pace(each=EACH, in_all=Rate(burst=4, per_second=1.0), clock=clock)
    assert taken(pace, "192.0.2.1", 2) + taken(pace, "192.0.2.2", 2) == [0] * 4
    assert pace.take("192.0.2.3") == 1
    clock.now += 1
    assert taken(pace, "192.0.2.3", 2) == [0, 1]
    clock.now += 1
    assert pace.take("192.0.2.1") == 0, "its own share is as it was"


def test_addresses_beyond_the_remembered_share_one_bucket() -> None:
    clock = Clock()
    pace = Pace(each=EACH, in_all=MANY, max_sources=2, clock=clock)
    assert taken(pace, "192.0.2.1", 1) + taken(pace, "192.0.2.2", 1) == [0, 0]
    strangers = [pace.take(f"198.51.100.{number}") for number in range(100)]
    assert strangers == [0, 0, 0] + [2] * 97
    assert len(pace._sources) == 3
    assert taken(pace, "192.0.2.1", 3) == [0, 0, 2], "those that are remembered keep theirs"
    clock.now += 6
    assert pace.take("203.0.113.1") == 0, "what is full again is forgotten"
    assert len(pace._sources) == 1
