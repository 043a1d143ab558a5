"""What several workers say, put together."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from sentinel_extproc.admin.fleet_words import FleetState, fleet_state
from sentinel_extproc.admin.inner import PICTURE, Shown, inner_routes, read_shown
from sentinel_extproc.admin.page.tables import TOP, view
from sentinel_extproc.exchange.running import Running
from sentinel_extproc.telemetry import past
from sentinel_extproc.telemetry.across import (
    growing,
    merged,
)
from sentinel_extproc.telemetry.live import (
    GENERATIONS,
    KEEP,
    SAMPLES,
    STEP_S,
    Heavy,
    Live,
    Past,
    Sample,
)
from sentinel_extproc.workers.merging import (
    each_worker,
    heads_of_all,
    not_ready,
    one_effect,
    one_picture,
    one_status,
    one_whoami,
)
from sentinel_extproc.workers.shelf import Member, Roster
from tests.fleet_fakes import FULL_STATUS, LEDGER, STATUS, Clock, lines, process, served


def test_counts_are_added_up_and_gauges_are_what_they_say() -> None:
    shown = lines(merged([process(3, 0.05, oldest=7), process(4, 0.5, down=1, oldest=5)]))
    assert shown['x_requests_total{code="ok"}'] == 7
    assert shown['x_lag_seconds_bucket{le="0.1"}'] == 1
    assert shown['x_lag_seconds_bucket{le="+Inf"}'] == 2
    assert shown["x_lag_seconds_sum"] == pytest.approx(0.55)
    assert shown["x_live"] == 7
    assert shown["x_down"] == 1
    assert shown["x_oldest"] == 5


def test_one_process_is_shown_as_it_is() -> None:
    one = process(3, 0.05)
    assert merged([one]) == one


def test_of_those_that_ended_only_what_grows_is_kept() -> None:
    shown = lines(merged([growing(process(3, 0.05)), process(4, 0.5)]))
    assert shown['x_requests_total{code="ok"}'] == 7
    assert shown["x_live"] == 4


def running(number: int, started_ms: int) -> Running:
    return Running(f"x{number}", started_ms, "ada", "chat", "gpt\ud800", True, 8)


async def shown_by(live: Live, *now: Running) -> Shown:
    """What a worker tells the admin port of all, by way of bytes."""
    _, route = inner_routes(list, lambda: Shown(live.past(), list(now), len(now)))
    app = Starlette(routes=[route])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return read_shown((await client.get(PICTURE)).content)


async def test_a_page_shows_all_workers_and_what_those_that_ended_served() -> None:
    clock = Clock()
    ended, first, second = Live(clock), Live(clock), Live(clock)
    served(ended, "ada", 100, 1)
    served(ended, "eve\ud800", 7, 0)
    left = past.unpack(past.pack(ended.past()))
    clock.now += STEP_S
    served(first, "ada", 10, 2)
    served(second, "bo", 20, 3)
    clock.now += STEP_S
    told = [await shown_by(first, running(1, 5000)), await shown_by(second, running(2, 4000))]
    all_of_it = past.together([left, *(one.past for one in told)])
    one = one_picture(told, all_of_it, STATUS, at_s=1000.0)
    assert one.samples[-3:] == [Sample(2, 0, 107, 1), Sample(2, 0, 30, 5), Sample()]
    assert one.users == [
        Heavy("ada", 115, 2, 0),
        Heavy("bo", 24, 1, 0),
        Heavy("eve?", 8, 1, 0),
    ]
    assert [(each.id, each.model) for each in one.running] == [("x2", "gpt?"), ("x1", "gpt?")]
    assert one.running_in_all == 2
    assert view(one).tiles["admitted"] == "4"


def test_what_ended_processes_remember_is_forgotten_in_time_and_bounded() -> None:
    clock = Clock()
    known = past.together([])
    for killed in range(400):
        live = Live(clock)
        served(live, f"user-{killed}", 1, 0)
        known = past.unpack(past.pack(past.together([known, live.past()])))
        clock.now += STEP_S
        assert len(known.samples) == SAMPLES
        assert len(known.generations) <= GENERATIONS
        assert all(len(one.users) <= KEEP for one in known.generations)
    assert sum(sample[0] for sample in known.samples) == SAMPLES
    idle = Live(clock)
    clock.now += STEP_S * SAMPLES
    both = past.together([known, idle.past()])
    assert not any(any(sample) for sample in both.samples)
    assert past.top(both, "users", TOP) == []


def test_of_two_memories_of_one_process_the_later_counts() -> None:
    clock = Clock()
    live = Live(clock)
    served(live, "ada", 1, 0)
    before = live.past()
    served(live, "ada", 1, 0)
    more = live.past()
    assert past.later(before, more) is past.later(more, before) is more
    clock.now += STEP_S * SAMPLES
    assert past.later(more, after := live.past()) is after


def test_each_worker_is_told_of_also_the_one_that_is_down() -> None:
    told = Roster(
        seats=2,
        members=(Member(7, 0, 107, "serving"),),
        lost=(1,),
        failures=(0, 6),
        restarts={"died": 6},
        last=9,
    )
    head = {"sidecar": "s0", "seq": 4, "hash": "ab"}
    statuses = {7: {"exchanges": {"live": 3}, "ledger": {"heads": [head]}}}
    workers = each_worker(told, statuses)
    assert workers == [
        {
            "worker": 0,
            "pid": 107,
            "state": "serving",
            "failing": False,
            "failures": 0,
            "answers": True,
            "live": 3,
        },
        {
            "worker": 1,
            "pid": None,
            "state": "down",
            "failing": True,
            "failures": 6,
            "answers": False,
            "live": None,
        },
    ]
    assert heads_of_all(told, statuses) == [{"worker": 0, **head}]
    state = fleet_state({"workers": workers, "restarts": told.restarts})
    assert state == FleetState(
        "worker 1 keeps failing", "bad", "failed 6 times in a row; 1 of 2 serve; 6 restarts"
    )


def worker(number: int, state: str = "serving", **more: Any) -> dict[str, Any]:
    told = {"worker": number, "state": state, "failing": False, "failures": 0, "answers": True}
    return told | more


@pytest.mark.parametrize(
    ("workers", "word", "mood"),
    [
        ([worker(0), worker(1)], "all 2 serve", "ok"),
        ([worker(0), worker(1), worker(1, "leaving")], "all 2 serve", "ok"),
        ([worker(0), worker(1, "starting")], "1 of 2 serve", "warn"),
        ([worker(0), worker(1, answers=False)], "worker 1 doesn't answer", "warn"),
        (
            [worker(0, failing=True, failures=5), worker(1, failing=True, failures=6)],
            "workers 0, 1 keep failing",
            "bad",
        ),
    ],
)
def test_how_all_of_them_are_doing_in_words(
    workers: list[dict[str, Any]], word: str, mood: str
) -> None:
    state = fleet_state({"workers": workers, "restarts": {}})
    assert state is not None
    assert (state.word, state.mood) == (word, mood)


def test_one_process_has_no_workers_to_tell_of() -> None:
    assert fleet_state(STATUS) is None


@pytest.mark.parametrize(
    ("answers", "lost", "reason"),
    [
        ({0: {}, 1: {}}, [], None),
        ({0: {}, 1: None}, [], None),
        ({0: {}, 1: {"outbox": "full"}}, [], None),
        ({0: {"redis": "away"}, 1: None}, [], "worker 0: redis: away; worker 1: no answer"),
        ({0: {}, 1: None}, [1], "worker 1 keeps failing"),
        ({0: {}, 1: {}, 2: None}, [2, 0], "workers 0, 2 keep failing"),
        ({}, [], "no worker has started"),
    ],
)
def test_ready_is_who_has_one_that_is_and_none_that_keeps_failing(
    answers: dict[int, dict[str, str] | None], lost: list[int], reason: str | None
) -> None:
    assert not_ready(answers, lost) == reason


def test_a_revocation_holds_everywhere_only_if_it_does_for_all() -> None:
    one = {"everywhere": True, "replicas": 4, "streams": 1}
    other = {"everywhere": False, "replicas": None, "streams": 2}
    effect = one_effect([one, other])
    assert (effect.everywhere, effect.replicas, effect.streams) == (False, 4, 3)


def test_whoever_remembers_a_token_best_has_the_word() -> None:
    told: list[dict[str, Any]] = [
        {"revoked": False, "remembered": None, "principal": None},
        {"revoked": None, "remembered": "process", "principal": {"external_id": "ada"}},
    ]
    assert one_whoami(told)["principal"] == {"external_id": "ada"}
    assert one_whoami(told)["revoked"] is None
    assert one_whoami([*told, {"revoked": True, "remembered": None}])["revoked"] is True


@pytest.mark.parametrize(("refused", "word"), [(0, "not refused"), (1, "refused")])
def test_our_key_is_refused_if_one_worker_knows_so(refused: int, word: str) -> None:
    one = {**FULL_STATUS, "ledger": LEDGER}
    knowing = {**one, "zion": {**STATUS["zion"], "own_key": "refused"}}
    told = one_status([one, knowing if refused else one])
    assert told["zion"] == {**STATUS["zion"], "own_key": word}


def test_the_page_says_that_our_key_is_refused() -> None:
    knowing = {**STATUS, "zion": {**STATUS["zion"], "own_key": "refused"}}
    fine, bad = (view(one_picture([], Past(), status, at_s=0.0)) for status in (STATUS, knowing))
    assert fine.alert == ""
    assert (bad.alert, bad.mood) == ("Zion, our key: refused.", "bad")
