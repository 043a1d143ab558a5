"""The authenticator: a cache before a source, with one look-up at a time per token.

Tokens are kept only as SHA-256: a memory dump or a key in a log gives none away, and no two
tokens can be made to share an entry.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from sentinel_extproc.errors import Forbidden, SentinelError, Unauthenticated, Unavailable
from sentinel_extproc.identity.bearer import CHALLENGE_INVALID, MAX_TOKEN_BYTES
from sentinel_extproc.identity.cache import LruMap, Periods
from sentinel_extproc.identity.expiry import JwtClaims, read_jwt
from sentinel_extproc.identity.gate import Gate
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.refreshing import Loaded, RefreshingCache, SourceBusy
from sentinel_extproc.limits.model import Epoch

__all__ = ["CachedAuthenticator", "EpochReader", "IdentityCounters", "IdentitySource", "SourceBusy"]

EXPIRY_LEEWAY_S = 60.0
"""How far our clock may be ahead of the issuer's before we call a token expired ourselves."""

_BUSY = "The API key can't be checked right now; the request was not forwarded."


class IdentitySource(Protocol):
    """Checks a token, without any memory of its own."""

    async def identify(self, token: str) -> Principal:
        """Raises as ``Authenticator.authenticate`` does, and SourceBusy; ends by itself within a
        deadline of its own."""
        ...


class EpochReader(Protocol):
    """Knows how far revocation has come."""

    async def epochs(self, external_id: str, token_sha256: bytes) -> tuple[Epoch, ...]:
        """The epochs that concern this user and token. Never raises, never waits long: an epoch
        that can't be read counts as 0, which is refused wherever there was a revocation."""
        ...


@dataclass(slots=True)
class IdentityCounters:
    """What happened so far; only ever grows. Exactly one of the first six per request."""

    fresh: int = 0
    stale: int = 0
    stale_on_error: int = 0
    denied_from_cache: int = 0
    looked_up: int = 0
    shed: int = 0
    source_calls: int = 0
    source_denials: int = 0
    source_failures: int = 0
    refreshes_shed: int = 0
    gated: int = 0
    revoked: int = 0


@dataclass(frozen=True, slots=True)
class _Denial:
    message: str
    until: float


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
        epochs: stamps principals with the revocation epochs, for the reservation to check.
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
        epochs: EpochReader | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._periods = Periods(fresh_s, stale_s, on_error_s)
        self._jwt_periods = Periods(jwt_fresh_s, stale_s, on_error_s)
        self._negative_s = negative_s
        self._gate = gate or Gate(clock=clock)
        self._epochs = epochs
        self._clock = clock
        self._wall_clock = wall_clock
        self._known: RefreshingCache[bytes, Principal] = RefreshingCache(
            max_entries=max_entries,
            max_loads=max_lookups,
            busy_message=_BUSY,
            clock=clock,
            jitter=jitter,
        )
        self._denied: LruMap[bytes, _Denial] = LruMap(max_denials)
        self._everybody = 0
        self._counters = IdentityCounters()

    @property
    def counters(self) -> IdentityCounters:
        """Counts for telemetry, as they stand."""
        cache = self._known.counters
        return replace(
            self._counters,
            fresh=cache.fresh,
            stale=cache.stale,
            stale_on_error=cache.stale_on_error,
            looked_up=cache.looked_up,
            shed=cache.shed,
            refreshes_shed=cache.refreshes_shed,
        )

    @property
    def known_tokens(self) -> int:
        """Tokens in the cache."""
        return len(self._known)

    async def authenticate(self, token: str) -> Principal:
        """See ``Authenticator``."""
        key = _key(token)
        denial = self._denied.get(key)
        if denial is not None and self._clock() < denial.until:
            self._counters.denied_from_cache += 1
            raise Unauthenticated(denial.message, headers=CHALLENGE_INVALID)

        async def load(known: bool) -> Loaded[Principal] | SentinelError:
            return await (self._ask(key, token) if known else self._ask_gated(key, token))

        return await self._known.get(key, load)

    async def recheck(self, token: str) -> Principal:
        """Authenticate past everything cached, for when the reservation said ``token_revoked``:
        the source decides whether the token is still good.

        Raises: as ``authenticate``.
        """
        self.forget_token(_key(token))
        return await self.authenticate(token)

    def forget_token(self, token_sha256: bytes) -> None:
        """Check this token anew at its next request."""
        self._known.forget(token_sha256)
        self._denied.remove(token_sha256)
        self._counters.revoked += 1

    def forget_user(self, external_id: str) -> None:
        """Check all tokens of this user anew."""
        self._known.forget_where(lambda principal: principal.external_id == external_id)
        self._counters.revoked += 1

    def forget_all(self) -> None:
        """Check every token anew."""
        self._known.forget_all()
        self._denied.clear()
        self._counters.revoked += 1

    async def aclose(self) -> None:
        """Cancel look-ups that still run."""
        await self._known.aclose()

    async def _ask_gated(self, key: bytes, token: str) -> Loaded[Principal] | SentinelError:
        if not await self._gate.enter():
            self._counters.gated += 1
            return Unavailable(_BUSY, code="identity_unavailable")
        denied = False
        try:
            outcome = await self._ask(key, token)
            denied = isinstance(outcome, Unauthenticated | Forbidden)
        finally:
            if not denied:
                self._gate.give_back()
        return outcome

    async def _ask(self, key: bytes, token: str) -> Loaded[Principal] | SentinelError:
        claims = read_jwt(token)
        if claims is not None and self._left_s(claims, default=0.0) < -EXPIRY_LEEWAY_S:
            return Unauthenticated("The API key has expired.", headers=CHALLENGE_INVALID)
        known = self._known.peek(key)
        seen = {epoch.name: epoch.seen for epoch in known.epochs} if known is not None else {}
        seen["all"] = self._everybody
        outcome = await self._call(token)
        if isinstance(outcome, Principal) and self._epochs is not None:
            epochs = await self._epochs.epochs(outcome.external_id, key)
            self._everybody = max([self._everybody, *(e.seen for e in epochs if e.name == "all")])
            if any(epoch.seen != seen.get(epoch.name, 0) for epoch in epochs):
                # Revoked at some time that may lie after the source's answer: only an answer to
                # a question asked after the epochs were read is known to be newer.
                outcome = await self._call(token)
            if isinstance(outcome, Principal):
                outcome = replace(outcome, epochs=epochs)
        if isinstance(outcome, Principal):
            self._denied.remove(key)
            return self._loaded(outcome, claims)
        if isinstance(outcome, Unauthenticated):
            self._denied.put(key, _Denial(outcome.message, self._clock() + self._negative_s))
        return outcome

    def _loaded(self, principal: Principal, claims: JwtClaims | None) -> Loaded[Principal]:
        if claims is None:
            return Loaded(principal, self._periods)
        if claims.expires_at_s is None:
            return Loaded(principal, self._jwt_periods)
        expires_at = self._clock() + self._left_s(claims, default=0.0)
        return Loaded(principal, self._jwt_periods, expires_at=expires_at)

    def _left_s(self, claims: JwtClaims, *, default: float) -> float:
        if claims.expires_at_s is None:
            return default
        return claims.expires_at_s - self._wall_clock()

    async def _call(self, token: str) -> Principal | SentinelError:
        self._counters.source_calls += 1
        try:
            return await self._source.identify(token)
        except Unauthenticated as error:
            self._counters.source_denials += 1
            return Unauthenticated(error.message, code=error.code, headers=CHALLENGE_INVALID)
        except SentinelError as error:
            if isinstance(error, Unavailable):
                self._counters.source_failures += 1
            else:
                self._counters.source_denials += 1
            return error


def _key(token: str) -> bytes:
    data = token.encode("utf-8", "surrogatepass")
    if len(data) > MAX_TOKEN_BYTES:
        raise Unauthenticated(
            f"The API key is longer than {MAX_TOKEN_BYTES} bytes.", headers=CHALLENGE_INVALID
        )
    return hashlib.sha256(data).digest()
