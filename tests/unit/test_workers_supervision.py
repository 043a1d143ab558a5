"""The supervisor's rules, one by one; tests/property has them in any order."""

from __future__ import annotations

import signal

from sentinel_extproc.workers.supervision import (
    FRONT,
    CloseSeat,
    End,
    Kill,
    Leave,
    Rules,
    Spawn,
    Supervision,
)

RULES = Rules(silent_s=10, start_s=60, drain_s=100, delay_s=0.5, most_delay_s=30, stable_s=60)


def running(seats: int = 2, *, front: bool = False) -> Supervision:
    """All have started at 0 and serve."""
    supervision = Supervision(seats, front=front, rules=RULES)
    for spawned in supervision.start(0.0):
        assert isinstance(spawned, Spawn)
        supervision.ready(spawned.serial, 0.0)
    return supervision


def test_what_fails_again_and_again_waits_twice_as_long_each_time() -> None:
    supervision, now, serial = running(), 0.0, 1
    waits = []
    for failure in range(1, 11):
        said = supervision.exited(serial, -signal.SIGSEGV, now)
        if failure == 1:
            assert said == [Spawn(0, 3)]  # at once
            serial = 3
            continue
        assert said == [CloseSeat(0)]
        assert supervision.lost(0) is (failure >= 5)
        began = now
        while not (said := supervision.tick(now)):
            supervision.heard(2, now)
            now += 0.25
        waits.append(now - began)
        assert isinstance(said[0], Spawn)
        serial = said[0].serial
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_whoever_served_long_enough_has_no_past() -> None:
    supervision = running()
    assert supervision.exited(1, 1, 1.0) == [Spawn(0, 3)]
    supervision.ready(3, 2.0)
    assert supervision.exited(3, 1, 63.0) == [Spawn(0, 4)]


def test_whoever_kept_failing_is_counted_on_again_once_it_has_served_long_enough() -> None:
    supervision, serial, now = running(), 1, 0.0
    while not supervision.lost(0):
        said = supervision.exited(serial, -signal.SIGKILL, now)
        while not isinstance(said[0] if said else None, Spawn):
            now += 1.0
            supervision.heard(2, now)
            said = supervision.tick(now)
        assert isinstance(said[0], Spawn)
        serial = said[0].serial
        supervision.ready(serial, now)
    for after in range(1, 60):
        supervision.heard(serial, now + after)
        supervision.heard(2, now + after)
        supervision.tick(now + after)
        assert supervision.lost(0)
    supervision.heard(serial, now + 60)
    supervision.heard(2, now + 60)
    assert supervision.tick(now + 60) == []
    assert not supervision.lost(0)
    assert supervision.failures(0) == 0
    assert supervision.exited(serial, -signal.SIGKILL, now + 61) == [Spawn(0, serial + 1)]


def test_if_one_cannot_start_in_the_first_place_all_end_with_its_code() -> None:
    supervision = Supervision(2, front=False, rules=RULES)
    supervision.start(0.0)
    assert supervision.exited(1, 2, 1.0) == [Leave(2, replaced=False)]
    assert supervision.exited(2, -signal.SIGTERM, 2.0) == [End(2)]


def test_later_it_is_only_that_one() -> None:
    supervision = running()
    assert supervision.exited(1, 1, 1.0) == [Spawn(0, 3)]
    assert supervision.exited(3, 1, 2.0) == [CloseSeat(0)]
    assert not supervision.stopping


def test_who_is_silent_is_killed_and_who_was_not_heard_because_nobody_listened_is_not() -> None:
    supervision = running()
    for now in range(1, 11):
        supervision.heard(2, float(now))
        assert supervision.tick(float(now)) == []
    assert supervision.tick(10.5) == [Kill(1, "silent")]
    assert supervision.tick(10.75) == []  # once
    assert supervision.exited(1, -signal.SIGKILL, 11.0) == [Spawn(0, 3)]
    assert supervision.restarts == {"silent": 1}
    assert supervision.tick(5000.0) == []


def test_replacing_begins_with_the_new_one_and_goes_on_when_the_old_one_has_ended() -> None:
    supervision = running()
    assert supervision.replace(1.0) == [Spawn(0, 3)]
    assert supervision.ready(3, 2.0) == [Leave(1, replaced=True)]
    assert supervision.tick(2.5) == []
    assert supervision.exited(1, 0, 3.0) == [Spawn(1, 4)]
    assert supervision.ready(4, 4.0) == [Leave(2, replaced=True)]
    assert supervision.exited(2, 0, 5.0) == []
    assert not supervision.rolling
    assert supervision.restarts == {"replaced": 2}


def test_replacing_stops_at_one_that_does_not_get_ready() -> None:
    supervision = running()
    supervision.replace(1.0)
    assert supervision.exited(3, 1, 2.0) == []
    assert not supervision.rolling
    assert supervision.serving(0) is not None
    assert supervision.failures(0) == 0


def test_the_admin_port_is_the_last_to_leave() -> None:
    supervision = running(front=True)
    assert supervision.stop(1.0) == [Leave(1, replaced=False), Leave(2, replaced=False)]
    assert supervision.exited(1, 0, 2.0) == []
    assert supervision.exited(2, 0, 3.0) == [Leave(3, replaced=False)]
    assert supervision.exited(3, 0, 3.0) == [End(0)]
    assert FRONT not in (0, 1)


def test_what_does_not_end_in_time_is_killed_and_told_by_the_exit_code() -> None:
    supervision = running(1)
    supervision.stop(0.0)
    now = 0.0
    while not (said := supervision.tick(now)):
        supervision.heard(1, now)
        now += 1.0
    assert now > RULES.drain_s
    assert said == [Kill(1, "slow_end")]
    assert supervision.exited(1, -signal.SIGKILL, now) == [End(1)]
