"""The supervisor: holds the sockets, forks workers, and does what ``supervision`` decides.

It has no thread and no event loop, so that a process can be forked at any moment; and all that
takes memory is loaded before the first one is, so that they share it.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from sentinel_extproc.memory import give_back
from sentinel_extproc.transport.server import ServerError
from sentinel_extproc.workers.lifeline import LEAVE, READY
from sentinel_extproc.workers.seats import Seats
from sentinel_extproc.workers.shelf import Member, Roster, Shelf
from sentinel_extproc.workers.supervision import (
    FRONT,
    CloseSeat,
    Command,
    End,
    Kill,
    Leave,
    Spawn,
    State,
    Supervision,
)

log = logging.getLogger("sentinel.workers")

TICK_S = 0.25

RELOAD, REPLACE = signal.SIGHUP, signal.SIGUSR2
_STOP = (signal.SIGTERM, signal.SIGINT)
_OURS = (*_STOP, RELOAD, REPLACE, signal.SIGCHLD)

_CRASHED = 70
"""Exit code of a process that an exception ended (sysexits' EX_SOFTWARE)."""


@dataclass(frozen=True, slots=True)
class NewProcess:
    """What a forked process is told.

    Attributes:
        seat: the worker's index, or ``FRONT``.
        listening: the socket of its seat; None for the admin port, which opens its own.
        channel: its end of the wire to the supervisor.
        successor: whether another had that seat before.
    """

    seat: int
    serial: int
    listening: socket.socket | None
    channel: socket.socket
    successor: bool


Become = Callable[[NewProcess], int]
"""Runs a process to its end, after the fork; its exit code."""


@dataclass(slots=True)
class _Child:
    pid: int
    seat: int
    channel: socket.socket


class Supervisor:
    """One supervisor. ``run`` it once.

    Args:
        become: what a new process does.
        renew: called before workers are replaced, to read settings again; False: they have faults.
    """

    def __init__(
        self,
        supervision: Supervision,
        seats: Seats,
        shelf: Shelf,
        *,
        become: Become,
        renew: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervision = supervision
        self._seats = seats
        self._shelf = shelf
        self._become = become
        self._renew = renew
        self._clock = clock
        self._children: dict[int, _Child] = {}
        self._signals: list[int] = []
        self._last_serial = 0
        self._seated: set[int] = set()
        self._roster: Roster | None = None
        self._exit: int | None = None
        self._queue: deque[Command] = deque()
        self._doing = False
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()

    def run(self) -> int:
        """Until all have ended; the exit code."""
        with self._hearing_signals():
            self._do(self._supervision.start(self._clock()))
            while self._exit is None:
                self._tell_roster()
                for key, _ in self._selector.select(TICK_S):
                    self._hear(key.data)
                self._obey_signals()
                self._reap()
                self._do(self._supervision.tick(self._clock()))
        return self._exit

    # What happens

    @contextlib.contextmanager
    def _hearing_signals(self) -> Iterator[None]:
        for end in (self._woken, self._wake):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._note) for number in _OURS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)
            self._selector.close()
            self._woken.close()
            self._wake.close()

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)

    def _obey_signals(self) -> None:
        numbers, self._signals = self._signals, []
        for number in dict.fromkeys(numbers):
            if number in _STOP:
                log.info("stopping", extra={"processes": len(self._children)})
                self._do(self._supervision.stop(self._clock()))
            elif number == RELOAD:
                for child in self._children.values():
                    if child.seat != FRONT:
                        _signal(child.pid, RELOAD)
            elif number == REPLACE and self._renew():
                log.info("replacing_workers")
                self._do(self._supervision.replace(self._clock()))

    def _hear(self, serial: int | None) -> None:
        if serial is None:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
            return
        child = self._children.get(serial)
        if child is None:
            return
        try:
            heard = child.channel.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if not heard:  # it ends; its exit code tells more
            self._selector.unregister(child.channel)
            return
        now = self._clock()
        self._supervision.heard(serial, now)
        if READY in heard:
            log.info("worker_ready", extra={"of": _named(child.seat), "pid": child.pid})
            self._do(self._supervision.ready(serial, now))

    def _reap(self) -> None:
        for serial, child in list(self._children.items()):
            try:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = child.pid, 0
            if pid:
                self._ended(serial, os.waitstatus_to_exitcode(status))

    def _ended(self, serial: int, code: int) -> None:
        child = self._children.pop(serial)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(child.channel)
        child.channel.close()
        expected = any(
            p.serial == serial and p.state is State.LEAVING for p in self._supervision.processes
        )
        log.log(
            logging.INFO if expected and not code else logging.ERROR,
            "worker_ended",
            extra={"of": _named(child.seat), "pid": child.pid, "code": code},
        )
        self._do(self._supervision.exited(serial, code, self._clock()))

    # What is to be done

    def _do(self, commands: list[Command]) -> None:
        """In their order, also those that come of doing one of them."""
        self._queue.extend(commands)
        if self._doing:
            return
        self._doing = True
        while self._queue:
            self._do_one(self._queue.popleft())
        self._doing = False

    def _do_one(self, command: Command) -> None:
        match command:
            case Spawn(seat, serial):
                self._spawn(seat, serial)
            case Leave(serial, replaced):
                self._tell_to_leave(serial, replaced=replaced)
            case Kill(serial, why):
                child = self._children.get(serial)
                if child is not None:
                    extra = {"of": _named(child.seat), "pid": child.pid, "why": why}
                    log.error("worker_killed", extra=extra)
                    _signal(child.pid, signal.SIGKILL)
            case CloseSeat(seat):
                log.error("worker_keeps_failing", extra={"of": _named(seat)})
                if seat != FRONT:
                    self._seats.close(seat)
            case End(code):
                self._exit = code

    def _tell_to_leave(self, serial: int, *, replaced: bool) -> None:
        child = self._children.get(serial)
        if child is None:
            return
        if replaced:
            with contextlib.suppress(OSError):
                child.channel.send(LEAVE)
        else:
            # The worker has a copy, which it closes at once. While this one is open, the kernel
            # takes connections that nobody answers; Envoy must see that they are refused.
            if child.seat != FRONT:
                self._seats.close(child.seat)
            _signal(child.pid, signal.SIGTERM)

    def _spawn(self, seat: int, serial: int) -> None:
        self._last_serial = max(self._last_serial, serial)
        if self._supervision.stopping:  # decided meanwhile
            self._do(self._supervision.exited(serial, 0, self._clock()))
            return
        try:
            listening = None if seat == FRONT else self._seats.listening(seat)
            ours, theirs = socket.socketpair()
        except (ServerError, OSError) as fault:
            sys.stderr.write(f"sentinel-extproc can't start: {fault}\n")
            self._do(self._supervision.exited(serial, 1, self._clock()))
            return
        ours.setblocking(False)
        sys.stdout.flush()
        sys.stderr.flush()
        # No signal of ours between the fork and the moment from which it has its own handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
        try:
            pid = os.fork()
            if not pid:
                ours.close()
                successor = seat in self._seated
                self._live(NewProcess(seat, serial, listening, theirs, successor))
        except OSError as fault:
            # No memory, or no process more: the others go on, and it is tried again later.
            log.error("fork_failed", extra={"of": _named(seat), "reason": str(fault)})  # noqa: TRY400
            ours.close()
            theirs.close()
            self._do(self._supervision.exited(serial, _CRASHED, self._clock()))
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)
        self._seated.add(seat)
        theirs.close()
        self._children[serial] = _Child(pid, seat, ours)
        self._selector.register(ours, selectors.EVENT_READ, serial)

    def _live(self, new: NewProcess) -> None:
        """In the new process: be it, and never return."""
        code = _CRASHED
        try:
            signal.set_wakeup_fd(-1)
            for number in _OURS:
                signal.signal(number, signal.SIG_DFL)
            # Meant for the supervisor, but whoever sends it may well name a whole group.
            signal.signal(REPLACE, signal.SIG_IGN)
            signal.signal(RELOAD, signal.SIG_IGN)
            self._selector.close()
            for end in (self._woken, self._wake, *(c.channel for c in self._children.values())):
                end.close()
            self._seats.leave(new.seat)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)
            code = self._become(new)
        except BaseException:  # noqa: BLE001 - nothing of it may reach the supervisor's frames
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _tell_roster(self) -> None:
        supervision = self._supervision
        members = tuple(
            Member(p.serial, p.seat, self._children[p.serial].pid, p.state.value)
            for p in supervision.processes
            if p.seat != FRONT and p.serial in self._children
        )
        seats = len(self._seats.addresses)
        roster = Roster(
            seats=seats,
            members=members,
            lost=tuple(seat for seat in range(seats) if supervision.lost(seat)),
            failures=tuple(supervision.failures(seat) for seat in range(seats)),
            restarts=dict(supervision.restarts),
            last=self._last_serial,
            stopping=supervision.stopping,
        )
        if roster != self._roster:
            try:
                self._shelf.write_roster(roster)
            except OSError as fault:  # the disk is full, say; the main job goes on
                log.warning("roster_not_written", extra={"reason": str(fault)})
                return
            self._roster = roster


def settle_memory() -> None:
    """Before the first fork: have the collector leave alone what is there, so that its pages stay
    shared."""
    gc.collect()
    give_back()
    gc.freeze()


def one_thread() -> bool:
    """Whether this process can be forked safely."""
    try:
        return len(list(Path("/proc/self/task").iterdir())) == 1
    except OSError:  # not Linux
        return True


def _named(seat: int) -> int | str:
    return "admin" if seat == FRONT else seat


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
