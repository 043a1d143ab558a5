"""One child process: started, watched, and ended by its id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from sentinel_extproc.demo.stopping import Stopping

_LAUNCHER = Path(__file__).with_name("die_with_parent.py")
_POLL_S = 0.02
_TAIL_BYTES = 64 * 1024


class StartError(Exception):
    """A part of the demo could not be started; says why, with the end of its log."""


class ManagedProcess(Stopping):
    """A child in a session of its own, so that Ctrl-C reaches only us and we stop things in order.

    The kernel sends it SIGTERM if the thread that started it ends first: start it from a thread
    that lives as long as it should, normally the main one.

    Args:
        argv: program and arguments.
        name: for messages.
        log_path: receives stderr, and stdout unless ``stdout_path`` is given; appended to.
        env: the whole environment; ours when omitted.
        stop_timeout_s: seconds between SIGTERM and SIGKILL in `stop`.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        name: str,
        log_path: Path,
        stdout_path: Path | None = None,
        env: Mapping[str, str] | None = None,
        stop_timeout_s: float = 10.0,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._argv = list(argv)
        self._stdout_path = stdout_path or log_path
        self._env = env
        self._stop_timeout_s = stop_timeout_s
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it; returns at once.

        Raises:
            StartError: the program can't be run at all.
        """
        if self.running:
            raise StartError(f"{self.name} is already running")
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]
        try:
            with self.log_path.open("ab") as log, self._stdout_path.open("ab") as out:
                self._child = subprocess.Popen(
                    [*launcher, *self._argv],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=log,
                    env=self._env,
                    start_new_session=True,
                )
        except OSError as fault:
            raise StartError(f"{self.name} could not be started: {fault}") from fault
        return self

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            RuntimeError: it was never started.
        """
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether it has been started and hasn't ended."""
        return self._child is not None and self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None before its end."""
        return None if self._child is None else self._child.poll()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - _TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def wait_until(self, ready: Callable[[], bool], *, what: str, timeout_s: float) -> None:
        """Poll ``ready`` until it holds.

        Raises:
            StartError: the process ended, or ``timeout_s`` passed, first.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise StartError(self._fault(f"ended with code {self.exit_code} before {what}"))
            if time.monotonic() >= deadline:
                raise StartError(self._fault(f"took longer than {timeout_s:g} s for {what}"))
            time.sleep(_POLL_S)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        if self.running:
            self._started().send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Its exit code, once it has ended.

        Raises:
            TimeoutError: it didn't end in time.
        """
        try:
            return self._started().wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} didn't end within {timeout_s:g} s") from None

    def stop(self) -> int | None:
        """SIGTERM, and SIGKILL when that isn't obeyed in time. Returns the exit code."""
        if self._child is None:
            return None
        self.signal(signal.SIGTERM)
        try:
            return self.wait(self._stop_timeout_s)
        except TimeoutError:
            return self.kill()

    def kill(self) -> int:
        """SIGKILL. Returns the exit code."""
        self.signal(signal.SIGKILL)
        return self._started().wait()

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._child

    def _fault(self, text: str) -> str:
        tail = self.log_tail()
        return f"{self.name} {text}" + (f"; the end of its log:\n{tail}" if tail else "")
