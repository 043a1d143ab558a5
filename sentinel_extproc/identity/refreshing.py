"""A cache that stays useful while its source is slow or down. One event loop.

Puts together the parts: entries with their periods (``cache``), and one load per key at a time
(``flight``). What a load may say:

    a value            kept for its periods
    Unavailable        what is known stays; no new attempt for a moment, or as long as was asked
    another error      what is known is forgotten: the source has spoken
"""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Generic, TypeVar

from sentinel_extproc.errors import SentinelError, Unavailable
from sentinel_extproc.identity.cache import Entry, Freshness, LruMap, Periods, entry
from sentinel_extproc.identity.flight import SingleFlight, TooManyFlightsError

K = TypeVar("K")
V = TypeVar("V")

MIN_HOLD_S = 1.0
"""After a failed load of something known, the least time before the next one."""


class SourceBusy(Unavailable):
    """The source asks not to be asked about this again for ``retry_after_s``."""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[V]):
    """A value from the source.

    Attributes:
        periods: how long it is good for.
        age_s: how old it is already.
        expires_at: by the cache's clock; no period reaches beyond it.
    """

    value: V
    periods: Periods
    age_s: float = 0.0
    expires_at: float | None = None


@dataclass(slots=True)
class CacheCounters:
    """What happened so far; only ever grows. Exactly one of the first five per ``get``."""

    fresh: int = 0
    stale: int = 0
    stale_on_error: int = 0
    looked_up: int = 0
    shed: int = 0
    refreshes_shed: int = 0


Load = Callable[[bool], Coroutine[None, None, Loaded[V] | SentinelError]]
"""Loads a value; told whether one is known already. Failures are returned, not raised."""


class RefreshingCache(Generic[K, V]):
    """See the module.

    Args:
        max_entries: bound; the one used longest ago makes room.
        max_loads: concurrent loads of unknown keys; as many again are kept for known ones.
        clock: seconds, monotonic.
        jitter: a number from 0 to 1, for spreading.
        may_serve_stale: whether a stale value may be given out while it is loaded anew. Not while
            revocations could go unheard: then it is loaded first.
    """

    def __init__(
        self,
        *,
        max_entries: int,
        max_loads: int,
        busy_message: str,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        may_serve_stale: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_serve_stale = may_serve_stale
        self._entries: LruMap[K, Entry[V]] = LruMap(max_entries)
        self._holds: LruMap[K, float] = LruMap(max_entries)
        self._flights: SingleFlight[K, V | SentinelError] = SingleFlight()
        self._max_loads = max_loads
        self._busy_message = busy_message
        self._clock = clock
        self._jitter = jitter
        self._era = 0
        self.counters = CacheCounters()

    def __len__(self) -> int:
        return len(self._entries)

    def peek(self, key: K) -> V | None:
        """What is known under ``key``, however old."""
        known = self._entries.get(key)
        return known.value if known is not None else None

    def fresh(self, key: K) -> V | None:
        """The value under ``key`` if that is all there is to ``get``: it is known, and fresh."""
        known = self._entries.get(key)
        if known is None or known.freshness(self._clock()) is not Freshness.FRESH:
            return None
        self.counters.fresh += 1
        return known.value

    async def get(self, key: K, load: Load[V]) -> V:
        """The value under ``key``, from here or from ``load``.

        Raises:
            SentinelError: what ``load`` returned, or Unavailable when too many loads run.
        """
        now = self._clock()
        known = self._entries.get(key)
        freshness = known.freshness(now) if known is not None else Freshness.GONE
        if known is None or freshness is Freshness.GONE:
            return await self._unknown(key, load, now)
        if freshness is Freshness.FRESH:
            self.counters.fresh += 1
            return known.value
        if freshness is Freshness.STALE and self._may_serve_stale():
            self.counters.stale += 1
            self._refresh(key, load, now)
            return known.value
        return await self._last_resort(key, load, known, now)

    def forget(self, key: K) -> None:
        """Load this key anew when it is asked for next."""
        self._new_era()
        self._entries.remove(key)

    def forget_where(self, matches: Callable[[V], bool]) -> None:
        """Load all these anew."""
        self._new_era()
        self._entries.remove_where(lambda known: matches(known.value))

    def forget_all(self) -> None:
        """Load everything anew."""
        self._new_era()
        self._entries.clear()

    async def aclose(self) -> None:
        """Cancel loads that still run."""
        await self._flights.aclose()

    @property
    def loading(self) -> int:
        """Loads that run now."""
        return len(self._flights)

    def _new_era(self) -> None:
        # Answers on their way were given before: they must not be kept, nor joined.
        self._era += 1
        self._flights.part()

    async def _unknown(self, key: K, load: Load[V], now: float) -> V:
        held_until = self._holds.get(key)
        if held_until is not None and now < held_until:
            self.counters.shed += 1
            raise self._busy(held_until - now)
        try:
            outcome = await self._join(key, load, known=False)
        except TooManyFlightsError:
            self.counters.shed += 1
            raise self._busy(1.0) from None
        self.counters.looked_up += 1
        if isinstance(outcome, SentinelError):
            # Every waiter raises its own copy: one shared exception would collect all tracebacks.
            raise copy.copy(outcome)
        return outcome

    async def _last_resort(self, key: K, load: Load[V], known: Entry[V], now: float) -> V:
        held_until = self._holds.get(key)
        if held_until is None or now >= held_until:
            try:
                outcome = await self._join(key, load, known=True)
            except TooManyFlightsError:
                outcome = self._busy(1.0)
            if not isinstance(outcome, SentinelError):
                self.counters.looked_up += 1
                return outcome
            # Gone or forgotten while we waited: then it is no longer ours to use.
            usable = self._entries.get(key) is known and self._clock() < known.gone_at
            if not isinstance(outcome, Unavailable) or not usable:
                self.counters.looked_up += 1
                raise copy.copy(outcome)
        self.counters.stale_on_error += 1
        return known.value

    def _refresh(self, key: K, load: Load[V], now: float) -> None:
        held_until = self._holds.get(key)
        if self._flights.flying(key) or (held_until is not None and now < held_until):
            return
        try:
            self._start(key, load, known=True)
        except TooManyFlightsError:
            self.counters.refreshes_shed += 1

    def _start(self, key: K, load: Load[V], *, known: bool) -> asyncio.Task[V | SentinelError]:
        bound = self._max_loads * (2 if known else 1)
        return self._flights.start(key, lambda: self._load(key, load, known), max_flights=bound)

    async def _join(self, key: K, load: Load[V], *, known: bool) -> V | SentinelError:
        # Cancelling one who waits doesn't cancel the flight.
        return await asyncio.shield(self._start(key, load, known=known))

    async def _load(self, key: K, load: Load[V], known: bool) -> V | SentinelError:
        era = self._era
        loaded = await load(known)
        current = era == self._era
        now = self._clock()
        if isinstance(loaded, Loaded):
            if current:
                made = entry(
                    loaded.value,
                    loaded.periods,
                    now=now - loaded.age_s,
                    jitter=self._jitter(),
                    expires_at=loaded.expires_at,
                )
                self._entries.put(key, made)
                self._holds.remove(key)
            return loaded.value
        if current:
            self._failed(key, loaded, now)
        return loaded

    def _failed(self, key: K, error: SentinelError, now: float) -> None:
        if not isinstance(error, Unavailable):
            self._entries.remove(key)
        elif isinstance(error, SourceBusy):
            self._holds.put(key, now + max(error.retry_after_s or 0.0, MIN_HOLD_S))
        elif key in self._entries:
            # Unknown keys are tried again at once after a mere failure: they have nothing to
            # fall back on, and the breaker protects the source.
            self._holds.put(key, now + MIN_HOLD_S)

    def _busy(self, wait_s: float) -> Unavailable:
        return Unavailable(self._busy_message, retry_after_s=wait_s, code="identity_unavailable")
