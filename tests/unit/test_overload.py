"""Admission and shedding: bounds hold, shedding begins where stated and ends by itself."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
from contextlib import ExitStack
from pathlib import Path

import pytest

from sentinel_extproc.config.sections.serving import OverloadSettings
from sentinel_extproc.errors import Overloaded, TooManyAtOnce
from sentinel_extproc.overload.admission import LEAST_BEHIND, REASONS, Admission
from sentinel_extproc.overload.descriptors import descriptors_left
from sentinel_extproc.overload.memory import container_bytes, resident_bytes
from sentinel_extproc.overload.shedder import (
    LAG_SAMPLES,
    LEAST_LIVE,
    LEAST_SHARE,
    MOST_WAIT_S,
    Bounds,
    Reason,
    Sample,
    Shedder,
)
from sentinel_extproc.overload.watch import Watch
from sentinel_extproc.overload_parts import admission_of

MIB = 1 << 20
BOUNDS = Bounds(lag_s=0.5, commit_s=2.0, memory_bytes=100 * MIB)


def sample(
    lag_s: float = 0.0, memory: int | None = 0, commit_s: float = 0.0, live: int = 100
) -> Sample:
    return Sample(lag_s, memory, commit_s, live)


def fed(*samples: Sample) -> Shedder:
    shedder = Shedder(BOUNDS)
    for each in samples:
        shedder.observe(each)
    return shedder


def test_one_long_pause_is_no_overload() -> None:
    late = sample(lag_s=30.0)
    shedder = fed(*[late] * (LAG_SAMPLES - 1), sample())
    assert (shedder.share, shedder.reasons) == (1.0, frozenset())
    assert all(shedder.admits() for _ in range(100))


def test_a_lag_that_lasts_halves_what_is_let_in() -> None:
    shedder = fed(*[sample(lag_s=0.5)] * LAG_SAMPLES)
    assert (shedder.share, shedder.reasons) == (0.5, frozenset({Reason.LOOP_LAG}))
    assert [shedder.admits() for _ in range(6)] == [False, True] * 3


def test_it_holds_between_the_two_bounds_and_recovers_below_both() -> None:
    shedder = fed(*[sample(lag_s=0.6)] * (LAG_SAMPLES + 2))
    share = shedder.share
    for _ in range(20):  # still uneasy: neither more nor less
        shedder.observe(sample(lag_s=0.4))
    assert (shedder.share, shedder.reasons) == (share, frozenset({Reason.LOOP_LAG}))
    shedder.observe(sample(lag_s=0.1))
    assert shedder.share == pytest.approx(share + 0.1)
    assert shedder.reasons == frozenset()


def test_a_slow_disk_sheds_before_its_queue_is_full() -> None:
    shedder = fed(sample(commit_s=1.9))
    assert shedder.share == 1.0
    shedder.observe(sample(commit_s=2.0))
    assert (shedder.share, shedder.reasons) == (0.5, frozenset({Reason.OUTBOX}))


def test_memory_that_stays_in_use_after_the_load_is_gone_sheds_nobody() -> None:
    shedder = fed(*[sample(memory=100 * MIB, live=1000)] * 3)
    assert (shedder.share, shedder.reasons) == (0.125, frozenset({Reason.MEMORY}))
    for _ in range(10):  # half of them have ended, and the process kept what they had used
        shedder.observe(sample(memory=99 * MIB, live=500))
    assert (shedder.share, shedder.reasons) == (1.0, frozenset())
    shedder.observe(sample(memory=99 * MIB, live=501))
    assert shedder.share == 0.5


def test_memory_that_still_grows_allows_half_as_many_again() -> None:
    shedder = fed(sample(memory=100 * MIB, live=1000), sample(memory=102 * MIB, live=400))
    assert shedder.share == 0.25
    shedder.observe(sample(memory=102 * MIB, live=200))
    assert shedder.share == 0.35


def test_a_few_exchanges_are_never_too_much_memory() -> None:
    shedder = fed(*[sample(memory=500 * MIB, live=LEAST_LIVE)] * 20)
    assert shedder.share == 1.0
    assert fed(*[sample(memory=None)] * 20).share == 1.0


def test_at_the_worst_a_little_is_let_in_and_the_others_wait_longer() -> None:
    shedder = fed(*[sample(commit_s=60.0)] * 50)
    assert shedder.share == LEAST_SHARE
    waits = set()
    admitted = 0
    for _ in range(640):
        if shedder.admits():
            admitted += 1
        else:
            waits.add(shedder.retry_after_s)
    assert admitted == 10
    assert waits == set(range(1, MOST_WAIT_S + 1))


def test_what_is_over_the_bound_is_turned_away_and_counted() -> None:
    admission = Admission(most=2, most_per_user=10)
    admission.enter(2)
    with pytest.raises(Overloaded) as refused:
        admission.enter(3)
    error = refused.value
    assert (error.status, error.code) == (503, "overloaded")
    assert int(error.headers()["retry-after"]) >= 1
    assert admission.turned_away == {"exchanges": 1}
    admission.enter(2)


def test_who_waited_too_long_is_turned_away_while_others_wait_behind() -> None:
    admission = Admission(most=100, most_wait_s=0.5)
    admission.enter(1, 0.49, 1000)
    admission.enter(1, 9.0, LEAST_BEHIND - 1)
    with pytest.raises(Overloaded) as refused:
        admission.enter(1, 0.5, LEAST_BEHIND)
    assert (refused.value.status, refused.value.code) == (503, "overloaded")
    waits = {admission.too_late().headers()["retry-after"] for _ in range(20)}
    assert waits == {"1", "2", "3", "4", "5"}
    assert admission.turned_away == {"queue": 21}


def test_who_waited_twice_as_long_is_not_even_read() -> None:
    admission = Admission(most=100, most_wait_s=0.5)
    assert not admission.is_hopeless(0.99, 1000)
    assert not admission.is_hopeless(9.0, LEAST_BEHIND - 1)
    assert admission.turned_away == {}
    assert admission.is_hopeless(1.0, LEAST_BEHIND)
    assert admission.turned_away == {"queue": 1}
    watching = Admission(most=100, most_wait_s=0.5, ends_unread=False)
    assert not watching.is_hopeless(9.0, 1000), "an error of ours would be a fault of the watcher's"


def test_each_user_has_a_bound_and_gets_room_when_one_ends() -> None:
    admission = Admission(most=100, most_per_user=2)
    admission.take("1", "ada")
    admission.take("2", "ada")
    admission.take("2", "ada")  # authenticated again
    with pytest.raises(TooManyAtOnce) as refused:
        admission.take("3", "ada")
    assert (refused.value.status, refused.value.code) == (429, "too_many_at_once")
    assert "retry-after" in refused.value.headers()
    admission.take("4", "bo")
    assert (admission.busiest, admission.turned_away) == (2, {"user": 1})
    admission.leave("3")  # which was never counted
    admission.leave("1")
    admission.leave("1")
    admission.take("3", "ada")
    assert (admission.of("ada"), admission.of("bo")) == (2, 1)


def test_it_says_which_signal_turned_a_request_away() -> None:
    admission = Admission(most=100, shedder=fed(*[sample(commit_s=9.0)] * 8))
    with pytest.raises(Overloaded):
        admission.enter(1)
    assert admission.turned_away == {"outbox": 1}
    admission.shedder.observe(sample())
    with pytest.raises(Overloaded):
        admission.enter(1)
    assert admission.turned_away["recovering"] == 1
    assert set(admission.turned_away) <= set(REASONS)


def test_the_beginning_and_the_end_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    shedder = Shedder(BOUNDS)
    busy = [0.0]
    watch = Watch(shedder, commit_s=lambda: busy[0], live=lambda: 7, memory=lambda: 5)
    with caplog.at_level(logging.WARNING, logger="sentinel.overload"):
        watch(0.0)
        assert caplog.messages == []
        busy[0] = 3.0
        for _ in range(4):
            watch(0.0)
        busy[0] = 0.0
        for _ in range(20):
            watch(0.0)
    assert caplog.messages == ["shedding", "shedding_ended"]
    told = vars(caplog.records[0])
    assert (told["reasons"], told["commit_s"], told["live"]) == (["outbox"], 3.0, 7)


def test_a_lack_of_descriptors_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    left = [True]
    watch = Watch(
        Shedder(BOUNDS), commit_s=lambda: 0.0, live=lambda: 0, descriptors=lambda: left[0]
    )
    with caplog.at_level(logging.WARNING, logger="sentinel.overload"):
        for now in (True, False, False, False, True, True):
            left[0] = now
            watch(0.0)
    assert caplog.messages == ["descriptors_exhausted", "descriptors_left_again"]


def test_descriptors_are_tried_out() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert descriptors_left()
    with ExitStack() as taken:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.callback(os.close, os.dup(0))
            assert not descriptors_left()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors_left()


def test_the_memory_of_this_process_and_of_its_container(tmp_path: Path) -> None:
    used = resident_bytes()
    assert used is not None
    assert used > MIB
    limited, unlimited, huge = tmp_path / "max", tmp_path / "none", tmp_path / "v1"
    limited.write_text("536870912\n")
    unlimited.write_text("max\n")
    huge.write_text("9223372036854771712\n")
    assert container_bytes((tmp_path / "absent", unlimited, huge)) is None
    assert container_bytes((unlimited, limited)) == 512 * MIB


def test_bounds_follow_from_the_server_and_the_container_unless_they_are_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert admission_of(OverloadSettings(), max_streams=10_000).most == 5000
    assert admission_of(OverloadSettings(), max_streams=1).most == 1
    limit = 400 * MIB
    monkeypatch.setattr("sentinel_extproc.overload_parts.container_bytes", lambda: limit)
    monkeypatch.setattr("sentinel_extproc.overload_parts.resident_bytes", lambda: 100 * MIB)
    parted = admission_of(OverloadSettings(), max_streams=10, workers=4).shedder
    parted.observe(sample(memory=155 * MIB))  # 100 that all share, and a quarter of the other 240
    assert not parted.reasons
    parted.observe(sample(memory=161 * MIB))
    assert parted.reasons == frozenset({Reason.MEMORY})
    settings = OverloadSettings(max_exchanges=7, max_exchanges_per_user=3)
    made = admission_of(settings, max_streams=10_000)
    assert (made.most, made.most_per_user) == (7, 3)
