"""Envoy replaced under streams by its own hot restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from sentinel_extproc.demo.envoy import envoy_binary
from sentinel_extproc.demo.process import ManagedProcess
from sentinel_extproc.demo.redis import free_port
from sentinel_extproc.demo.stack import Stack
from tests.faults.gateway import CHAT, DONE, eventually, misbilled
from tests.faults.outcome import Outcome

StartStack = Callable[..., Stack]

HEADERS = {"authorization": "Bearer demo-ada"}


class Generations:
    """Envoys that take over from one another: the same configuration, port and shared memory."""

    def __init__(self, work_dir: Path, port: int) -> None:
        self._work_dir = work_dir
        self._config = json.loads((work_dir / "envoy.json").read_text())
        listener = self._config["static_resources"]["listeners"][0]
        listener["address"]["socket_address"]["port_value"] = port
        self._base_id = work_dir / "base-id"

    @contextmanager
    def start(self, epoch: int) -> Iterator[ManagedProcess]:
        admin = self._work_dir / f"admin-{epoch}.sock"
        self._config["admin"] = {"address": {"pipe": {"path": str(admin)}}}
        path = self._work_dir / f"hot-{epoch}.json"
        path.write_text(json.dumps(self._config))
        shared = (
            ["--use-dynamic-base-id", "--base-id-path", str(self._base_id)]
            if epoch == 0
            else ["--base-id", self._base_id.read_text().strip()]
        )
        process = ManagedProcess(
            [
                envoy_binary(),
                *("--config-path", str(path), "--concurrency", "1", "--log-level", "warning"),
                *("--restart-epoch", str(epoch), *shared),
                *("--drain-time-s", "2", "--parent-shutdown-time-s", "6"),
            ],
            name=f"envoy-{epoch}",
            log_path=self._work_dir / f"hot-{epoch}.log",
        )
        with process:
            process.wait_until(lambda: ready(admin), what="it was ready", timeout_s=30)
            yield process


def ready(admin: Path) -> bool:
    if not admin.exists():
        return False
    transport = httpx.HTTPTransport(uds=str(admin))
    with httpx.Client(transport=transport, base_url="http://admin", timeout=5) as client:
        try:
            return client.get("/ready").status_code == 200
        except httpx.TransportError:
            return False


def test_envoys_hot_restart_cuts_no_stream_and_refuses_nobody(
    run_stack: StartStack, work_dir: Path, outcome: Outcome
) -> None:
    stack = run_stack(chunk_delay_s=0.05, settings={"SENTINEL_LIMITS__REQUESTS": "100000"})
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    generations = Generations(work_dir, port)

    def call(http: httpx.Client) -> None:
        status = http.post(url, json=CHAT, headers=HEADERS).status_code
        outcome.saw(status, held=status == 200)

    with (
        generations.start(0) as old,
        ExitStack() as running,
        httpx.Client(trust_env=False, timeout=30) as http,
    ):
        answers = [
            running.enter_context(
                http.stream(
                    "POST",
                    url,
                    json=CHAT | {"stream": True},
                    headers=HEADERS | {"x-standin-tokens": "60"},
                )
            )
            for _ in range(8)
        ]
        with generations.start(1):
            for _ in range(10):
                with httpx.Client(trust_env=False, timeout=30) as fresh:
                    call(fresh)
            for answer in answers:
                whole = DONE in answer.read()
                outcome.saw("200, whole" if whole else "200, cut", held=whole)
            eventually(lambda: not old.running)
            with httpx.Client(trust_env=False, timeout=30) as fresh:
                call(fresh)
            outcome.lost = misbilled(stack)
    assert outcome.held == outcome.tried == 19, outcome.clients
    assert outcome.lost == 0
