"""Kills the sidecar again and again under load, and asks at the end what became of every request.

The real Envoy, the real Redis, a sidecar process of its own that is killed with SIGKILL and started
again on the same outbox; stand-ins that write down what they served and billed.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from sentinel_extproc.demo.openai_standin import OpenAIStandIn
from sentinel_extproc.demo.stack import Stack, start_stack
from sentinel_extproc.demo.zion_faults import FaultKind, ZionCall
from sentinel_extproc.demo.zion_standin import ZionStandIn
from sentinel_extproc.demo.zion_state import ZionUser
from tests.faults.reconcile import Report, reconcile
from tests.faults.soak_books import Outbox, Provider, billed
from tests.faults.soak_load import Load
from tests.faults.soak_plan import Cycle, KillAt, RedisFate

_PLENTY = 2**50
USERS = tuple(
    ZionUser(
        f"soak-{name}",
        f"u-{name}",
        f"ext-{name}",
        f"{name}@example.com",
        input_tokens=_PLENTY,
        output_tokens=_PLENTY,
        requests=_PLENTY,
    )
    for name in ("ada", "bo", "cy", "di")
)
SETTINGS = {
    "SENTINEL_PROVIDER__TELL_IDENTITY": "true",
    "SENTINEL_LIMITS__REQUESTS": "1000000000",
    "SENTINEL_USAGE__REPORT_INTERVAL_SECONDS": "0.1",
    "SENTINEL_USAGE__SHUTDOWN_SECONDS": "2",
    "SENTINEL_ZION__REPORT_DEADLINE_SECONDS": "1",
    # Short, so that draining also hands answers back.
    "SENTINEL_SERVER__DRAIN_SECONDS": "0.2",
    "SENTINEL_SERVER__HAND_BACK_SECONDS": "1",
}
_CHUNK_DELAY_S = 0.008
_UNDER_LOAD = 15
"""Requests that reach the provider before a cycle begins to look for its moment."""


@dataclass(slots=True)
class Outcome:
    """What a soak found.

    Attributes:
        statuses: what clients saw.
        ambiguous: items that the sidecars called so; None where Zion knows items again.
        duplicates: items that Zion got again.
    """

    report: Report
    statuses: Counter[str]
    ambiguous: int | None
    duplicates: int
    took_s: float
    settled_after_s: float


@dataclass(slots=True)
class Soak:
    """One run.

    Args:
        work_dir: its path must be short.
        seed: of the load.
        deduplicates: whether Zion knows items again.
    """

    work_dir: Path
    seed: int
    deduplicates: bool
    settle_within_s: float = 90.0
    progress: Callable[[str], None] = lambda _: None
    _provider: Provider = field(default_factory=Provider)
    _ambiguous: int = 0

    def run(self, cycles: Sequence[Cycle]) -> Outcome:
        """All cycles, then the books."""
        started = time.monotonic()
        with start_stack(
            work_dir=self.work_dir,
            settings=SETTINGS,
            users=USERS,
            zion_deduplicates=self.deduplicates,
            redis_durable=True,
            chunk_delay_s=_CHUNK_DELAY_S,
        ) as stack:
            with Load(stack.url, [user.token for user in USERS], seed=self.seed) as load:
                for number, cycle in enumerate(cycles):
                    self.progress(f"{number + 1} of {len(cycles)}: {cycle}")
                    self._cycle(stack, load, cycle)
                    self._note(stack)
            settling = time.monotonic()
            self._settle(stack)
            return Outcome(
                report=self._books(stack, load),
                statuses=load.statuses,
                ambiguous=None if self.deduplicates else self._ambiguous,
                duplicates=_zion(stack).duplicates,
                took_s=time.monotonic() - started,
                settled_after_s=time.monotonic() - settling,
            )

    def _cycle(self, stack: Stack, load: Load, cycle: Cycle) -> None:
        zion = _zion(stack)
        requests = _More(lambda: len(_openai(stack).requests()))
        self._break_zion(stack, cycle)
        requests.wait(_UNDER_LOAD, "there was load")
        if not self.deduplicates:
            self._count_ambiguous(stack, cycle)
        redis_dies = cycle.redis is not RedisFate.UNHURT
        if redis_dies and cycle.redis_first:
            stack.redis.process.kill()
        self._await_moment(stack, load, cycle)
        stack.sidecar.process.kill()
        if redis_dies and not cycle.redis_first:
            stack.redis.process.kill()
        if not cycle.zion.outlives:
            zion.clear_faults()
        forget = cycle.redis is RedisFate.FORGETS
        if redis_dies and not cycle.redis_late:
            stack.redis.restart(forget=forget)
        stack.sidecar.restart()
        if redis_dies and cycle.redis_late:
            stack.redis.restart(forget=forget)

    def _break_zion(self, stack: Stack, cycle: Cycle) -> None:
        zion, fate = _zion(stack), cycle.zion
        zion.clear_faults()
        if fate.kind is None:
            return
        times = None if fate.kind is FaultKind.PARTIAL else fate.times
        zion.set_fault(ZionCall.BATCH, fate.kind, times=times, email=USERS[0].email)

    def _await_moment(self, stack: Stack, load: Load, cycle: Cycle) -> None:
        match cycle.kill_at:
            case KillAt.REQUEST:
                _More(lambda: len(_openai(stack).requests())).wait(1, "a request came")
            case KillAt.FIRST_CHUNK:
                _More(lambda: load.first_chunks).wait(1, "an answer began")
            case KillAt.ANSWER_END:
                _More(lambda: len(_openai(stack).served())).wait(1, "an answer ended")
            case KillAt.REPORT:
                # In an outage there is none: then the time-out is the moment.
                _More(lambda: len(_zion(stack).requests())).look(1, within_s=1.0)
            case KillAt.DRAINING:
                stack.sidecar.process.signal(signal.SIGTERM)
        time.sleep(cycle.delay_s)

    def _settle(self, stack: Stack) -> None:
        """Let all be reported. A last restart ends back-offs, which can be a minute long."""
        _zion(stack).clear_faults()
        if self.deduplicates:
            stack.sidecar.process.kill()
            stack.redis.restart(forget=True)
            stack.sidecar.restart()
        outbox = self._outbox()
        _until(lambda: outbox.left() == 0, "all was reported", within_s=self.settle_within_s)
        if not self.deduplicates:
            self._ambiguous += _ambiguous(self.work_dir)
        code = stack.sidecar.stop()
        assert code == 0, f"the sidecar ended with {code}:\n{stack.sidecar.process.log_tail()}"

    def _books(self, stack: Stack, load: Load) -> Report:
        self._note(stack)
        outbox = self._outbox()
        assert outbox.deleted() == 0, "records were deleted: the soak is too long for the retention"
        return reconcile(
            self._provider.served(load.seen),
            outbox.recorded(),
            billed(_zion(stack).ledger()),
            outbox.held(),
            ambiguous=None if self.deduplicates else self._ambiguous,
        )

    def _note(self, stack: Stack) -> None:
        self._provider.note(_openai(stack).requests(), _openai(stack).served())

    def _outbox(self) -> Outbox:
        return Outbox(self.work_dir / "outbox.db")

    def _count_ambiguous(self, stack: Stack, cycle: Cycle) -> None:
        """Add what this life of the sidecar has counted; it must not count more before its end.

        So nothing may fail any more: what the kill itself makes ambiguous, the next life counts.
        """
        zion = _zion(stack)
        if cycle.zion.kind is not None:
            _More(lambda: len(zion.requests())).look(cycle.zion.times, within_s=2.0)
        zion.clear_faults()
        _More(lambda: sum(call.items > 0 for call in zion.requests())).wait(2, "reports passed")
        self._ambiguous += _ambiguous(self.work_dir)


class _More:
    """Waits until a count has grown."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._before = count()

    def look(self, by: int, *, within_s: float) -> bool:
        end = time.monotonic() + within_s
        while self._count() < self._before + by:
            if time.monotonic() >= end:
                return False
            time.sleep(0.001)
        return True

    def wait(self, by: int, what: str) -> None:
        assert self.look(by, within_s=60.0), f"waited in vain until {what}"


def _until(condition: Callable[[], bool], what: str, *, within_s: float) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.05)


def _ambiguous(work_dir: Path) -> int:
    """How many items the running sidecar has called ambiguous, by its metric."""
    name = 'sentinel_report_items_total{result="ambiguous"}'
    transport = httpx.HTTPTransport(uds=str(work_dir / "admin.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost") as client:
        text = client.get("/metrics").raise_for_status().text
    values = [line.split()[-1] for line in text.splitlines() if line.startswith(name)]
    return int(float(values[0])) if values else 0


def _zion(stack: Stack) -> ZionStandIn:
    assert stack.zion is not None
    return stack.zion


def _openai(stack: Stack) -> OpenAIStandIn:
    assert stack.openai is not None
    return stack.openai
