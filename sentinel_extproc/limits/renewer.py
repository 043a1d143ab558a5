"""Keeps what open exchanges hold from lapsing: their leases, and the store's records of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice

from msgspec import Struct

from .limit import Kind
from .store import Claim, Decision, Store, StoreError, StoreUntriedError

log = logging.getLogger(__name__)

_AT_ONCE = 8
"""Few of the commands that the store may run at once: requests come first."""
_PER_TICK = 4096
"""Of each queue: a second's work for a Redis on the same network; the rest is next tick's."""
_MISSED_PER_TICK = 512
"""Of those that were away and still get no answer: some seconds, if each lasts its time-out."""

_Key = tuple[str, str]


class _Held(Struct):
    """``asked_s`` is when the store last renewed it or was asked to, on the renewer's clock."""

    claim: Claim
    opened_s: float
    asked_s: float


class Renewer:
    """Renews every hold in time until it is forgotten.

    Each queue is in the order of ``asked_s``, so that a tick looks at nothing that is not due.
    Those whose turn came while the store was away are asked for at every tick: when it is back,
    what runs should count again before others take its place. They come last: in a cluster, a shard
    that is silent must not hold up those that answer.

    Args:
        store: extending a claim there to what it holds renews it.
        lease_every_s: how often a hold with leases is renewed, and how soon any is asked for again
            when the store did not answer; leases last 60 s.
        record_every_s: how often the others are; the store keeps a record for 600 s.
        longest_s: a hold that is open for longer is left to lapse.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        store: Store,
        *,
        lease_every_s: float,
        record_every_s: float,
        longest_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lease_every_s = lease_every_s
        self._record_every_s = record_every_s
        self._longest_s = longest_s
        self._clock = clock
        self._soon: OrderedDict[_Key, _Held] = OrderedDict()
        self._later: OrderedDict[_Key, _Held] = OrderedDict()
        self._away: OrderedDict[_Key, _Held] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many holds are kept."""
        return len(self._soon) + len(self._later) + len(self._away)

    def start(self) -> None:
        """Begin to renew, behind everything else."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="limits-renewer")

    async def stop(self) -> None:
        """Stop renewing."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def watch(self, claim: Claim) -> None:
        """Keep what was just taken for ``claim``. Without lines there is nothing to keep."""
        if claim.lines:
            now_s = self._clock()
            self._put(_Held(claim, now_s, now_s))

    def renewed(self, claim: Claim) -> None:
        """The store has just renewed ``claim``, which may have grown since it was watched."""
        held = self._take(_key(claim))
        if held is not None:
            held.claim, held.asked_s = claim, self._clock()
            self._put(held)

    def forget(self, claim: Claim) -> None:
        """It is settled."""
        self._take((claim.owner, claim.id))

    async def renew_due(self) -> None:
        """One tick: renew what is due, up to a bound, the longest waiting first."""
        away = list(islice(self._away.values(), _PER_TICK))  # what misses its turn now isn't in it
        for queue, every_s in (
            (self._soon, self._lease_every_s),
            (self._later, self._record_every_s),
        ):
            await self._renew_all(list(islice(self._due(queue, every_s), _PER_TICK)), _PER_TICK)
        await self._renew_all(away, _MISSED_PER_TICK)

    async def _renew_all(self, due: list[_Held], most_missed: int) -> None:
        """In order, until so many had no answer."""
        missed = 0
        for start in range(0, len(due), _AT_ONCE):
            batch = due[start : start + _AT_ONCE]
            answered = await asyncio.gather(*(self._renew(held) for held in batch))
            missed += answered.count(False)
            if missed >= most_missed:
                return

    def _due(self, queue: OrderedDict[_Key, _Held], every_s: float) -> Iterator[_Held]:
        now_s = self._clock()
        for held in queue.values():
            if now_s - held.asked_s < every_s:
                return
            yield held

    async def _renew(self, held: _Held) -> bool:
        """False when the store did not answer."""
        key, now_s = _key(held.claim), self._clock()
        if self._at(key) is not held:
            return True
        self._take(key)
        if now_s - held.opened_s > self._longest_s:
            return True
        # Without an answer it stays among those that are asked for again soon.
        held.asked_s = now_s
        self._soon[key] = held
        try:
            verdict = await self._store.extend(held.claim)
        except StoreUntriedError:
            if self._at(key) is held:
                self._take(key)
                self._away[key] = held
            return False
        except StoreError as error:
            log.debug("a hold could not be renewed: %s", error)
            return False
        if self._at(key) is not held:
            return True
        self._take(key)
        if verdict.decision is not Decision.OVER:
            held.asked_s = self._clock()
            self._put(held)
        return True

    def _at(self, key: _Key) -> _Held | None:
        return self._soon.get(key) or self._later.get(key) or self._away.get(key)

    def _take(self, key: _Key) -> _Held | None:
        return self._soon.pop(key, None) or self._later.pop(key, None) or self._away.pop(key, None)

    def _put(self, held: _Held) -> None:
        key = (held.claim.owner, held.claim.id)
        self._take(key)
        # Leases end long before the record does.
        leased = held.claim.of_kind(Kind.CALENDAR, Kind.CONCURRENCY)
        (self._soon if leased else self._later)[key] = held

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._lease_every_s / 4)
            await self.renew_due()


def _key(claim: Claim) -> _Key:
    return (claim.owner, claim.id)
