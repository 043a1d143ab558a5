"""Guessing admin tokens: what an address may try, and that nothing grows with addresses."""

from __future__ import annotations

import pytest

from sentinel_extproc.admin.page.throttle import FORGOTTEN_AFTER_S, FREE, LoginThrottle


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_waits_double_up_to_a_minute_and_are_forgotten() -> None:
    clock = Clock()
    throttle = LoginThrottle(clock=clock)
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


def test_the_right_token_begins_anew() -> None:
    throttle = LoginThrottle(clock=Clock())
    for _ in range(FREE - 1):
        throttle.failed("192.0.2.1")
    throttle.succeeded("192.0.2.1")
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
    throttle = LoginThrottle(clock=Clock())
    for _ in range(FREE):
        throttle.failed(first)
    assert (throttle.wait_s(second) > 0) is same


def test_many_addresses_share_one_wait_and_forget_nobody_else() -> None:
    clock = Clock()
    throttle = LoginThrottle(max_sources=3, clock=clock)
    for number in range(3):
        throttle.failed(f"192.0.2.{number}")
    for number in range(10, 10 + FREE):
        throttle.failed(f"192.0.2.{number}")
    assert throttle.wait_s("192.0.2.99") == 1, "one of the many"
    throttle.succeeded("192.0.2.98")
    assert throttle.wait_s("192.0.2.99") == 1, "who has the token frees itself alone"
    assert throttle.wait_s("192.0.2.1") == 0
    clock.now += FORGOTTEN_AFTER_S
    throttle.failed("192.0.2.97")
    assert throttle.wait_s("192.0.2.99") == 0
