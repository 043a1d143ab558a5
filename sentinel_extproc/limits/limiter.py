"""The limiter that the rest of the program uses: policies and units over a store of counts."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any, NoReturn

from msgspec import Struct
from msgspec.structs import replace

from ..errors import (
    CredentialRevoked,
    InvalidRequest,
    LimitExceeded,
    PromptTooLarge,
    SentinelError,
    Unauthenticated,
    Unavailable,
)
from .asking import ask
from .claims import (
    build_claim,
    covered,
    limit_states,
    peeking,
    quota_limit,
    refusal,
    retaken,
    seeded,
)
from .facts import EmitLimitFact, HoldExhausted, LimitsDecided, SettledBeyond, emit_nothing
from .headers import DEGRADED
from .limit import Kind, Limit, OnExhausted, OnOutage
from .model import (
    NOTHING,
    SETTLED,
    Growth,
    LimitState,
    Quantities,
    Quota,
    Reservation,
    ReserveRequest,
    Settled,
    Subject,
)
from .policy import Policy
from .renewer import Renewer
from .settler import Settler
from .store import Claim, Decision, Seed, Store, StoreError, StoreUntriedError, Verdict

log = logging.getLogger(__name__)

_OUTCOMES: dict[type[SentinelError], str] = {
    LimitExceeded: "denied",
    PromptTooLarge: "too_large",
    InvalidRequest: "invalid",
    Unauthenticated: "revoked",
    Unavailable: "unavailable",
}

_ADMITTED = Decision.ADMITTED

_MOST_QUOTAS = 4_096
"""Of all users, that are kept as limits; they are few different ones."""

_PLACE_WAITS_S = 0.1
"""Longest that an end waits until its place is free. Whoever asks one after the other should never
be told that too much is under way; a store that is slow should hold up nobody's last word."""

_GROW_AHEAD = 4
_GROW_AT_LEAST = 256


class _Hold(Struct):
    """What the limiter must know of an open reservation.

    ``claim`` says what is held. ``covers`` says it in quantities, when ``measured``; before, it is
    what was asked for: only an answer that is counted as it grows needs to know. ``place`` is
    whether it is among those that may be under way at once.
    """

    claim: Claim
    covers: Quantities
    model: str
    measured: bool = False
    place: bool = False
    growth: Growth = Growth.GROWN
    settled: bool = False

    def measure(self) -> None:
        """Find out what ``claim`` covers of what was asked for."""
        self.measured = True
        try:
            self.covers = covered(self.claim, self.covers, self.model)
        except SentinelError as error:
            # A cost formula that has no value for less output than was asked for.
            log.debug("what a hold covers is not known: %s", error)
            self.covers = NOTHING

    def is_settled(self) -> bool:
        """Asked again after waiting: others run meanwhile."""
        return self.settled


class StoreLimiter:
    """Reserves, grows and settles what policies and quotas say, in one store.

    Args:
        store: keeps the counts; usually a ``Ladder`` over Redis.
        policy: which limits apply.
        renew_every_s: how often leases of running exchanges are renewed; they last 60 s.
        keep_every_s: how often holds without leases are; the store's record of one lasts 600 s.
        longest_exchange_s: an exchange open for longer is no longer renewed.
        quota_on_outage, quota_on_exhausted, quota_right_size: as in ``Limit``, for quotas.
        clock: seconds, monotonic; for renewing.
    """

    def __init__(
        self,
        store: Store,
        policy: Policy,
        *,
        renew_every_s: float = 20.0,
        keep_every_s: float = 200.0,
        longest_exchange_s: float = 7200.0,
        quota_on_outage: OnOutage = OnOutage.LOCAL,
        quota_on_exhausted: OnExhausted = OnExhausted.SETTLE_AS_DEBT,
        quota_right_size: bool = False,
        emit: EmitLimitFact = emit_nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self.policy = policy
        self._quota_on_outage = quota_on_outage
        self._quota_on_exhausted = quota_on_exhausted
        self._quota_right_size = quota_right_size
        self._quota_limits: dict[tuple[object, ...], Limit] = {}
        self._emit = emit
        self._settler = Settler(store, emit=emit)
        self._renewer = Renewer(
            store,
            lease_every_s=renew_every_s,
            record_every_s=keep_every_s,
            longest_s=longest_exchange_s,
            clock=clock,
        )

    async def start(self) -> None:
        """Begin what runs behind the requests: holds are renewed, the store looks after itself."""
        await self._store.start()
        self._renewer.start()

    async def renew_due(self) -> None:
        """Renew the holds whose time it is; after ``start`` that happens by itself."""
        await self._renewer.renew_due()

    async def ping(self) -> None:
        """Return when the store answers.

        Raises:
            Unavailable: it doesn't.
        """
        try:
            await self._store.ping()
        except StoreError as error:
            raise Unavailable("The limit store does not answer.") from error

    @property
    def pending_settlements(self) -> int:
        """How many the store has not taken yet."""
        return self._settler.pending

    async def reserve(self, request: ReserveRequest) -> Reservation:
        """See ``Limiter.reserve``."""
        subject = request.subject
        limits = self.policy.limits_for(subject)
        quotas: tuple[tuple[Limit, Seed], ...] = ()
        if request.quotas:
            quotas = tuple([(self._limit(quota), seeded(quota)) for quota in request.quotas])
        try:
            asked = await ask(self._ask, request, limits, quotas)
            if asked is None:
                self._emit(LimitsDecided("admitted"))
                return Reservation(request, request.predicted)
            claim, held, verdict = asked.claim, asked.held, asked.verdict
            if verdict.decision is not _ADMITTED:
                _raise_refusal(claim, verdict)
        except SentinelError as error:
            limit = error.details.get("limit_name")
            outcome = _OUTCOMES.get(type(error), "unavailable")
            rung = error.extra_headers.get(DEGRADED)
            self._emit(LimitsDecided(outcome, None if limit is None else str(limit), rung))
            raise
        taken = Claim(claim.id, claim.owner, claim.lines, claim.epochs, verdict.at_ms)
        self._renewer.watch(taken)
        states = limit_states(claim, verdict)
        shadowed = tuple([state.name for state in states if state.exceeded])
        self._emit(LimitsDecided("admitted", None, verdict.degraded, shadowed))
        hold = _Hold(taken, held, subject.model, place=_take_places(limits))
        return Reservation(request, held, states, verdict.degraded, hold)

    async def grow(self, reservation: Reservation, counted: Quantities) -> Growth:
        """See ``GrowingLimiter.grow``; takes some more than counted, to be asked less often."""
        hold = reservation.handle
        if not isinstance(hold, _Hold) or hold.is_settled():
            return Growth.GROWN
        if not hold.measured:
            hold.measure()
        if _covers(hold.covers, counted):
            return Growth.GROWN
        if hold.growth is not Growth.GROWN:
            return hold.growth
        ahead = max(_GROW_AT_LEAST, counted.output_tokens // _GROW_AHEAD)
        wider = replace(counted, output_tokens=counted.output_tokens + ahead)
        for target in (wider, counted):
            try:
                claim = _at_least(hold.claim, retaken(hold.claim, target, hold.model))
                verdict = await self._store.extend(claim)
            except StoreError as error:
                log.debug("whether a hold can grow is not known: %s", error)
                return Growth.UNKNOWN
            except SentinelError as error:
                log.debug("a hold could not grow: %s", error)
                return Growth.DEBT
            if hold.is_settled() or verdict.decision is Decision.OVER:
                return Growth.GROWN
            if verdict.decision is Decision.ADMITTED:
                hold.claim, hold.covers = claim, target
            self._renewer.renewed(hold.claim)
            if verdict.decision is Decision.ADMITTED:
                return Growth.GROWN
        exhausted = [
            line.limit
            for line, answer in zip(claim.lines, verdict.lines, strict=True)
            if not answer.fits and not line.limit.shadow
        ]
        cut = any(limit.on_exhausted is OnExhausted.CUT for limit in exhausted)
        hold.growth = Growth.CUT if cut else Growth.DEBT
        for limit in exhausted:
            self._emit(HoldExhausted(limit.name, cut))
        return hold.growth

    def settle(
        self, reservation: Reservation, actual: Quantities
    ) -> Coroutine[Any, Any, None] | Settled:
        """See ``Limiter.settle``; ``flush`` waits for it to be applied."""
        hold = reservation.handle
        if not isinstance(hold, _Hold) or hold.settled:
            return SETTLED
        hold.settled = True
        self._renewer.forget(hold.claim)
        try:
            settled = retaken(hold.claim, actual, hold.model)
            for before, after in zip(hold.claim.lines, settled.lines, strict=True):
                if after.amount > before.amount and not before.limit.shadow:
                    beyond = after.amount - before.amount
                    self._emit(SettledBeyond(before.limit.name, beyond))
            self._settler.submit(settled)
        except SentinelError as error:
            log.warning("settled as held: %s", error)
            self._settler.submit(hold.claim)
        except Exception:
            log.exception("not settled: its hold will lapse by itself")
        if hold.place:
            return self._settler.tried(hold.claim, within_s=_PLACE_WAITS_S)
        return SETTLED

    async def peek(
        self, subject: Subject, quotas: tuple[Quota, ...] = ()
    ) -> tuple[LimitState, ...]:
        """Where the limits stand that ``subject`` would meet. Takes nothing, and changes nothing.

        Raises:
            Unavailable: the store can't be asked.
        """
        request = ReserveRequest(uuid.uuid4().hex, subject, NOTHING)
        limits = self.policy.limits_for(subject)
        seeds = tuple((self._limit(quota), seeded(quota)) for quota in quotas)
        claim = peeking(build_claim(request, limits, seeds, NOTHING))
        try:
            verdict = await self._store.reserve(claim)
        except StoreError as error:
            raise Unavailable("The limit store does not answer.") from error
        return limit_states(claim, verdict)[1:]

    async def flush(self) -> None:
        """Return when every settlement so far is applied."""
        await self._settler.flush()

    async def close(self, *, timeout_s: float = 5.0) -> None:
        """Apply what is settled, for at most ``timeout_s``; then close the store."""
        await self._renewer.stop()
        await self._settler.close(timeout_s=timeout_s)
        await self._store.close()

    def _limit(self, quota: Quota) -> Limit:
        key = (quota.name, quota.unit, quota.limit, quota.period)
        limit = self._quota_limits.get(key)
        if limit is None:
            if len(self._quota_limits) >= _MOST_QUOTAS:
                self._quota_limits.clear()
            limit = self._quota_limits[key] = self._new_limit(quota)
        return limit

    def _new_limit(self, quota: Quota) -> Limit:
        return quota_limit(
            quota,
            on_outage=self._quota_on_outage,
            on_exhausted=self._quota_on_exhausted,
            right_size=self._quota_right_size,
        )

    async def _ask(self, claim: Claim) -> Verdict:
        try:
            verdict = await self._store.reserve(claim)
        except StoreError as error:
            if not isinstance(error, StoreUntriedError):
                self._hand_back(claim)
            told = {} if error.rung is None else {DEGRADED: error.rung}
            raise Unavailable("Limits can't be checked at the moment.", headers=told) from error
        except BaseException:
            # Cancelled while the store may be taking it, or a fault of ours: nobody would settle.
            self._hand_back(claim)
            raise
        if verdict.unsure and verdict.decision is not _ADMITTED:
            self._hand_back(claim)
        return verdict

    def _hand_back(self, claim: Claim) -> None:
        self._settler.submit(retaken(claim, NOTHING, ""))


@lru_cache(maxsize=1024)
def _take_places(limits: tuple[Limit, ...]) -> bool:
    """Whether one of them is about what is under way at once; no quota is."""
    return any(limit.kind is Kind.CONCURRENCY for limit in limits)


def _raise_refusal(claim: Claim, verdict: Verdict) -> NoReturn:
    if verdict.decision is Decision.DENIED:
        raise refusal(claim, verdict)
    if verdict.decision is Decision.REVOKED:
        raise CredentialRevoked("This credential was revoked.")
    raise Unavailable("This exchange is over already.", code="exchange_over")


def _covers(held: Quantities, counted: Quantities) -> bool:
    return (
        held.requests >= counted.requests
        and held.input_tokens >= counted.input_tokens
        and held.output_tokens >= counted.output_tokens
        and held.characters >= counted.characters
    )


def _at_least(old: Claim, new: Claim) -> Claim:
    """``new``, but never less on a line than ``old`` holds there."""
    return replace(
        new,
        lines=tuple(
            after if after.amount >= before.amount else before
            for before, after in zip(old.lines, new.lines, strict=True)
        ),
    )
