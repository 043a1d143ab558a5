"""The authenticator: a cache before a source, with one look-up at a time per token.

Tokens are kept only as SHA-256: a memory dump or a key in a log gives none away, and no two
tokens can be made to share an entry. A JWT is also known by the SHA-256 of what its signature
covers, but only to be refused: what is accepted is accepted by its whole text.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from sentinel_extproc.errors import Forbidden, SentinelError, Unauthenticated, Unavailable
from sentinel_extproc.identity.bearer import CHALLENGE_INVALID
from sentinel_extproc.identity.cache import LruMap, Periods
from sentinel_extproc.identity.contract import EpochReader, IdentityCounters, IdentitySource
from sentinel_extproc.identity.denylist import DenyList
from sentinel_extproc.identity.effect import EffectTimes
from sentinel_extproc.identity.expiry import JwtClaims, read_jwt, signed_sha256
from sentinel_extproc.identity.gate import Gate
from sentinel_extproc.identity.names import Names, text_sha256
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.refreshing import Loaded, RefreshingCache
from sentinel_extproc.identity.shared import SharedCache, SharedEntry
from sentinel_extproc.limits.model import Epoch

EXPIRY_LEEWAY_S = 60.0
"""How far our clock may be ahead of the issuer's before we call a token expired ourselves."""

_BUSY = "The API key can't be checked right now; the request was not forwarded."


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
        shared: a second level, shared between replicas.
        epochs: stamps principals with the revocation epochs, for the reservation to check.
        denials: tokens that are refused whatever the source says.
        effect: is told when a revocation was noticed by its epoch alone.
        digest: what a token is known by; raises Unauthenticated for one that none can have.
        signed: the digest of what a JWT's signature covers, or None; for refusing only.
        jitter: a number from 0 to 1, for spreading.
        may_serve_stale: as in ``RefreshingCache``.
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
        shared: SharedCache | None = None,
        epochs: EpochReader | None = None,
        denials: DenyList | None = None,
        effect: EffectTimes | None = None,
        digest: Callable[[str], bytes] | None = None,
        signed: Callable[[str], bytes | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        may_serve_stale: Callable[[], bool] = lambda: True,
    ) -> None:
        self._source = source
        self._periods = Periods(fresh_s, stale_s, on_error_s)
        self._jwt_periods = Periods(jwt_fresh_s, stale_s, on_error_s)
        self._negative_s = negative_s
        self._gate = gate or Gate(clock=clock)
        self._shared = shared
        self._epochs = epochs
        self._denials = denials
        self._effect = effect or EffectTimes()
        self._digest = digest or text_sha256
        self._signed = signed or signed_sha256
        self._clock = clock
        self._wall_clock = wall_clock
        self._known: RefreshingCache[bytes, Principal] = RefreshingCache(
            max_entries=max_entries,
            max_loads=max_lookups,
            busy_message=_BUSY,
            clock=clock,
            jitter=jitter,
            may_serve_stale=may_serve_stale,
        )
        self._denied: LruMap[bytes, _Denial] = LruMap(max_denials)
        self._everybody = 0
        self._rechecking: Counter[bytes] = Counter()
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

    def remembered(self, token_sha256: bytes) -> Principal | None:
        """Whose token it is as far as it is known here, however old that is. Asks nobody."""
        return self._known.peek(token_sha256)

    async def authenticate(self, token: str) -> Principal:
        """See ``Authenticator``."""
        names = self._names(token)
        key = names.text
        if self._denials is not None and any(map(self._denials.mirrored, names.all)):
            self._counters.denied_from_cache += 1
            raise _revoked()
        denial = self._denied.get(key)
        if denial is not None and self._clock() < denial.until:
            self._counters.denied_from_cache += 1
            raise Unauthenticated(denial.message, headers=CHALLENGE_INVALID)

        if (fresh := self._known.fresh(key)) is not None:
            return fresh

        async def load(known: bool) -> Loaded[Principal] | SentinelError:
            return await self._load(names, token, known=known)

        return await self._known.get(key, load)

    async def recheck(self, token: str) -> Principal:
        """Authenticate past everything cached, for when the reservation said ``token_revoked``:
        the source decides whether the token is still good.

        Something was revoked, so that nothing is accepted unless the epochs and the list of revoked
        tokens can be read.

        Raises: as ``authenticate``.
        """
        names = self._names(token)
        key = names.text
        # Before anything is forgotten: whatever look-up is joined below began under this mark.
        self._rechecking[key] += 1
        try:
            await self._noticed(names)
            self.forget_token(key)
            if self._shared is not None:
                await self._shared.remove(key)
            return await self.authenticate(token)
        finally:
            self._rechecking[key] -= 1
            if not self._rechecking[key]:
                del self._rechecking[key]

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

    def _names(self, token: str) -> Names:
        return Names(self._digest(token), self._signed(token))

    async def _load(
        self, names: Names, token: str, *, known: bool
    ) -> Loaded[Principal] | SentinelError:
        key = names.text
        certain = key in self._rechecking
        if refusal := await self._refusal(names, certain=certain):
            return refusal
        claims = read_jwt(token)
        if claims is not None and self._left_s(claims) < -EXPIRY_LEEWAY_S:
            return Unauthenticated("The API key has expired.", headers=CHALLENGE_INVALID)
        shared = await self._from_shared(names, claims)
        # Whoever knows the token already came to have it checked again.
        enough_s = self._periods_of(claims).fresh_s / 2 if known else self._periods.stale_s
        if shared is not None and shared.age_s < enough_s:
            return shared
        ask = self._ask if known else self._ask_gated
        outcome = await ask(names, token, certain=certain)
        if isinstance(outcome, Principal):
            self._denied.remove(key)
            return await self._learned(names, outcome, claims)
        if isinstance(outcome, Unavailable):
            return outcome if shared is None or known else shared
        if self._shared is not None:
            await self._shared.remove(key)
        if isinstance(outcome, Unauthenticated):
            self._denied.put(key, _Denial(outcome.message, self._clock() + self._negative_s))
        return outcome

    async def _from_shared(
        self, names: Names, claims: JwtClaims | None
    ) -> Loaded[Principal] | None:
        expired = (
            claims is not None and claims.expires_at_s is not None and self._left_s(claims) <= 0
        )
        if self._shared is None or expired:
            return None
        entry = await self._shared.get(names.text)
        if entry is None:
            return None
        if self._epochs is not None:
            current = await self._current(entry.principal, names)
            if current != entry.principal.epochs:  # revoked since, or who knows
                return None
        age_s = max(0.0, self._wall_clock() - entry.checked_at_ms / 1000)
        loaded = self._loaded(entry.principal, claims, age_s=age_s)
        return loaded if age_s < loaded.periods.on_error_s else None

    async def _learned(
        self, names: Names, principal: Principal, claims: JwtClaims | None
    ) -> Loaded[Principal]:
        if self._shared is not None:
            ttl_s = self._periods.on_error_s
            if claims is not None and claims.expires_at_s is not None:
                ttl_s = min(ttl_s, self._left_s(claims))
            checked_at_ms = int(self._wall_clock() * 1000)
            entry = SharedEntry(principal, checked_at_ms, names.signed or b"")
            await self._shared.put(names.text, entry, ttl_s)
        return self._loaded(principal, claims)

    async def _ask_gated(
        self, names: Names, token: str, *, certain: bool
    ) -> Principal | SentinelError:
        if not await self._gate.enter():
            self._counters.gated += 1
            return Unavailable(_BUSY, code="identity_unavailable")
        denied = False
        try:
            outcome = await self._ask(names, token, certain=certain)
            denied = isinstance(outcome, Unauthenticated | Forbidden)
        finally:
            if not denied:
                self._gate.give_back()
        return outcome

    async def _ask(self, names: Names, token: str, *, certain: bool) -> Principal | SentinelError:
        known = self._known.peek(names.text)
        seen = {epoch.name: epoch.seen for epoch in known.epochs} if known is not None else {}
        seen["all"] = self._everybody
        outcome = await self._call(token)
        if not isinstance(outcome, Principal) or self._epochs is None:
            return outcome
        epochs = await self._current(outcome, names)
        if isinstance(epochs, Unavailable):
            if certain:
                return epochs
            # The reservation, if it gets further, refuses these wherever there was a revocation
            # (since), and then it is checked again with certainty.
            stamp = known.epochs if known is not None else ()
            return replace(outcome, epochs=stamp or self._epochs.lowest(*names.all))
        self._everybody = max([self._everybody, *(e.seen for e in epochs if e.name == "all")])
        if _moved(epochs, seen):
            # Revoked at some time that may lie after the source's answer: only an answer to a
            # question asked after the epochs were read is known to be newer.
            if refusal := await self._refusal(names, certain=True):
                return refusal
            outcome = await self._call(token)
        return replace(outcome, epochs=epochs) if isinstance(outcome, Principal) else outcome

    async def _refusal(self, names: Names, *, certain: bool) -> SentinelError | None:
        """Why the token is refused before the source is asked; if ``certain``, also because the
        list can't be read."""
        if self._denials is None:
            return None
        found = [await self._denials.denied(digest) for digest in names.all]
        if any(found):
            return _revoked()
        if certain and None in found:
            return Unavailable(_BUSY, code="identity_unavailable")
        return None

    async def _current(self, principal: Principal, names: Names) -> tuple[Epoch, ...] | Unavailable:
        if self._epochs is None:
            return ()
        try:
            return await self._epochs.epochs(principal.external_id, *names.all)
        except Unavailable as error:
            return error

    async def _noticed(self, names: Names) -> None:
        """An epoch has moved under a token that is still cached: no message came in time."""
        known = self._known.peek(names.text)
        if known is None or self._epochs is None:
            return
        epochs = await self._current(known, names)
        if isinstance(epochs, Unavailable):
            return
        if moved := _moved(epochs, {epoch.name: epoch.seen for epoch in known.epochs}):
            self._effect.applied(max(epoch.seen for epoch in moved), self._wall_clock())

    def _loaded(
        self, principal: Principal, claims: JwtClaims | None, *, age_s: float = 0.0
    ) -> Loaded[Principal]:
        periods = self._periods_of(claims)
        if claims is None or claims.expires_at_s is None:
            return Loaded(principal, periods, age_s)
        return Loaded(principal, periods, age_s, self._clock() + self._left_s(claims))

    def _periods_of(self, claims: JwtClaims | None) -> Periods:
        return self._periods if claims is None else self._jwt_periods

    def _left_s(self, claims: JwtClaims) -> float:
        if claims.expires_at_s is None:
            return 0.0
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


def _moved(epochs: Iterable[Epoch], seen: Mapping[str, int]) -> list[Epoch]:
    return [epoch for epoch in epochs if epoch.seen != seen.get(epoch.name, 0)]


def _revoked() -> Unauthenticated:
    return Unauthenticated(
        "The API key has been revoked.", code="token_revoked", headers=CHALLENGE_INVALID
    )
