"""The supervisor's decisions under any order of events, with a clock of our own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sentinel_extproc.workers.supervision import (
    FRONT,
    CloseSeat,
    Command,
    End,
    Kill,
    Leave,
    Rules,
    Spawn,
    State,
    Supervision,
)

RULES = Rules(silent_s=5, start_s=20, drain_s=50, delay_s=1, most_delay_s=8, stable_s=30)


class Fleet(RuleBasedStateMachine):
    """Processes that do what they like, and a supervisor that is told of it."""

    @initialize(seats=strategies.integers(1, 4), front=strategies.booleans())
    def begin(self, seats: int, front: bool) -> None:
        self.now = 1000.0
        self.seats = [*range(seats), *([FRONT] if front else [])]
        self.supervision = Supervision(seats, front=front, rules=RULES)
        self.alive: dict[int, int] = {}
        self.hung: set[int] = set()
        self.told: set[int] = set()
        self.closed: set[int] = set()
        self.queue: deque[Command] = deque()
        self.doing = False
        self.ended: int | None = None
        self.ever_ready: set[int] = set()
        self.do(self.supervision.start(self.now))

    def do(self, commands: list[Command]) -> None:
        """In their order, as the supervisor does."""
        self.queue.extend(commands)
        if self.doing:
            return
        self.doing = True
        while self.queue:
            self.do_one(self.queue.popleft())
        self.doing = False

    def do_one(self, command: Command) -> None:
        assert self.ended is None
        match command:
            case Spawn(seat, serial):
                assert serial not in self.alive
                if self.supervision.stopping:  # decided meanwhile
                    self.do(self.supervision.exited(serial, 0, self.now))
                    return
                self.closed.discard(seat)
                self.alive[serial] = seat
            case Leave(serial, replaced):
                if serial not in self.alive:
                    return
                if replaced:  # somebody else serves there already
                    other = self.supervision.serving(self.alive[serial])
                    assert other is not None
                    assert other.serial != serial
                self.told.add(serial)
            case Kill(serial):
                if serial in self.alive:
                    self.gone(serial, -9)
            case CloseSeat(seat):
                assert self.supervision.serving(seat) is None
                self.closed.add(seat)
            case End(code):
                assert not self.alive
                self.ended = code

    def gone(self, serial: int, code: int) -> None:
        del self.alive[serial]
        self.hung.discard(serial)
        self.do(self.supervision.exited(serial, code, self.now))

    def pick(self, data: strategies.DataObject, which: Callable[[int], bool]) -> int | None:
        found = sorted(serial for serial in self.alive if which(serial))
        return data.draw(strategies.sampled_from(found)) if found else None

    def state(self, serial: int) -> State:
        return next(p.state for p in self.supervision.processes if p.serial == serial)

    @rule(data=strategies.data())
    def gets_ready(self, data: strategies.DataObject) -> None:
        serial = self.pick(data, lambda one: self.state(one) is State.STARTING)
        if serial is not None and serial not in self.hung:
            self.ever_ready.add(self.alive[serial])
            self.do(self.supervision.ready(serial, self.now))

    @rule(data=strategies.data(), code=strategies.sampled_from([0, 1, 2, -9, -11]))
    def dies(self, data: strategies.DataObject, code: int) -> None:
        serial = self.pick(data, lambda _: True)
        if serial is not None:
            self.gone(serial, code)

    @rule(data=strategies.data())
    def leaves_as_told(self, data: strategies.DataObject) -> None:
        serial = self.pick(data, lambda one: one in self.told and one not in self.hung)
        if serial is not None:
            self.gone(serial, 0)

    @rule(data=strategies.data())
    def hangs(self, data: strategies.DataObject) -> None:
        serial = self.pick(data, lambda _: True)
        if serial is not None:
            self.hung.add(serial)

    @rule(seconds=strategies.floats(0.1, 60))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end and self.ended is None:
            self.now += 1.0
            for serial in self.alive:
                if serial not in self.hung:
                    self.supervision.heard(serial, self.now)
            self.do(self.supervision.tick(self.now))

    @rule(seconds=strategies.floats(10, 10_000))
    def the_machine_stands_still(self, seconds: float) -> None:
        """Nobody could say a word, so nobody is to blame."""
        starting = {one for one in self.alive if self.state(one) is State.STARTING}
        before = set(self.alive) - starting - self.hung
        for serial in before:
            self.supervision.heard(serial, self.now)
        self.do(self.supervision.tick(self.now))
        before &= set(self.alive)
        self.now += seconds
        commands = self.supervision.tick(self.now)
        assert not {one.serial for one in commands if isinstance(one, Kill)} & before
        self.do(commands)

    @rule()
    def replace(self) -> None:
        self.do(self.supervision.replace(self.now))

    @precondition(lambda self: not self.supervision.stopping)
    @rule()
    def stop(self) -> None:
        self.do(self.supervision.stop(self.now))

    @invariant()
    def a_seat_has_one_who_serves(self) -> None:
        for seat in self.seats:
            states = [p.state for p in self.supervision.processes if p.seat == seat]
            assert states.count(State.SERVING) <= 1
            assert states.count(State.STARTING) <= 1
            assert states.count(State.LEAVING) <= 1 or self.supervision.stopping

    @invariant()
    def replacing_takes_one_at_a_time(self) -> None:
        if not self.supervision.stopping:
            leaving = [p for p in self.supervision.processes if p.state is State.LEAVING]
            assert len(leaving) <= 1
            for process in leaving:  # its successor serves, or died and has one itself
                others = [p for p in self.supervision.processes if p.seat == process.seat]
                assert len(others) > 1 or process.seat in self.closed

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Every seat has a process, or will have one soon."""
        if self.supervision.stopping:
            assert self.alive or self.ended is not None
            return
        taken = {p.seat for p in self.supervision.processes if p.state is not State.LEAVING}
        for seat in self.seats:
            assert seat in taken or seat in self.closed

    def teardown(self) -> None:
        """Left alone, all seats are served again; told to stop, all end in time."""
        if not hasattr(self, "supervision"):
            return
        self.hung.clear()
        if not self.supervision.stopping:
            for _ in range(30):
                for serial in list(self.alive):
                    if self.alive.get(serial) is not None and self.state(serial) is State.STARTING:
                        self.do(self.supervision.ready(serial, self.now))
                for serial in self.told & set(self.alive):
                    self.gone(serial, 0)
                self.time_passes(1.0)
            assert all(self.supervision.serving(seat) for seat in self.seats)
            assert not self.supervision.rolling
            self.do(self.supervision.stop(self.now))
        self.hung = set(self.alive)  # and nobody does as told
        for _ in range(200):
            self.time_passes(1.0)
        assert self.ended is not None


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
