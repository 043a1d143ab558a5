"""When requests are due. Pure: seconds from the beginning, whatever the answers are."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator


def arrivals(
    *, rate: float, ramp_s: float, duration_s: float, dice: random.Random | None
) -> Iterator[float]:
    """Moments of the open model, ascending.

    The rate rises evenly from 0 during the ramp. Moments are those at which the number of requests
    that should have been sent passes the next step: 1, or with dice a step of a Poisson process.

    Args:
        rate: requests per second after the ramp.
        dice: for a Poisson process; None: evenly spread.
    """
    sum_, ramped = 0.0, rate * ramp_s / 2
    while True:
        sum_ += 1.0 if dice is None else dice.expovariate(1.0)
        if sum_ < ramped:
            due = math.sqrt(2 * ramp_s * sum_ / rate)
        else:
            due = ramp_s + (sum_ - ramped) / rate
        if due >= duration_s:
            return
        yield due


def entrances(*, users: int, ramp_s: float) -> Iterator[float]:
    """When each user of the closed model begins, evenly over the ramp."""
    return (ramp_s * n / users for n in range(users))
