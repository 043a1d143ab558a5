"""The authenticator: a cache before a source, with one look-up at a time per token.

Tokens are kept only as SHA-256: a memory dump or a key in a log gives none away, and no two
tokens can be made to share an entry.
"""

from __future__ import annotations

import copy
import hashlib
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Protocol

from sentinel_extproc.errors import Forbidden, SentinelError, Unauthenticated, Unavailable
from sentinel_extproc.identity.bearer import CHALLENGE_INVALID, MAX_TOKEN_BYTES
from sentinel_extproc.identity.cache import Entry, Freshness, LruMap, Periods, entry
from sentinel_extproc.identity.expiry import read_jwt
from sentinel_extproc.identity.flight import SingleFlight, TooManyFlightsError
from sentinel_extproc.identity.gate import Gate
from sentinel_extproc.identity.principal import Principal

EXPIRY_LEEWAY_S = 60.0
"""How far our clock may be ahead of the issuer's before we call a token expired ourselves."""

MIN_HOLD_S = 1.0
"""After a failed check of a known token, the least time before the next one."""


class SourceBusy(Unavailable):
    """The source asks not to be asked about this token again for ``retry_after_s``."""


class IdentitySource(Protocol):
    """Checks a token, without any memory of its own."""

    async def identify(self, token: str) -> Principal:
        """Raises as ``Authenticator.authenticate`` does, and SourceBusy; ends by itself within a
        deadline of its own."""
        ...


@dataclass(slots=True)
class IdentityCounters:
    """What happened so far; only ever grows. One of the first five per request."""

    fresh: int = 0
    stale: int = 0
    stale_on_error: int = 0
    denied_from_cache: int = 0
    looked_up: int = 0
    source_calls: int = 0
    source_denials: int = 0
    source_failures: int = 0
    shed: int = 0
    revoked: int = 0


@dataclass(frozen=True, slots=True)
class _Denial:
    message: str
    until: float


Outcome = Principal | SentinelError


class CachedAuthenticator:
    """Implements ``Authenticator`` over an ``IdentitySource``. One event loop.

    Args:
        fresh_s, jwt_fresh_s: longest time an answer is used unchecked, for opaque tokens and for
            those that look like a JWT.
        stale_s: age up to which an answer is used while it is checked again.
        on_error_s: age up to which it is used when it can't be checked.
        negative_s: how long a token that the source called invalid is refused unasked.
        max_entries, max_denials: bounds of the two caches; an entry is about 1 KiB.
        max_lookups: concurrent look-ups of unknown tokens; beyond it they get a 503. As many
            again are kept for checking known tokens, so that a flood of others can't starve them.
        gate: bounds how many invented tokens per second reach the source.
        jitter: a number from 0 to 1, for spreading.
    """

    def __init__(
        self,
        source: IdentitySource,
        *,
        fresh_s: float = 60.0,
        jwt_fresh_s: float = 60.0,
        stale_s: float = 300.0,
        on_error_s: float = 1800.0,
        negative_s: float = 10.0,
        max_entries: int = 10_000,
        max_denials: int = 10_000,
        max_lookups: int = 256,
        gate: Gate | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._periods = Periods(fresh_s, stale_s, on_error_s)
        self._jwt_periods = Periods(jwt_fresh_s, stale_s, on_error_s)
        self._negative_s = negative_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._jitter = jitter
        self._known: LruMap[bytes, Entry[Principal]] = LruMap(max_entries)
        self._denied: LruMap[bytes, _Denial] = LruMap(max_denials)
        self._holds: LruMap[bytes, float] = LruMap(max_entries)
        self._flights: SingleFlight[bytes, Outcome] = SingleFlight()
        self._max_lookups = max_lookups
        self._gate = gate or Gate(clock=clock)
        self._era = 0
        self.counters = IdentityCounters()

    async def authenticate(self, token: str) -> Principal:
        """See ``Authenticator``."""
        key = _key(token)
        now = self._clock()
        known = self._known.get(key)
        freshness = known.freshness(now) if known is not None else Freshness.GONE
        if known is None or freshness is Freshness.GONE:
            return await self._unknown(key, token, now)
        if freshness is Freshness.FRESH:
            self.counters.fresh += 1
            return known.value
        if freshness is Freshness.STALE:
            self.counters.stale += 1
            self._check_behind(key, token, now)
            return known.value
        return await self._last_resort(key, token, known, now)

    def forget_token(self, token_sha256: bytes) -> None:
        """Check this token anew at its next request."""
        self._new_era()
        self._known.remove(token_sha256)
        self._denied.remove(token_sha256)
        self.counters.revoked += 1

    def forget_user(self, external_id: str) -> None:
        """Check all tokens of this user anew."""
        self._new_era()
        self._known.remove_where(lambda known: known.value.external_id == external_id)
        self.counters.revoked += 1

    def forget_all(self) -> None:
        """Check every token anew."""
        self._new_era()
        self._known.clear()
        self._denied.clear()
        self.counters.revoked += 1

    async def aclose(self) -> None:
        """Cancel look-ups that still run."""
        await self._flights.aclose()

    def _new_era(self) -> None:
        # Answers on their way were given before: they must not be cached, nor joined.
        self._era += 1
        self._flights.part()

    async def _unknown(self, key: bytes, token: str, now: float) -> Principal:
        denial = self._denied.get(key)
        if denial is not None and now < denial.until:
            self.counters.denied_from_cache += 1
            raise Unauthenticated(denial.message, headers=CHALLENGE_INVALID)
        held_until = self._holds.get(key)
        if held_until is not None and now < held_until:
            self.counters.shed += 1
            raise Unavailable(
                "The API key can't be checked right now; the request was not forwarded.",
                retry_after_s=held_until - now,
                code="identity_unavailable",
            )
        self.counters.looked_up += 1
        outcome = await self._look_up(key, token, known=False)
        if isinstance(outcome, Principal):
            return outcome
        # Every waiter raises its own copy: one shared exception would collect all tracebacks.
        raise copy.copy(outcome)

    async def _last_resort(
        self, key: bytes, token: str, known: Entry[Principal], now: float
    ) -> Principal:
        held_until = self._holds.get(key)
        if held_until is None or now >= held_until:
            outcome = await self._look_up(key, token, known=True)
            if isinstance(outcome, Principal):
                self.counters.looked_up += 1
                return outcome
            # Gone or revoked while we waited: then it is no longer ours to use.
            usable = self._known.get(key) is known and self._clock() < known.gone_at
            if not isinstance(outcome, Unavailable) or not usable:
                self.counters.looked_up += 1
                raise copy.copy(outcome)
        self.counters.stale_on_error += 1
        return known.value

    def _check_behind(self, key: bytes, token: str, now: float) -> None:
        held_until = self._holds.get(key)
        if self._flights.flying(key) or (held_until is not None and now < held_until):
            return
        try:
            self._flights.start(
                key, lambda: self._ask(key, token), max_flights=2 * self._max_lookups
            )
        except TooManyFlightsError:
            self.counters.shed += 1

    async def _look_up(self, key: bytes, token: str, *, known: bool) -> Outcome:
        def work() -> Coroutine[None, None, Outcome]:
            return self._ask(key, token) if known else self._ask_about_unknown(key, token)

        try:
            return await self._flights.join(
                key, work, max_flights=self._max_lookups * (2 if known else 1)
            )
        except TooManyFlightsError:
            self.counters.shed += 1
            return _too_many()

    async def _ask_about_unknown(self, key: bytes, token: str) -> Outcome:
        if not await self._gate.enter():
            self.counters.shed += 1
            return _too_many()
        denied = False
        try:
            outcome = await self._ask(key, token)
            denied = isinstance(outcome, Unauthenticated | Forbidden)
        finally:
            if not denied:
                self._gate.give_back()
        return outcome

    async def _ask(self, key: bytes, token: str) -> Outcome:
        era = self._era
        claims = read_jwt(token)
        expires_at_s = claims.expires_at_s if claims is not None else None
        wall_now = self._wall_clock()
        if expires_at_s is not None and wall_now > expires_at_s + EXPIRY_LEEWAY_S:
            self._known.remove(key)
            return Unauthenticated("The API key has expired.", headers=CHALLENGE_INVALID)
        outcome = await self._call(token)
        if era != self._era:
            return outcome
        now = self._clock()
        if isinstance(outcome, Principal):
            remaining_s = None if expires_at_s is None else expires_at_s - self._wall_clock()
            made = entry(
                outcome,
                self._periods if claims is None else self._jwt_periods,
                now=now,
                jitter=self._jitter(),
                expires_at=None if remaining_s is None else now + remaining_s,
            )
            self._known.put(key, made)
            self._denied.remove(key)
            self._holds.remove(key)
        elif isinstance(outcome, Unavailable):
            self._hold(key, outcome, now)
        else:
            self._known.remove(key)
            if isinstance(outcome, Unauthenticated):
                self._denied.put(key, _Denial(outcome.message, now + self._negative_s))
        return outcome

    async def _call(self, token: str) -> Outcome:
        self.counters.source_calls += 1
        try:
            return await self._source.identify(token)
        except Unauthenticated as error:
            self.counters.source_denials += 1
            return Unauthenticated(error.message, code=error.code, headers=CHALLENGE_INVALID)
        except SentinelError as error:
            if isinstance(error, Unavailable):
                self.counters.source_failures += 1
            else:
                self.counters.source_denials += 1
            return error

    def _hold(self, key: bytes, error: Unavailable, now: float) -> None:
        if isinstance(error, SourceBusy):
            self._holds.put(key, now + max(error.retry_after_s or 0.0, MIN_HOLD_S))
        elif key in self._known:
            # Unknown tokens are tried again at once after a mere failure: they have nothing to
            # fall back on, and the breaker protects the source.
            self._holds.put(key, now + MIN_HOLD_S)


def _too_many() -> Unavailable:
    return Unavailable(
        "Too many API keys are being checked right now; the request was not forwarded.",
        code="identity_unavailable",
    )


def _key(token: str) -> bytes:
    data = token.encode("utf-8", "surrogatepass")
    if len(data) > MAX_TOKEN_BYTES:
        raise Unauthenticated(
            f"The API key is longer than {MAX_TOKEN_BYTES} bytes.", headers=CHALLENGE_INVALID
        )
    return hashlib.sha256(data).digest()
