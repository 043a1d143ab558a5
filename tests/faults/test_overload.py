"""Too much, through the real Envoy: it sheds with 503 and Retry-After before anything breaks, keeps
serving whom it let in, and recovers by itself."""

from __future__ import annotations

import itertools
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import httpx

from sentinel_extproc.demo.stack import Stack
from tests.faults.gateway import DONE, clients, eventually, metric, streams

StartStack = Callable[..., Stack]

PLENTY = {"SENTINEL_LIMITS__REQUESTS": "100000"}
SLOW_S, LONG = 0.2, 600
"""Streams that would take two minutes, if the provider weren't told to hurry in the end."""


def all_whole(stack: Stack, answers: Iterable[httpx.Response]) -> bool:
    """Whether whom it let in gets the whole answer."""
    assert stack.openai is not None
    stack.openai.pace(0.0)
    return all(DONE in answer.read() for answer in answers)


def is_shed(answer: httpx.Response) -> bool:
    """Whether it was turned away, with all that a client needs to know."""
    if answer.status_code != 503:
        return False
    assert answer.json()["error"]["code"] == "overloaded"
    assert answer.headers["x-sentinel-error"] == "overloaded"
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    return True


def test_in_all_and_per_user_no_more_run_at_once_than_may(run_stack: StartStack) -> None:
    stack = run_stack(
        chunk_delay_s=SLOW_S,
        settings=PLENTY
        | {
            "SENTINEL_OVERLOAD__MAX_EXCHANGES": "6",
            "SENTINEL_OVERLOAD__MAX_EXCHANGES_PER_USER": "4",
        },
    )
    with (
        clients(stack, "demo-ada", "demo-bo") as (ada, bo),
        streams(ada, 4, tokens=LONG) as running,
    ):
        assert {answer.status_code for answer in running} == {200}
        fifth = ada.chat()
        assert (fifth.status_code, fifth.headers["x-sentinel-error"]) == (429, "too_many_at_once")
        assert fifth.headers["retry-after"] == "1"
        with streams(bo, 2, tokens=LONG) as more:
            assert {answer.status_code for answer in more} == {200}
            assert is_shed(bo.chat())
            eventually(lambda: metric(stack, "sentinel_exchanges_live") == 6)
            assert all_whole(stack, [*running, *more])
        eventually(lambda: ada.chat().status_code == 200)
        assert metric(stack, "sentinel_overload_turned_away_total", reason="user") == 1
        assert metric(stack, "sentinel_overload_turned_away_total", reason="exchanges") >= 1
    assert stack.openai is not None
    reached = Counter(
        json.loads(seen.body).get("stream", False) for seen in stack.openai.requests()
    )
    assert reached[True] == 6


def test_memory_over_its_bound_sheds_what_is_new_until_fewer_run(run_stack: StartStack) -> None:
    # Far below what the process has when it starts: what counts then is how many run.
    stack = run_stack(
        chunk_delay_s=SLOW_S,
        settings=PLENTY | {"SENTINEL_OVERLOAD__MAX_MEMORY_BYTES": str(64 << 20)},
    )
    with clients(stack, "demo-ada", "demo-bo") as (ada, bo):
        assert ada.chat().status_code == 200
        with streams(ada, 30, tokens=LONG) as running:
            assert Counter(answer.status_code for answer in running)[200] > 16
            let_in = [answer for answer in running if answer.status_code == 200]
            eventually(lambda: is_shed(bo.chat()))
            assert metric(stack, "sentinel_overload_admitted_share") < 1
            assert all_whole(stack, let_in)
        eventually(lambda: metric(stack, "sentinel_overload_admitted_share") == 1)
        assert bo.chat().status_code == 200
        assert metric(stack, "sentinel_overload_turned_away_total", reason="memory") > 0


@contextmanager
def slowed_down(stack: Stack) -> Iterator[None]:
    """The sidecar gets a tenth of the time: stopped for 0.9 s, then running for 0.1 s."""
    over = threading.Event()

    def alternate() -> None:
        process = stack.sidecar.process
        for number in itertools.cycle((signal.SIGSTOP, signal.SIGCONT)):
            process.signal(number)
            if over.wait(0.9 if number is signal.SIGSTOP else 0.1):
                process.signal(signal.SIGCONT)
                return

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_an_event_loop_that_lags_sheds_and_recovers_by_itself(run_stack: StartStack) -> None:
    stack = run_stack(
        chunk_delay_s=SLOW_S,
        settings=PLENTY | {"SENTINEL_OVERLOAD__MAX_LOOP_LAG_SECONDS": "0.3"},
    )
    statuses: Counter[int] = Counter()

    def shed(answer: httpx.Response) -> bool:
        statuses[answer.status_code] += 1
        return is_shed(answer)

    with (
        clients(stack, "demo-ada", "demo-bo") as (ada, bo),
        streams(ada, 3, tokens=LONG) as running,
    ):
        assert {answer.status_code for answer in running} == {200}
        with slowed_down(stack):
            end = time.monotonic() + 30
            while not shed(bo.chat()):
                assert time.monotonic() < end, statuses
        # Envoy itself answers 504 where the processor is too slow for its message_timeout.
        assert set(statuses) <= {200, 503, 504}
        assert all_whole(stack, running)
        eventually(lambda: metric(stack, "sentinel_overload_admitted_share") == 1)
        assert bo.chat().status_code == 200
        assert metric(stack, "sentinel_overload_turned_away_total", reason="loop_lag") > 0
    log = stack.sidecar.process.log_path.read_text()
    assert '"shedding"' in log
    assert '"shedding_ended"' in log
