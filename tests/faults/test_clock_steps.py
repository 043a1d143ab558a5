"""Clocks that step by five seconds either way under load: the sidecar's, and Redis'."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import jwt
import pytest
import redis

from sentinel_extproc.demo.stack import Stack
from sentinel_extproc.demo.zion_standin import DEMO_USERS
from sentinel_extproc.demo.zion_state import ZionUser
from tests.faults.faked_clock import NAME, SteppingClock, library
from tests.faults.gateway import DONE, Client, clients, eventually, metric, misbilled, streams
from tests.faults.outcome import Outcome
from tests.faults.test_sidecar_faults import calling

StartStack = Callable[..., Stack]

STEP_S = 5
OFFSETS = (STEP_S, 0, -STEP_S, 0)
"""Each of them a step of five seconds from the one before."""

LIMIT, BURST, A_SECOND = 30, 10, 1.0
POLICY = f"""
rules:
  - match: {{user: ext-bo}}
    limits:  # a window longer than the test, all steps included: never one more than this
      - {{name: strict, unit: requests, kind: ring, limit: {LIMIT}, per: 20m}}
  - match: {{user: ext-cy}}
    limits:
      - {{name: rate, unit: requests, kind: bucket, limit: {A_SECOND}, burst: {BURST}, per: 1s}}
"""
CY = ZionUser("demo-cy", "u-cy", "ext-cy", "cy@example.com")


@pytest.fixture
def clock(work_dir: Path) -> SteppingClock:
    found = library()
    if found is None:
        pytest.skip(f"no {NAME}: `make faketime` installs it where apt can")
    return SteppingClock(found, work_dir / "clock")


def sidecars_clock(stack: Stack) -> float:
    """What it took for the time when it last said something."""
    last = stack.sidecar.process.log_tail(1)
    return datetime.fromisoformat(json.loads(last)["time"]).timestamp()


def redis_clock(stack: Stack) -> float:
    with redis.Redis.from_url(stack.redis.url) as client:
        seconds, micros = client.time()
        return float(seconds) + float(micros) / 1e6


def ending() -> dict[int, ZionUser]:
    """Users whose tokens end one after the other, by when: at any moment there is one that is good,
    though by a clock that is five seconds ahead it has ended."""
    secret = "a secret of Zion's that nobody here knows"
    users = {}
    for exp in range(int(time.time()), int(time.time()) + 300, STEP_S // 2):
        token = jwt.encode({"sub": f"u-{exp}", "exp": exp}, secret, algorithm="HS256")
        users[exp] = ZionUser(token, f"u-{exp}", f"ext-{exp}", f"{exp}@example.com")
    return users


def off_by(clock_s: float, offset_s: float) -> bool:
    return abs(clock_s - time.time() - offset_s) < 2


class Limited:
    """Somebody who asks for more than they may have.

    Args:
        counted: where each answer is noted; anything but a 200 or a 429 doesn't hold.
    """

    def __init__(self, client: Client, counted: Outcome) -> None:
        self._client = client
        self._counted = counted
        self.admitted = 0

    def call(self) -> bool:
        """Ask; whether it was admitted."""
        status = self._client.chat().status_code
        self.admitted += status == 200
        self._counted.saw(status, held=status in (200, 429))
        return status == 200


@pytest.mark.timeout(300)
@pytest.mark.parametrize("whose", ["the sidecar's", "Redis'"])
def test_a_clock_that_steps_under_load_costs_nobody_anything(
    run_stack: StartStack, work_dir: Path, clock: SteppingClock, outcome: Outcome, whose: str
) -> None:
    of_redis = whose == "Redis'"
    policy = work_dir / "policy.yaml"
    policy.write_text(POLICY)
    brief = ending()
    stack = run_stack(
        chunk_delay_s=0.05,
        settings={"SENTINEL_LIMITS__POLICY_FILE": str(policy)}
        | ({} if of_redis else dict(clock.environment)),
        redis_environment=clock.environment if of_redis else {},
        users=[*DEMO_USERS, CY, *brief.values()],
    )
    now = redis_clock if of_redis else sidecars_clock
    began = time.monotonic()
    nearly_over = 0
    with (
        clients(stack, "demo-ada", "demo-bo", "demo-guest", CY.token) as (ada, bo, guest, cy),
        clients(stack, *(user.token for user in brief.values())) as of_brief,
    ):
        by_end = dict(zip(brief, of_brief, strict=True))
        strict, rate = Limited(bo, outcome), Limited(cy, outcome)
        for limited in (strict, rate):
            while limited.call():
                pass
        with streams(ada, 10, tokens=200) as running, calling(guest, outcome, threads=2):
            for offset in OFFSETS:
                clock.set(offset)
                # Each call has the sidecar write down the time.
                eventually(lambda: served(guest, outcome) and off_by(now(stack), offset))  # noqa: B023
                left = {exp: one for exp, one in by_end.items() if 1 < exp - time.time() < STEP_S}
                nearly_over += len(left)
                for one in left.values():
                    served(one, outcome)
                for _ in range(10):
                    strict.call()
                    rate.call()
            for answer in running:
                whole = DONE in answer.read()
                outcome.saw("200, whole" if whole else "200, cut", held=whole)
        outcome.lost = misbilled(stack)
        # No time-out, lease or pause hangs on a clock that was set.
        eventually(lambda: metric(stack, "sentinel_exchanges_live") == 0)
        eventually(lambda: metric(stack, "sentinel_ledger_intents") == 0)
        assert served(guest, outcome)
    # A bucket goes by Redis' clock: what that was set forward flows in, and nothing else.
    forward_s = 2 * STEP_S if of_redis else 0
    flown = (time.monotonic() - began + forward_s) * A_SECOND
    outcome.over = max(0, strict.admitted - LIMIT) + max(0, rate.admitted - int(BURST + flown))
    assert outcome.held == outcome.tried, outcome.clients
    assert nearly_over >= len(OFFSETS)
    assert strict.admitted == LIMIT
    assert (outcome.lost, outcome.over) == (0, 0), (rate.admitted, flown)


def served(client: Client, outcome: Outcome) -> bool:
    """Whether a call is answered with 200."""
    status = client.chat().status_code
    outcome.saw(status, held=status == 200)
    return status == 200
