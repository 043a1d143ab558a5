"""Which processes run: started, replaced, told to leave, killed. Pure; the clock is handed in.

Seats are places that must be taken: one for each worker, and ``FRONT`` for the admin port. A
process takes a seat from its start to its end. While a worker is replaced two have the same seat:
the new one starts, and only when it is ready is the old one told to leave.

Rules:
- A process that ends by itself is followed by another: the first time at once, then after a time
  that doubles with every failure until one has served for ``stable_s``.
- One that isn't heard of for ``silent_s``, or isn't ready within ``start_s``, is killed.
- If a seat was never taken and its process says that it can't start, nothing will help: all end.
- Replacing goes seat by seat, and stops at the first new process that doesn't get ready.
- Time in which the supervisor itself didn't run counts for nobody: the whole machine stood still.
"""

from __future__ import annotations

import enum
import signal
from collections import Counter
from dataclasses import dataclass, field

FRONT = -1
"""The seat of the admin port."""

CANT_START = (1, 2)
"""Exit codes of a process that says so."""

STANDSTILL_S = 2.0
"""Between two ticks: more is a standstill."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds, and failures in a row.

    Attributes:
        silent_s: without a heartbeat; start_s: from the start until it is ready.
        drain_s: from being told to leave to the end.
        delay_s, most_delay_s: before the second new start, and at most.
        stable_s: after so long failures are forgotten.
        give_up_after: from so many on the seat counts as lost, though it is tried on.
    """

    silent_s: float = 10.0
    start_s: float = 60.0
    drain_s: float = 640.0
    delay_s: float = 0.5
    most_delay_s: float = 30.0
    stable_s: float = 60.0
    give_up_after: int = 5


class State(enum.StrEnum):
    """Of a process."""

    STARTING = "starting"
    SERVING = "serving"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process for a seat; ``serial`` is its own for ever."""

    seat: int
    serial: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Tell it to drain and end; ``replaced``: another one serves at its address."""

    serial: int
    replaced: bool


@dataclass(frozen=True, slots=True)
class Kill:
    """End it, since it doesn't do so itself; ``why`` is for the log."""

    serial: int
    why: str


@dataclass(frozen=True, slots=True)
class CloseSeat:
    """Nobody will serve there for a while: refuse connections, so that they go elsewhere."""

    seat: int


@dataclass(frozen=True, slots=True)
class End:
    """All have ended; so does the supervisor, with this exit code."""

    code: int


Command = Spawn | Leave | Kill | CloseSeat | End


@dataclass(slots=True)
class Process:
    """One process, as the supervisor knows it. Times are of the clock that is handed in."""

    serial: int
    seat: int
    since: float
    heard: float
    state: State = State.STARTING
    killed: str = ""


@dataclass(slots=True)
class _Seat:
    failures: int = 0
    due: float | None = None
    ever_ready: bool = False


@dataclass(slots=True)
class _Roll:
    left: list[int] = field(default_factory=list)
    serial: int | None = None
    """The new process, from its start until the old one has ended."""


class Supervision:
    """The decisions of one supervisor.

    Args:
        seats: numbers of the workers' seats.
        front: whether there is an admin port.
    """

    def __init__(self, seats: int, *, front: bool, rules: Rules) -> None:
        self._rules = rules
        self._seats = {seat: _Seat() for seat in [*range(seats), *([FRONT] if front else [])]}
        self._processes: dict[int, Process] = {}
        self._serial = 0
        self._roll = _Roll()
        self._ticked: float | None = None
        self._stop_by: float | None = None
        self._code = 0
        self.restarts: Counter[str] = Counter()
        """Processes that were followed by another, by why."""

    # What is known

    @property
    def processes(self) -> tuple[Process, ...]:
        """Those that haven't ended."""
        return tuple(self._processes.values())

    @property
    def stopping(self) -> bool:
        """Whether all are to end."""
        return self._stop_by is not None

    @property
    def rolling(self) -> bool:
        """Whether workers are being replaced."""
        return bool(self._roll.left) or self._roll.serial is not None

    def serving(self, seat: int) -> Process | None:
        """Who serves in a seat."""
        found = (p for p in self._processes.values() if p.seat == seat)
        return next((p for p in found if p.state is State.SERVING), None)

    def failures(self, seat: int) -> int:
        """Of its processes in a row."""
        return self._seats[seat].failures

    def lost(self, seat: int) -> bool:
        """Whether it failed too often to count on it; until one has served for ``stable_s``."""
        return self._seats[seat].failures >= self._rules.give_up_after

    # What happens

    def start(self, now: float) -> list[Command]:
        """Begin; once."""
        return [self._spawn(seat, now) for seat in self._seats]

    def heard(self, serial: int, now: float) -> None:
        """A heartbeat."""
        if serial in self._processes:
            self._processes[serial].heard = now

    def ready(self, serial: int, now: float) -> list[Command]:
        """It serves."""
        process = self._processes.get(serial)
        if process is None or process.state is not State.STARTING:
            return []
        before = self.serving(process.seat)
        process.state, process.since, process.heard = State.SERVING, now, now
        self._seats[process.seat].ever_ready = True
        return [] if before is None else [self._tell(before, now, replaced=True)]

    def exited(self, serial: int, code: int, now: float) -> list[Command]:
        """It ended: an exit code, negative for a signal."""
        process = self._processes.pop(serial, None)
        if process is None:
            return []
        if self.stopping:
            if process.killed or code not in (0, -signal.SIGTERM):
                self._code = self._code or 1
            return self._end_if_all_did(now)
        others = [p for p in self._processes.values() if p.seat == process.seat]
        if self._roll.serial in (process.serial, *(p.serial for p in others)):
            self._roll.serial = None  # well or not, this seat's replacement is over
        if process.state is State.LEAVING:
            self.restarts[process.killed or "replaced"] += 1
            return self._next_of_roll(now)
        if any(p.state is State.SERVING for p in others):  # it never got ready
            self.restarts["replacement_failed"] += 1
            self._roll = _Roll()
            return []
        if any(p.state is State.STARTING for p in others):  # its replacement is on the way
            self.restarts[process.killed or "died"] += 1
            return []
        return self._failed(process, code, now)

    def tick(self, now: float) -> list[Command]:
        """Time passes; at least every ``STANDSTILL_S``."""
        self._forgive_standstill(now)
        commands: list[Command] = []
        for process in self._processes.values():
            why = self._overdue(process, now)
            if why and not process.killed:
                process.killed = why
                commands.append(Kill(process.serial, why))
            elif process.state is State.SERVING and now - process.since >= self._rules.stable_s:
                self._seats[process.seat].failures = 0
        if not self.stopping:
            for number, seat in self._seats.items():
                if seat.due is not None and now >= seat.due:
                    commands.append(self._spawn(number, now))
            commands += self._next_of_roll(now)
        return commands

    def replace(self, now: float) -> list[Command]:
        """Replace every worker, one after the other, while the others serve. Once more while that
        goes on begins anew."""
        if self.stopping:
            return []
        self._roll.left = [seat for seat in self._seats if seat != FRONT]
        return self._next_of_roll(now)

    def stop(self, now: float, code: int = 0) -> list[Command]:
        """Let all drain and end; the admin port is the last."""
        if self.stopping:
            return []
        self._stop_by, self._code, self._roll = now + self._rules.drain_s, code, _Roll()
        workers = [p for p in self._processes.values() if p.seat != FRONT]
        told: list[Command] = [
            self._tell(p, now, replaced=False) for p in workers if p.state is not State.LEAVING
        ]
        return told + self._end_if_all_did(now)

    # How

    def _spawn(self, seat: int, now: float) -> Spawn:
        self._serial += 1
        self._seats[seat].due = None
        self._processes[self._serial] = Process(self._serial, seat, since=now, heard=now)
        return Spawn(seat, self._serial)

    def _tell(self, process: Process, now: float, *, replaced: bool) -> Leave:
        process.state, process.since = State.LEAVING, now
        return Leave(process.serial, replaced)

    def _failed(self, process: Process, code: int, now: float) -> list[Command]:
        seat, rules = self._seats[process.seat], self._rules
        served_s = now - process.since if process.state is State.SERVING else 0.0
        seat.failures = 1 if served_s >= rules.stable_s else seat.failures + 1
        hopeless = code in CANT_START or seat.failures >= rules.give_up_after
        if not seat.ever_ready and hopeless:
            return self.stop(now, code if code in CANT_START else 1)
        self.restarts[process.killed or "died"] += 1
        if seat.failures == 1:
            return [self._spawn(process.seat, now)]
        exponent = min(seat.failures - 2, 32)
        seat.due = now + min(rules.most_delay_s, rules.delay_s * 2**exponent)
        return [CloseSeat(process.seat)]

    def _next_of_roll(self, now: float) -> list[Command]:
        """Begin with the next seat, once every seat is served and nobody is on the way."""
        if not self._roll.left or self._roll.serial is not None or self.stopping:
            return []
        workers = [p for p in self._processes.values() if p.seat != FRONT]
        served = all(self.serving(seat) for seat in self._seats if seat != FRONT)
        if not served or any(p.state is not State.SERVING for p in workers):
            return []
        spawned = self._spawn(self._roll.left.pop(0), now)
        self._roll.serial = spawned.serial
        return [spawned]

    def _end_if_all_did(self, now: float) -> list[Command]:
        left = self._processes.values()
        if not left:
            return [End(self._code)]
        if all(p.seat == FRONT and p.state is not State.LEAVING for p in left):
            return [self._tell(p, now, replaced=False) for p in left]
        return []

    def _overdue(self, process: Process, now: float) -> str:
        rules = self._rules
        if process.state is State.STARTING:
            return "slow_start" if now - process.since > rules.start_s else ""
        if now - process.heard > rules.silent_s:
            return "silent"
        if process.state is State.LEAVING and now - process.since > rules.drain_s:
            return "slow_end"
        if self._stop_by is not None and now > self._stop_by + rules.silent_s:
            return "slow_end"
        return ""

    def _forgive_standstill(self, now: float) -> None:
        last, self._ticked = self._ticked, now
        if last is None or (missed := now - last) <= STANDSTILL_S:
            return
        for process in self._processes.values():
            process.heard += missed
            process.since += missed
        if self._stop_by is not None:
            self._stop_by += missed
