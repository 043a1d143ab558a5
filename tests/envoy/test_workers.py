"""Real workers behind a real Envoy: they share the load, and may die, hang and be replaced."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sentinel_extproc.admin import client as admin
from sentinel_extproc.demo.stack import Stack, start_stack
from sentinel_extproc.live_cli.rates import read_look
from sentinel_extproc.telemetry.live import STEP_S
from sentinel_extproc.usage import reading
from sentinel_extproc.usage.files import outbox_path, outbox_paths
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.record import Intent, Outcome, Provenance, TokenUsage, UsageRecord

WORKERS = 3
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
HEADERS = {"authorization": "Bearer demo-ada"}
SECONDS = 60.0


@pytest.fixture(scope="module")
def fleet() -> Iterator[tuple[Stack, Path]]:
    """Three workers, that are taken for dead after two silent seconds."""
    with tempfile.TemporaryDirectory(prefix="sx-fleet-") as folder:
        settings = {
            "SENTINEL_SERVER__WORKERS": str(WORKERS),
            "SENTINEL_SERVER__WORKER_SILENT_SECONDS": "3",
            "SENTINEL_SERVER__DRAIN_SECONDS": "60",
            "SENTINEL_LIMITS__REQUESTS": "1000000",
            "SENTINEL_USAGE__REPORT_INTERVAL_SECONDS": "0.2",
        }
        with start_stack(work_dir=Path(folder), settings=settings, concurrency=2) as running:
            yield running, Path(folder)


def eventually(check: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not check():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def ask(folder: Path, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    return admin.call(method, path, body, address=f"unix:{folder / 'admin.sock'}")


def workers(folder: Path) -> dict[int, int]:
    """Process ids of those that serve, by worker."""
    found = ask(folder, "GET", "/v1/status")["workers"]
    return {one["worker"]: one["pid"] for one in found if one["state"] == "serving"}


def all_serve(folder: Path, *, but: set[int] | None = None) -> bool:
    try:
        serving = workers(folder)
    except admin.AdminError:
        return False
    return len(serving) == WORKERS and not set(serving.values()) & (but or set())


def counted(folder: Path, name: str = "sentinel_exchanges_total", **labels: str) -> float:
    text = admin.metrics(address=f"unix:{folder / 'admin.sock'}")
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith(f"{name}{{")
        and all(f'{label}="{value}"' in line for label, value in labels.items())
    )


def on_the_page(folder: Path) -> int:
    """Requests admitted in the last quarter of an hour, by the live page's charts."""
    transport = httpx.HTTPTransport(uds=str(folder / "admin.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost") as browser:
        browser.get("/").raise_for_status()
        data = browser.get("/live/data").raise_for_status().json()
    rates: list[float] = data["series"]["admitted"]
    return round(sum(rates) * STEP_S)


class Clients:
    """Some who ask, one request after the other, until they are told to stop."""

    def __init__(self, stack: Stack, number: int = 4) -> None:
        self.statuses: Counter[int] = Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(stack,)) for _ in range(number)]

    def _ask(self, stack: Stack) -> None:
        with httpx.Client(trust_env=False, timeout=30, headers=HEADERS) as client:
            while not self._stop.is_set():
                answer = client.post(f"{stack.url}/v1/chat/completions", json=CHAT)
                self.statuses[answer.status_code] += 1

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, number: int = 20) -> None:
        """Wait until so many more have been served."""
        before = self.statuses[200]
        eventually(lambda: self.statuses[200] >= before + number)


def test_they_share_the_load_and_are_counted_as_one(fleet: tuple[Stack, Path]) -> None:
    stack, folder = fleet
    eventually(lambda: all_serve(folder))
    before = counted(folder, decision="admitted")
    with Clients(stack) as clients:
        clients.more(60)
    served = clients.statuses[200]
    assert set(clients.statuses) == {200}
    eventually(lambda: counted(folder, decision="admitted") == before + served)
    # Each has a chain of its own, and did some of the work.
    busy = [path for path in outbox_paths(folder / "outbox.db") if reading.ledger(path).head.seq]
    assert len(busy) == WORKERS
    assert ask(folder, "GET", "/readyz") == {"ready": True, "checked": ["workers"], "not_ready": {}}
    # And whoever looks at them sees one sidecar.
    limits = ask(folder, "POST", "/v1/limits", {"user": "ext-ada"})
    assert limits["limits"]
    effect = ask(folder, "POST", "/v1/invalidate", {"everybody": True})
    assert effect["everywhere"]
    text = admin.metrics(address=f"unix:{folder / 'admin.sock'}")
    assert read_look(text, 0.0).series
    assert 'sentinel_workers{state="serving"} 3.0' in text


def test_what_a_killed_worker_served_stays_on_the_page(fleet: tuple[Stack, Path]) -> None:
    stack, folder = fleet
    eventually(lambda: all_serve(folder))
    with Clients(stack) as clients:
        clients.more(30)
    # In the charts a step counts when it is over.
    eventually(lambda: on_the_page(folder) == counted(folder, decision="admitted"))
    shown, victim = on_the_page(folder), workers(folder)[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: all_serve(folder, but={victim}))
    assert on_the_page(folder) == shown > 0
    status = ask(folder, "GET", "/v1/status")
    assert [head["worker"] for head in status["ledger"]["heads"]] == list(range(WORKERS))
    assert len({head["hash"] for head in status["ledger"]["heads"]}) == WORKERS


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_one_that_dies_or_hangs_is_replaced_while_the_others_serve(
    fleet: tuple[Stack, Path], how: signal.Signals
) -> None:
    stack, folder = fleet
    eventually(lambda: all_serve(folder))
    victim = workers(folder)[1]
    with Clients(stack) as clients:
        clients.more()
        admitted = counted(folder, decision="admitted")
        os.kill(victim, how)
        clients.more()
        eventually(lambda: all_serve(folder, but={victim}))
        clients.more()
        # What died with it is missing, what it had written down before isn't.
        assert counted(folder, decision="admitted") >= admitted
    failed = {status: n for status, n in clients.statuses.items() if status != 200}
    # Only what it had in hand, and for the hung one what was sent to it until it was noticed.
    assert set(failed) <= {500, 503, 504}
    if how is signal.SIGKILL:
        assert sum(failed.values()) <= 8
    restarts = ask(folder, "GET", "/v1/status")["restarts"]
    assert restarts["died" if how is signal.SIGKILL else "silent"] >= 1


def test_all_are_replaced_and_no_exchange_ends_for_it(fleet: tuple[Stack, Path]) -> None:
    stack, folder = fleet
    eventually(lambda: all_serve(folder))
    before = workers(folder)
    replaced = ask(folder, "GET", "/v1/status")["restarts"].get("replaced", 0)
    admitted = counted(folder, decision="admitted")
    assert stack.openai is not None
    stack.openai.pace(0.05)
    ends: list[str] = []

    def stream() -> None:
        given = HEADERS | {"x-standin-tokens": "60"}
        with (
            httpx.Client(trust_env=False, timeout=60, headers=given) as client,
            client.stream(
                "POST", f"{stack.url}/v1/chat/completions", json=CHAT | {"stream": True}
            ) as answer,
        ):
            ends.append(answer.read().decode().strip()[-6:])

    streams = [threading.Thread(target=stream) for _ in range(6)]
    try:
        for one in streams:
            one.start()
        eventually(lambda: ask(folder, "GET", "/v1/status")["exchanges"]["live"] == len(streams))
        os.kill(stack.sidecar.process.pid, signal.SIGUSR2)
        with Clients(stack, 2) as clients:
            eventually(lambda: all_serve(folder, but=set(before.values())))
            for one in streams:
                one.join()
            clients.more()
    finally:
        stack.openai.pace(0.0)
    assert ends == ["[DONE]"] * len(streams)
    assert set(clients.statuses) == {200}
    restarts = ask(folder, "GET", "/v1/status")["restarts"]
    assert restarts["replaced"] >= replaced + 1
    eventually(
        lambda: ask(folder, "GET", "/v1/status")["restarts"]["replaced"] == replaced + WORKERS
    )
    # The counts of those that left are in the sum.
    served = len(streams) + clients.statuses[200]
    eventually(lambda: counted(folder, decision="admitted") == admitted + served)


def test_every_worker_reloads_in_place(fleet: tuple[Stack, Path]) -> None:
    stack, folder = fleet
    eventually(lambda: all_serve(folder))
    before, pids = counted(folder, "sentinel_reloads_total", result="taken"), workers(folder)
    os.kill(stack.sidecar.process.pid, signal.SIGHUP)
    eventually(
        lambda: counted(folder, "sentinel_reloads_total", result="taken") == before + WORKERS
    )
    assert workers(folder) == pids


def test_what_all_of_them_served_is_billed_once(fleet: tuple[Stack, Path]) -> None:
    """The last of this stack: it ends."""
    stack, folder = fleet
    pids = [*workers(folder).values()]
    assert stack.sidecar.stop() == 0
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids)
    assert stack.openai is not None
    assert stack.zion is not None
    paths = outbox_paths(folder / "outbox.db")
    records = [record for path in paths for _, record in reading.records(path, 100_000, 0)]
    known = [record for record in records if record.outcome is not Outcome.UNKNOWN]
    assert len({record.id for record in records}) == len(records)
    # Of what was killed in the middle nobody knows the end: on record, and not billed.
    taken = [request for request in stack.openai.requests() if request.authorized]
    asked = {request.header("x-request-id") for request in taken if request.method == "POST"}
    assert len(records) >= len(asked)
    assert all(reading.backlog(path).undelivered == 0 for path in paths)
    billed = [entry for entry in stack.zion.ledger() if entry.external_id == known[0].external_id]
    assert sum(entry.requests for entry in billed) == len(known)
    assert sum(entry.output_tokens for entry in billed) == sum(
        record.usage.output_tokens for record in known
    )


def _record(number: int) -> UsageRecord:
    return UsageRecord(
        id=f"0190b8b0-0000-7000-8000-{number:012d}",
        occurred_at_ms=int(time.time() * 1000),
        external_id="ext-ada",
        email="ada@example.com",
        endpoint="chat.completions",
        model_requested="gpt-4o-mini",
        model_served="gpt-4o-mini",
        requests=1,
        usage=TokenUsage(input_tokens=3, output_tokens=4),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )


async def test_a_single_process_delivers_what_departed_workers_left(
    work_dir: Path, run_stack: Callable[..., Stack]
) -> None:
    left = Outbox(outbox_path(work_dir / "outbox.db", 2))
    left.open()
    for number in range(5):
        await left.append(_record(number))
    left.begin(
        Intent(
            id="0190b8b0-0000-7000-8000-00000000ffff",
            occurred_at_ms=int(time.time() * 1000),
            external_id="ext-ada",
            email="ada@example.com",
            endpoint="chat.completions",
            model="gpt-4o-mini",
            request_id=None,
            predicted_input_tokens=3,
            reserved_output_tokens=4,
        )
    )
    # As if it had been killed: what is under way stays in its slot.
    await left._writer.stop()
    left._intents.close()
    left._unlock()
    stack = run_stack()
    assert stack.zion is not None
    zion = stack.zion
    eventually(lambda: sum(e.requests for e in zion.ledger()) == 5)
    path = outbox_path(work_dir / "outbox.db", 2)
    eventually(lambda: reading.backlog(path).undelivered == 0)
    stack.sidecar.stop()
    assert [e.output_tokens for e in zion.ledger()] == [20]
    assert reading.ledger(path).unknown == 1


@pytest.mark.parametrize("number", [2, 3])
def test_whose_socket_is_closed_is_sent_nothing_until_it_is_back(
    work_dir: Path, run_stack: Callable[..., Stack], number: int
) -> None:
    """A refused connection fails at once, so that its endpoint always has the fewest requests."""
    settings = {"SENTINEL_SERVER__WORKERS": str(number), "SENTINEL_LIMITS__REQUESTS": "1000000"}
    stack = run_stack(settings=settings, concurrency=2)
    eventually(lambda: len(workers(work_dir)) == number)
    dying = range(1, number)  # all but one
    with Clients(stack) as clients:
        clients.more()
        for _ in range(2):  # the second time within a minute nobody listens for a while
            gone = {workers(work_dir)[worker] for worker in dying}
            for pid in gone:
                os.kill(pid, signal.SIGKILL)
            eventually(lambda gone=gone: _others_serve(work_dir, number, gone))  # type: ignore[misc]
            before = [_settled(work_dir, worker) for worker in dying]
            eventually(lambda before=before: _used_again(work_dir, dying, before))  # type: ignore[misc]
    failed = {status: n for status, n in clients.statuses.items() if status != 200}
    # Twice what was in hand, and what showed that nobody is there.
    assert set(failed) <= {500, 503}
    assert sum(failed.values()) <= 30
    (panics,) = stack.envoy.stats("cluster.sentinel.lb_healthy_panic").values()
    assert panics == 0


def _others_serve(folder: Path, number: int, gone: set[int]) -> bool:
    serving = set(workers(folder).values())
    return len(serving) == number and not serving & gone


def _settled(folder: Path, worker: int) -> int:
    return reading.ledger(outbox_path(folder / "outbox.db", worker)).head.seq


def _used_again(folder: Path, those: range, before: list[int]) -> bool:
    """More than the few that it found under way at its start."""
    return all(_settled(folder, worker) > n + 10 for worker, n in zip(those, before, strict=True))


def test_without_its_supervisor_no_worker_stays(
    work_dir: Path, run_stack: Callable[..., Stack]
) -> None:
    stack = run_stack(settings={"SENTINEL_SERVER__WORKERS": "2"})
    eventually(lambda: len(workers(work_dir)) == 2)
    pids = [*workers(work_dir).values()]
    stack.sidecar.process.kill()
    eventually(lambda: not any(_alive(pid) for pid in pids))


def _alive(pid: int) -> bool:
    try:
        # One that nobody has asked after is dead all the same.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
