"""Finds the answers to what an exchange asks before it decides: who, what, how much, and may it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

from msgspec import structs

from sentinel_extproc.errors import SentinelError
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.identity.principal import Authenticator, EntitlementSource
from sentinel_extproc.limits.headers import limit_headers
from sentinel_extproc.limits.model import NOTHING, Limiter, Reservation, ReserveRequest
from sentinel_extproc.tokens.model import RequestEstimator
from sentinel_extproc.transport.background import Background
from sentinel_extproc.usage.record import Intent, Ledger

INLINE_BYTES = 6_000
"""Bodies up to here are read and counted on the event loop: a thread hand-over costs more (about
100 µs), and even a hostile body of this size takes less than 10 ms."""

Question = do.Authenticate | do.Read | do.Count | do.Reserve

P = ParamSpec("P")
T = TypeVar("T")


class Way(NamedTuple):
    """How one kind of question is answered.

    Attributes:
        phase: what the time that it takes is called.
        ask: asks whom it takes; a ``SentinelError`` refuses.
        at_once: gives the answer if that takes neither waiting nor a thread, and so no time-out.
    """

    phase: str
    ask: Callable[[Any], Coroutine[Any, Any, on.Event]]
    at_once: Callable[[Any], on.Event | None] | None = None


class Questions:
    """Asks those who know.

    Attributes:
        ways: how each kind of question is answered.

    Args:
        quotas: knows the callers' quotas; None when there are only our own limits.
        pool: where large bodies are counted.
        background: where what was taken in vain is handed back.
    """

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        quotas: EntitlementSource | None,
        estimator: RequestEstimator,
        limiter: Limiter,
        ledger: Ledger,
        pool: Executor,
        background: Background,
    ) -> None:
        self._authenticator = authenticator
        self._quotas = quotas
        self._estimator = estimator
        self._limiter = limiter
        self._ledger = ledger
        self._pool = pool
        self._background = background
        self.ways: dict[type[Question], Way] = {
            do.Authenticate: Way("authenticate", self._authenticate),
            do.Read: Way("read", self._read, self._read_small),
            do.Count: Way("count", self._count, self._count_small),
            do.Reserve: Way("reserve", self._reserve),
        }

    async def _authenticate(self, question: do.Authenticate) -> on.Event:
        who = self._authenticator
        check = who.recheck if question.again else who.authenticate
        principal = await check(question.token)
        if self._quotas is None:
            return on.Authenticated(principal)
        entitled = await self._quotas.entitlement(principal)
        if principal.plan is None and entitled.plan is not None:
            principal = replace(principal, plan=entitled.plan)
        return on.Authenticated(principal, entitled.quotas)

    def _read_small(self, question: do.Read) -> on.Event | None:
        if len(question.body) > INLINE_BYTES:
            return None
        return on.Planned(question.endpoint.plan(question.body, question.head))

    async def _read(self, question: do.Read) -> on.Event:
        plan = question.endpoint.plan
        return on.Planned(await self._in_thread(plan, question.body, question.head))

    def _count_small(self, question: do.Count) -> on.Event | None:
        request = question.request
        if request.size > INLINE_BYTES:
            return None
        return on.Counted(self._estimator.estimate(request.kind, request.body))

    async def _count(self, question: do.Count) -> on.Event:
        estimate, request = self._estimator.estimate, question.request
        return on.Counted(await self._in_thread(estimate, request.kind, request.body))

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work on a large body, which would hold up all other exchanges here."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(work, *args, **kwargs))

    async def _reserve(self, question: do.Reserve) -> on.Event:
        self._ledger.check_room()
        try:
            reservation = await self._limiter.reserve(question.request)
        except asyncio.CancelledError:
            # Whether it was taken is unknown. Replaying the id tells, and then it is handed back.
            self._background.start(self._abandon(question.request))
            raise
        self._begin(question.intent, reservation)
        headers = limit_headers(reservation.states, degraded=reservation.degraded)
        return on.Reserved(reservation, tuple(headers.items()))

    def _begin(self, intent: Intent, reservation: Reservation) -> None:
        granted = reservation.held.output_tokens
        if granted != intent.reserved_output_tokens:
            intent = structs.replace(intent, reserved_output_tokens=granted)
        try:
            self._ledger.begin(intent)
        except SentinelError:
            self._background.start(self._limiter.settle(reservation, NOTHING))
            raise

    async def _abandon(self, request: ReserveRequest) -> None:
        try:
            reservation = await self._limiter.reserve(request)
        except SentinelError:
            return  # denied, so nothing is held; or unreachable, so its lease runs out
        await self._limiter.settle(reservation, NOTHING)
