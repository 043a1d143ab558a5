"""Child processes: logs, ends, time-outs, and dying with the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel_extproc.demo.process import ManagedProcess, StartError

STUBBORN = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('deaf', flush=True)\n"
    "time.sleep(60)\n"
)


def child(tmp_path: Path, code: str, *, stop_timeout_s: float = 10.0) -> ManagedProcess:
    return ManagedProcess(
        [sys.executable, "-c", code],
        name="child",
        log_path=tmp_path / "child.log",
        stop_timeout_s=stop_timeout_s,
    )


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_output_goes_to_the_log_and_the_exit_code_is_kept(tmp_path: Path) -> None:
    process = child(
        tmp_path, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    )
    with process:
        assert process.wait(20) == 3
    assert sorted(process.log_tail().split()) == ["err", "out"]
    assert process.exit_code == 3
    assert not process.running


def test_the_tail_is_bounded(tmp_path: Path) -> None:
    process = child(tmp_path, "for n in range(50_000): print(n)")
    with process:
        process.wait(20)
    assert process.log_tail(lines=2).split() == ["49998", "49999"]


def test_stop_asks_first(tmp_path: Path) -> None:
    process = child(tmp_path, "print('up', flush=True); import time; time.sleep(60)").start()
    assert eventually(lambda: "up" in process.log_tail())
    assert process.stop() == -signal.SIGTERM


def test_stop_ends_what_does_not_listen(tmp_path: Path) -> None:
    process = child(tmp_path, STUBBORN, stop_timeout_s=0.05).start()
    assert eventually(lambda: "deaf" in process.log_tail())
    assert process.stop() == -signal.SIGKILL


def test_an_early_end_is_told_with_the_log(tmp_path: Path) -> None:
    process = child(tmp_path, "print('no such setting'); raise SystemExit(2)").start()
    with pytest.raises(StartError, match=r"(?s)child ended with code 2 before it was up.*no such"):
        process.wait_until(lambda: False, what="it was up", timeout_s=20)


def test_a_slow_start_is_told(tmp_path: Path) -> None:
    with (
        child(tmp_path, "import time; time.sleep(60)") as process,
        pytest.raises(StartError, match="took longer than 0 s for its readiness"),
    ):
        process.wait_until(lambda: False, what="its readiness", timeout_s=0)


def test_a_missing_program_is_told(tmp_path: Path) -> None:
    process = ManagedProcess(
        ["/nonexistent/program"], name="missing", log_path=tmp_path / "log"
    ).start()
    with pytest.raises(StartError, match=r"(?s)missing ended with code 1.*FileNotFoundError"):
        process.wait_until(lambda: False, what="it was up", timeout_s=20)


def test_it_can_be_started_again_but_not_twice(tmp_path: Path) -> None:
    process = child(tmp_path, "import time; time.sleep(60)").start()
    first = process.pid
    with pytest.raises(StartError, match="already running"):
        process.start()
    process.kill()
    assert process.start().pid != first
    process.stop()


def test_nothing_to_stop_is_no_fault(tmp_path: Path) -> None:
    process = child(tmp_path, "")
    assert process.stop() is None
    assert process.log_tail() == ""
    with pytest.raises(RuntimeError, match="never started"):
        _ = process.pid


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    log = tmp_path / "grandchild.log"
    code = (
        "import pathlib, sys, time\n"
        "from sentinel_extproc.demo.process import ManagedProcess\n"
        f"log = pathlib.Path({str(log)!r})\n"
        "sleep = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
        "ManagedProcess([sys.executable, '-c', sleep], name='g', log_path=log).start()\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert eventually(lambda: log.exists() and log.read_text().endswith("\n"))
        grandchild = int(log.read_text())
        assert is_alive(grandchild)
    finally:
        parent.kill()
        parent.wait()
    assert eventually(lambda: not is_alive(grandchild))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
