"""A running sidecar takes a changed policy, on SIGHUP and by itself, and fails no request."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from sentinel_extproc.demo.stack import Stack

StartStack = Callable[..., Stack]

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
POLICY = "rules: [{limits: [{name: %s, unit: requests, kind: ring, limit: %d, per: 1m}]}]"
SECONDS = 60.0


def write(file: Path, text: str) -> None:
    made = file.with_suffix(".new")
    made.write_text(text)
    made.replace(file)


def chat(stack: Stack) -> httpx.Response:
    return httpx.post(
        f"{stack.url}/v1/chat/completions",
        json=CHAT,
        headers={"authorization": "Bearer demo-ada"},
        trust_env=False,
        timeout=30,
    )


def admin(stack: Stack, path: str) -> httpx.Response:
    socket = Path(stack.sidecar.address.removeprefix("unix:")).with_name("admin.sock")
    transport = httpx.HTTPTransport(uds=str(socket))
    with httpx.Client(transport=transport, base_url="http://admin", timeout=10) as client:
        return client.get(path)


def eventually(check: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not check():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def test_no_request_fails_while_settings_are_read_again(
    run_stack: StartStack, work_dir: Path
) -> None:
    policy = work_dir / "policy.yaml"
    write(policy, POLICY % ("wide", 100_000))
    stack = run_stack(settings={"SENTINEL_LIMITS__POLICY_FILE": str(policy)})
    statuses: list[int] = []
    stop = threading.Event()

    def traffic() -> None:
        while not stop.is_set():
            statuses.append(chat(stack).status_code)

    def configuration() -> dict[str, object]:
        return dict(admin(stack, "/v1/status").json()["configuration"])

    def hang_up() -> None:
        os.kill(stack.sidecar.process.pid, signal.SIGHUP)

    clients = [threading.Thread(target=traffic) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        eventually(lambda: len(statuses) > 2)
        for number in range(1, 4):
            hang_up()
            eventually(lambda n=number: configuration()["reloads"] == n)  # type: ignore[misc]
        # A faulty policy changes nothing, and everybody can see why.
        write(policy, "rules: nonsense")
        hang_up()
        eventually(lambda: bool(configuration()["faults"]))
        assert "rules" in str(configuration()["faults"])
        assert "sentinel_configuration_refused 1.0" in admin(stack, "/metrics").text
        seen = len(statuses)
        eventually(lambda: len(statuses) > seen + 2)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert set(statuses) == {200}
    # A changed file is taken without a signal, too.
    write(policy, POLICY % ("narrow", 1))
    eventually(lambda: not configuration()["faults"])
    answers = [chat(stack) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[1].json()["sentinel"]["limit_name"] == "narrow"
