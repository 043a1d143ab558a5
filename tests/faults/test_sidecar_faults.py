"""The sidecar stopped, restarted and starved under streams, behind the real Envoy."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from sentinel_extproc.demo.stack import Stack
from tests.faults.gateway import DONE, Client, clients, eventually, misbilled, streams
from tests.faults.outcome import Outcome

StartStack = Callable[..., Stack]

PLENTY = {"SENTINEL_LIMITS__REQUESTS": "100000"}


def test_stopped_under_streams_it_goes_on_as_if_nothing_had_been(
    run_stack: StartStack, outcome: Outcome
) -> None:
    # Envoy waits for us for so long, and gives up a stream then.
    stack = run_stack(chunk_delay_s=0.05, settings=PLENTY, attachment={"message_timeout_s": 15.0})
    with clients(stack, "demo-ada") as (ada,), streams(ada, 10, tokens=40) as running:
        stack.sidecar.process.signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ada.chat)
            time.sleep(1.5)  # how long it is stopped, and no more than that
            assert not waiting.done(), "nobody may pass a sidecar that decides nothing"
            stack.sidecar.process.signal(signal.SIGCONT)
            late = waiting.result()
        outcome.saw(late.status_code, held=late.status_code == 200)
        for answer in running:
            whole = DONE in answer.read()
            outcome.saw("200, whole" if whole else "200, cut", held=whole)
    outcome.lost = misbilled(stack)
    assert outcome.tried == outcome.held == 11
    assert outcome.lost == 0


@contextmanager
def calling(client: Client, outcome: Outcome, *, threads: int) -> Iterator[None]:
    """Calls without pause; what else than an answer or a 503 is no answer as promised."""
    over, lock = threading.Event(), threading.Lock()

    def call() -> None:
        while not over.is_set():
            try:
                status: int | str = client.chat().status_code
            except httpx.HTTPError as error:
                status = type(error).__name__
            with lock:
                outcome.saw(status, held=status in (200, 503))

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(call) for _ in range(threads)]
        try:
            yield
        finally:
            over.set()
            for one in running:
                one.result()


def test_restarted_under_streams_all_of_them_end_and_nothing_is_lost(
    run_stack: StartStack, outcome: Outcome
) -> None:
    stack = run_stack(chunk_delay_s=0.02, settings=PLENTY)
    with clients(stack, "demo-ada", "demo-bo") as (ada, bo):
        for _ in range(3):
            with calling(bo, outcome, threads=2), streams(ada, 10, tokens=50) as running:
                assert stack.sidecar.stop() == 0
                for answer in running:
                    whole = DONE in answer.read()
                    outcome.saw("200, whole" if whole else "200, cut", held=whole)
                stack.sidecar.restart()
                before = outcome.clients["200"]
                eventually(lambda before=before: outcome.clients["200"] > before)  # type: ignore[misc]
    outcome.lost = misbilled(stack)
    assert outcome.held == outcome.tried, outcome.clients
    assert outcome.lost == 0


def open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_file_descriptors_it_waits_and_takes_connections_again(
    run_stack: StartStack, outcome: Outcome
) -> None:
    stack = run_stack(chunk_delay_s=0.05, settings=PLENTY)
    pid = stack.sidecar.process.pid
    path = stack.sidecar.address.removeprefix("unix:")
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    log = stack.sidecar.process.log_path
    with (
        clients(stack, "demo-ada") as (ada,),
        streams(ada, 5, tokens=60) as running,
        ExitStack() as sockets,
    ):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files(pid), hard))
        try:
            written, used = log.stat().st_size, cpu_seconds(pid)
            for _ in range(5):
                knocking = sockets.enter_context(socket.socket(socket.AF_UNIX))
                knocking.settimeout(60)
                knocking.connect(path)  # into the backlog: nobody can take it
            began = time.monotonic()
            for answer in running:
                whole = DONE in answer.read()
                outcome.saw("200, whole" if whole else "200, cut", held=whole)
            took = time.monotonic() - began
            spent = cpu_seconds(pid) - used
            said = log.read_bytes()[written:].decode()
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        eventually(lambda: open_files(pid) > 0 and stack.sidecar.is_serving())
        late = ada.chat()
        outcome.saw(late.status_code, held=late.status_code == 200)
    outcome.lost = misbilled(stack)
    # It isn't the clock that is judged: a spin would take all of it.
    assert spent < took * 0.8, (spent, took)
    assert said.count("descriptors_exhausted") == 1, said
    assert len(said.splitlines()) < 30, said
    assert (outcome.held, outcome.lost) == (outcome.tried, 0), outcome.clients
