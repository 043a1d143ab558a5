"""The supervisor's edge to the system, where the system refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sentinel_extproc.workers.seats import Seats
from sentinel_extproc.workers.shelf import Shelf
from sentinel_extproc.workers.supervision import Rules, Supervision
from sentinel_extproc.workers.supervisor import Supervisor


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_when_no_process_can_be_made_the_supervisor_lives_and_tries_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def fork() -> int:
        tried.append(1)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    supervision = Supervision(2, front=False, rules=Rules(silent_s=5.0, drain_s=5.0))
    seats = Seats([f"unix:{tmp_path}/a.sock", f"unix:{tmp_path}/b.sock"], socket_mode=0o600)
    open_before = descriptors()
    supervisor = Supervisor(
        supervision,
        seats,
        Shelf(tmp_path),
        become=lambda _: 0,
        renew=lambda: True,
        clock=lambda: 0.0,
    )
    try:
        ours = descriptors() - open_before
        supervisor._do(supervision.start(0.0))
        first = len(tried)
        assert first >= 2
        assert supervisor._exit is None
        assert not supervision.stopping
        supervisor._do(supervision.tick(3_600.0))
        assert len(tried) > first
        # Of all the attempts, no more is open than the two sockets that Envoy connects to.
        assert descriptors() - open_before <= ours + 2
    finally:
        seats.close_all()
        supervisor._selector.close()
        for end in (supervisor._woken, supervisor._wake):
            end.close()
