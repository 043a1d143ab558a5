"""Zion's quotas of a user, cached as identities are: a ``EntitlementSource``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from sentinel_extproc.errors import SentinelError
from sentinel_extproc.identity.cache import Periods
from sentinel_extproc.identity.principal import Entitlement, Principal
from sentinel_extproc.identity.refreshing import CacheCounters, Loaded, RefreshingCache, SourceBusy
from sentinel_extproc.limits.model import Quota, QuotaPeriod, Unit
from sentinel_extproc.zion import wire
from sentinel_extproc.zion.answers import Reason, ZionUnavailable
from sentinel_extproc.zion.wire import Metric, UserLimits

UNITS = {
    Metric.INPUT_TOKENS: Unit.INPUT,
    Metric.OUTPUT_TOKENS: Unit.OUTPUT,
    Metric.REQUESTS: Unit.REQUESTS,
}


MAX_NAME = 32
"""Of a plan's name; the limiter takes 64 characters in all."""


class LimitsClient(Protocol):
    """The one call of ``ZionClient`` that is needed here."""

    async def limits(self, external_id: str) -> UserLimits: ...


class CachedQuotas:
    """Implements ``EntitlementSource`` over Zion. One event loop.

    Args:
        fresh_s: longest time an answer is used unchecked: how late a change in Zion shows.
        stale_s: age up to which it is used while it is asked for again.
        on_error_s: age up to which it is used while Zion can't answer.
        max_entries: users; an entry is about 2 KiB.
        max_lookups: concurrent look-ups of unknown users.
        clock, wall_clock: seconds, monotonic and since the epoch.
        jitter: a number from 0 to 1, for spreading.
    """

    def __init__(
        self,
        client: LimitsClient,
        *,
        fresh_s: float = 60.0,
        stale_s: float = 300.0,
        on_error_s: float = 1800.0,
        max_entries: int = 10_000,
        max_lookups: int = 256,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._periods = Periods(fresh_s, stale_s, on_error_s)
        self._wall_clock = wall_clock
        self._known: RefreshingCache[str, Entitlement] = RefreshingCache(
            max_entries=max_entries,
            max_loads=max_lookups,
            busy_message="The account's quotas can't be read right now; "
            "the request was not forwarded.",
            clock=clock,
            jitter=jitter,
        )

    @property
    def counters(self) -> CacheCounters:
        """Counts for telemetry."""
        return self._known.counters

    async def entitlement(self, principal: Principal) -> Entitlement:
        """See ``EntitlementSource``."""
        external_id = principal.external_id

        async def load(_known: bool) -> Loaded[Entitlement] | SentinelError:
            # The older of the two times: usage of ours that Zion adds meanwhile is counted twice
            # for a moment rather than not at all.
            seen_ms = int(self._wall_clock() * 1000)
            try:
                limits = await self._client.limits(external_id)
            except ZionUnavailable as error:
                if error.reason is Reason.RATE_LIMITED:
                    wait_s = error.retry_after_s or 1.0
                    return SourceBusy(error.message, retry_after_s=wait_s, code=error.code)
                return error
            except SentinelError as error:
                return error
            entitlement = Entitlement(translated(limits.quotas, seen_ms), plan_of(limits.quotas))
            return Loaded(entitlement, self._periods)

        return await self._known.get(external_id, load)

    def forget_token(self, token_sha256: bytes) -> None:
        """Quotas are a user's, whatever the token: nothing to forget."""

    def forget_user(self, external_id: str) -> None:
        """Ask anew for this user's quotas."""
        self._known.forget(external_id)

    def forget_all(self) -> None:
        """Ask anew for everybody's quotas."""
        self._known.forget_all()

    async def aclose(self) -> None:
        """Cancel look-ups that still run."""
        await self._known.aclose()


def plan_of(quotas: Iterable[wire.Quota]) -> str | None:
    """The plan that Zion's limits are named for; the per-metric dialect names metrics instead."""
    return next((quota.name for quota in quotas if quota.name != quota.metric.value), None)


def translated(quotas: Iterable[wire.Quota], seen_ms: int) -> tuple[Quota, ...]:
    """Zion's quotas as the limiter takes them, each under a name of its own: the limiter keeps
    its state by name, and Zion calls all metrics of one plan the same."""
    made: dict[str, Quota] = {}
    for quota in quotas:
        # Without a period Zion never resets it by itself, and tells us when somebody did.
        period = QuotaPeriod.NEVER if quota.resets is None else QuotaPeriod(quota.resets.value)
        name = quota.metric.value
        if quota.name != name:
            name = f"{quota.name[:MAX_NAME]}-{name}"
        if name in made:
            name = f"{name}-{period.value.lower()}"
        while name in made:
            name += "-"
        made[name] = Quota(
            name=name,
            unit=UNITS[quota.metric],
            limit=quota.limit,
            used=quota.used,
            period=period,
            seen_ms=seen_ms,
        )
    return tuple(made.values())
