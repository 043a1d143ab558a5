"""What happens when the store does not answer: one retry by id, then each limit's own rung.

``local`` admits a bounded share from this process' memory, ``deny`` refuses, ``allow`` waives. What
was admitted meanwhile is charged to the store as debt when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from ..facts import EmitLimitFact, StoreLost, StoreRegained, emit_nothing
from ..limit import Kind, OnOutage
from . import (
    Claim,
    Decision,
    Line,
    LineVerdict,
    SettlesSoon,
    Store,
    StoreError,
    StoreUntriedError,
    Verdict,
)
from .memory import MemoryStore
from .outage import Outage
from .replicas import ReplicaCounter
from .shares import local_share

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Key = tuple[str, str]

_CALENDAR = Kind.CALENDAR
_OWNERS_PER_PROBE = 4
_REPLAY_AT_ONCE = 16
_REPLAY_ROUNDS = 10
"""While one round runs, more is admitted; what is left after the last one is charged when settled.
"""


@dataclass(slots=True)
class _Admitted:
    """An exchange that was admitted here: what it holds, and the part that is counted locally.

    ``places`` are the indexes of the claim's lines that ``local`` has; ``final`` is its settlement
    once it has ended, ``replayed`` whether the primary knows of it.
    """

    claim: Claim
    local: Claim
    places: tuple[int, ...]
    final: Claim | None = None
    replayed: bool = False


def wall_clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Ladder:
    """A store that stays able to decide when the one it leans on is away.

    Args:
        primary: usually ``RedisStore``.
        replicas: how many share a limit locally; None when this is the only one.
        local: counts meanwhile.
        outage: decides when the primary is away.
        max_open: exchanges admitted locally whose debt is not yet charged; beyond it, refuse.
        max_known: calendar quotas whose rest is remembered, the most recent ones.
    """

    def __init__(
        self,
        primary: Store,
        *,
        replicas: ReplicaCounter | None = None,
        local: MemoryStore | None = None,
        outage: Outage | None = None,
        max_open: int = 100_000,
        max_known: int = 50_000,
        emit: EmitLimitFact = emit_nothing,
    ) -> None:
        self._primary = primary
        self._settle_soon = primary.settle_soon if isinstance(primary, SettlesSoon) else None
        self._replicas = replicas
        self._local = local if local is not None else MemoryStore(wall_clock_ms)
        self._outage = outage if outage is not None else Outage()
        self._max_open = max_open
        self._max_known = max_known
        self._emit = emit
        self._open: dict[_Key, _Admitted] = {}
        self._left: OrderedDict[_Key, tuple[int, int]] = OrderedDict()
        self._outages = 0
        self._probes = itertools.count()
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def down(self) -> bool:
        """Whether limits decide by themselves at the moment."""
        return self._outage.down

    async def start(self) -> None:
        """See ``Store.start``."""
        await self._primary.start()
        if self._replicas is not None:
            self._replicas.start()
        # Connects before the first request does, and finds out at once when nobody is there.
        self._watch_soon(at_least_once=True)

    async def reserve(self, claim: Claim) -> Verdict:
        """See ``Store.reserve``."""
        tried = False
        if not self._outage.down:
            try:
                try:
                    verdict = await self._primary.reserve(claim)
                except StoreError as error:
                    verdict = await self._again(error, lambda: self._primary.reserve(claim))
                    if verdict.decision is Decision.DENIED:
                        # On another connection the first attempt may arrive later, when there is
                        # room again.
                        verdict = replace(verdict, unsure=True)
            except StoreUntriedError:
                pass
            except StoreError:
                tried = True
            else:
                self._outage.succeeded(time.monotonic())
                self._remember(claim, verdict)
                return verdict
        return replace(await self._decide_here(claim, tried=tried), unsure=tried)

    async def extend(self, claim: Claim) -> Verdict:
        """See ``Store.extend``."""
        admitted = self._open.get((claim.owner, claim.id))
        if admitted is not None:
            verdict = await self._local.extend(_part(admitted, claim))
            if verdict.decision is Decision.ADMITTED:
                admitted.claim = replace(claim, at_ms=admitted.claim.at_ms)
            return _whole(claim, admitted.places, verdict)
        if self._outage.down:
            raise StoreUntriedError("the store is away")
        try:
            verdict = await self._primary.extend(claim)
        except StoreError as error:
            verdict = await self._again(error, lambda: self._primary.extend(claim))
        self._outage.succeeded(time.monotonic())
        return verdict

    async def settle(self, claim: Claim) -> None:
        """See ``Store.settle``. What was admitted here is settled here at once, there when it can
        be."""
        admitted = self._open.get((claim.owner, claim.id))
        if admitted is not None and admitted.final is None:
            admitted.final = claim
            await self._local.settle(_part(admitted, claim))
        if self._outage.down:
            raise StoreUntriedError("the store is away")
        try:
            await self._primary.settle(claim)
        except StoreError as error:
            await self._again(error, lambda: self._primary.settle(claim))
        self._outage.succeeded(time.monotonic())
        self._open.pop((claim.owner, claim.id), None)

    def settle_soon(self, claim: Claim, done: Callable[[Exception | None], None]) -> bool:
        """See ``SettlesSoon.settle_soon``: while there is only the primary to settle it in."""
        if self._settle_soon is None or self._outage.down or self._open:
            return False
        return self._settle_soon(claim, partial(self._settled, done))

    def _settled(self, done: Callable[[Exception | None], None], error: Exception | None) -> None:
        if error is None:
            self._outage.succeeded(time.monotonic())
        elif isinstance(error, StoreError) and not isinstance(error, StoreUntriedError):
            self._failed(error)
        done(error)

    async def ping(self) -> None:
        """See ``Store.ping``: about the primary."""
        await self._primary.ping()

    async def close(self) -> None:
        """See ``Store.close``."""
        self._closed = True
        if self._replicas is not None:
            await self._replicas.stop()
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        await self._primary.close()

    async def _again(self, error: StoreError, call: Callable[[], Awaitable[_T]]) -> _T:
        """Ask the primary once more after ``error``: every command is safe to repeat.

        Raises:
            StoreUntriedError: no attempt can have changed anything.
            StoreError: one may have.
        """
        if isinstance(error, StoreUntriedError):
            raise error
        self._failed(error)
        if self._outage.down:
            raise error
        try:
            return await call()
        except StoreUntriedError as untried:
            # Untried is only the repetition; the first attempt may have been applied.
            raise StoreError(f"an answer was lost; then {untried}") from untried
        except StoreError as fault:
            self._failed(fault)
            raise

    def _failed(self, error: StoreError) -> None:
        if self._closed:
            return  # what is under way fails because we end: that is no outage, nor to be watched
        if self._outage.failed(time.monotonic()):
            self._lost(error)
        self._watch_soon()

    def _watch_soon(self, *, at_least_once: bool = False) -> None:
        if self._watcher is None or self._watcher.done():
            watch = self._watch(at_least_once=at_least_once)
            self._watcher = asyncio.create_task(watch, name="limits-store-watcher")

    def _lost(self, error: StoreError) -> None:
        self._outages += 1
        self._emit(StoreLost(str(error)))

    async def _watch(self, *, at_least_once: bool) -> None:
        """Probe while there is doubt."""
        while at_least_once or self._outage.suspected:
            at_least_once = False
            try:
                await self._probe()
                replayed = await self._replay()
            except StoreError as error:
                if self._outage.probe_failed(time.monotonic()):
                    self._lost(error)
                await asyncio.sleep(self._outage.probe_every_s)
            else:
                now_s = time.monotonic()
                after_s = now_s - self._outage.since_s
                if self._outage.probe_succeeded(now_s):
                    self._emit(StoreRegained(after_s, replayed))

    async def _probe(self) -> None:
        # First connect, without the budget of a request; then a write, which a read-only or full
        # Redis refuses. Owners rotate: in a cluster, any shard that works is service.
        await self._primary.ping()
        for attempt in range(1, _OWNERS_PER_PROBE + 1):
            owner = f"probe{next(self._probes) % 64}"
            try:
                await self._primary.settle(Claim(uuid.uuid4().hex, owner, ()))
            except StoreError:
                if attempt == _OWNERS_PER_PROBE:
                    raise
            else:
                return

    async def _replay(self) -> int:
        """Charge what was admitted here, before the primary decides again; returns how many.

        Raises:
            StoreError: it took none of them.
        """
        tried: set[_Key] = set()
        for _ in range(_REPLAY_ROUNDS):
            waiting = [
                (key, admitted)
                for key, admitted in self._open.items()
                if not admitted.replayed and key not in tried
            ]
            if not waiting:
                break
            tried.update(key for key, _ in waiting)
            for start in range(0, len(waiting), _REPLAY_AT_ONCE):
                batch = waiting[start : start + _REPLAY_AT_ONCE]
                await asyncio.gather(*(self._replay_one(admitted) for _, admitted in batch))
        done = [key for key, admitted in self._open.items() if admitted.replayed]
        if tried and not done:
            raise StoreError("debt could not be charged")
        # From here on the primary's record is what growing and settling adjust. All at once: one
        # that is settled while another leaves is gone by itself.
        for admitted in [self._open.pop(key) for key in done]:
            await self._leave(admitted)
        return len(done)

    async def _replay_one(self, admitted: _Admitted) -> None:
        try:
            if admitted.final is not None:
                await self._primary.settle(admitted.final)
            else:
                await self._primary.extend(_as_debt(admitted.claim))
        except StoreError as error:
            # One shard of several, perhaps: it is charged when it is settled.
            log.debug("debt is not charged yet: %s", error)
        else:
            admitted.replayed = True

    async def _leave(self, admitted: _Admitted) -> None:
        """The primary counts it now: what is under way is so there; what was used stays here."""
        if admitted.final is None and admitted.local.of_kind(Kind.CONCURRENCY):
            with contextlib.suppress(StoreError):
                await self._local.settle(_part(admitted, admitted.claim))

    async def _decide_here(self, claim: Claim, *, tried: bool) -> Verdict:
        error = StoreError if tried else StoreUntriedError
        places: list[int] = []
        lines: list[Line] = []
        for index, line in enumerate(claim.lines):
            if line.limit.shadow or line.limit.on_outage is OnOutage.ALLOW:
                continue
            if line.limit.on_outage is OnOutage.DENY:
                raise error(f"limit {line.limit.name} can't be checked", rung="deny")
            places.append(index)
            lines.append(self._local_line(claim.owner, line, error))
        if len(self._open) >= self._max_open:
            raise error("too many exchanges were admitted without the store", rung="local")
        now_ms = wall_clock_ms()
        local = Claim(claim.id, claim.owner, tuple(lines), at_ms=now_ms)
        admitted = _Admitted(replace(claim, at_ms=now_ms), local, tuple(places))
        verdict = await self._local.reserve(local)
        if verdict.decision is Decision.ADMITTED:
            self._open[claim.owner, claim.id] = admitted
            self._forget_share(claim, admitted.places)
        whole = _whole(claim, admitted.places, verdict)
        waived = claim.lines and not places
        return replace(whole, degraded="allow" if waived else "local")

    def _local_line(self, owner: str, line: Line, error: type[StoreError]) -> Line:
        left = self._known_left(owner, line)
        replicas = self._replicas.count if self._replicas is not None else 1
        share = local_share(line.limit, replicas, left)
        if share is None:
            if line.amount > 0:
                raise error(f"limit {line.limit.name} leaves this replica no share", rung="local")
            share = line.limit
        # What is left of a quota is known anew in every outage; rates are counted through them all.
        key = line.key if share.kind is not Kind.CALENDAR else f"{line.key}@{self._outages}"
        return Line(share, key, line.amount)

    def _known_left(self, owner: str, line: Line) -> int | None:
        if line.limit.kind is not Kind.CALENDAR:
            return None
        left, until_ms = self._left.get((owner, line.key), (None, 0))
        if left is None or 0 <= until_ms <= wall_clock_ms():
            seed = line.seed
            return None if seed is None else max(0, line.limit.capacity - seed.used)
        return left

    def _remember(self, claim: Claim, verdict: Verdict) -> None:
        for line, answer in zip(claim.lines, verdict.lines, strict=False):
            if line.limit.kind is not _CALENDAR:
                continue
            # Unused quotas have no reset; they are remembered as long as a lease could run.
            reset_ms = answer.reset_ms
            until_ms = -1 if reset_ms < 0 else verdict.at_ms + (reset_ms or 60_000)
            left, key = self._left, (claim.owner, line.key)
            left[key] = (answer.remaining, until_ms)
            left.move_to_end(key)
            if len(left) > self._max_known:
                left.popitem(last=False)

    def _forget_share(self, claim: Claim, places: tuple[int, ...]) -> None:
        for place in places:
            key = (claim.owner, claim.lines[place].key)
            if key in self._left:
                left, until_ms = self._left[key]
                self._left[key] = (max(0, left - claim.lines[place].amount), until_ms)


def _as_debt(claim: Claim) -> Claim:
    """The same claim, to be taken whether or not it fits."""
    lines = (replace(line, limit=replace(line.limit, shadow=True)) for line in claim.lines)
    return replace(claim, lines=tuple(lines))


def _part(admitted: _Admitted, claim: Claim) -> Claim:
    """What of ``claim`` is counted locally, in amounts of now."""
    lines = (
        replace(line, amount=claim.lines[place].amount)
        for line, place in zip(admitted.local.lines, admitted.places, strict=True)
    )
    return replace(admitted.local, lines=tuple(lines))


def _whole(claim: Claim, places: tuple[int, ...], verdict: Verdict) -> Verdict:
    """A verdict about some lines as one about all: the others are waived."""
    answers = [LineVerdict(True, line.limit.room, 0, 0) for line in claim.lines]
    for place, answer in zip(places, verdict.lines, strict=False):
        answers[place] = answer
    return replace(verdict, lines=tuple(answers))
