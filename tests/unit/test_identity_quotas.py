"""Zion's quotas: translated, and cached as identities are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from sentinel_extproc.errors import Forbidden, Unavailable
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.identity.quotas import CachedQuotas, translated
from sentinel_extproc.limits.model import Quota, QuotaPeriod, Unit
from sentinel_extproc.zion import wire
from sentinel_extproc.zion.answers import Reason, ZionUnavailable
from sentinel_extproc.zion.wire import Metric, ResetPeriod, UserLimits

ALICE = Principal("ext-a", "a", "a@example.org")


def zion_quota(**changes: Any) -> wire.Quota:
    values: dict[str, Any] = {
        "name": "pro",
        "metric": Metric.REQUESTS,
        "limit": 100,
        "used": 3,
        "remaining": 97,
        "resets": ResetPeriod.MONTHLY,
        "period_start": None,
        "period_end": None,
    }
    return wire.Quota(**{**values, **changes})


@dataclass
class Client:
    answer: tuple[wire.Quota, ...] | Exception = (zion_quota(),)
    calls: list[str] = field(default_factory=list)

    async def limits(self, external_id: str) -> UserLimits:
        self.calls.append(external_id)
        if isinstance(self.answer, Exception):
            raise self.answer
        return UserLimits("a", external_id, self.answer)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_767_225_600.0 + self.now


def make(client: Client, clock: Clock) -> CachedQuotas:
    return CachedQuotas(client, clock=clock, wall_clock=clock.wall, jitter=lambda: 1.0)


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        (Metric.INPUT_TOKENS, Unit.INPUT),
        (Metric.OUTPUT_TOKENS, Unit.OUTPUT),
        (Metric.REQUESTS, Unit.REQUESTS),
    ],
)
@pytest.mark.parametrize(
    ("resets", "period"),
    [(None, QuotaPeriod.NEVER), *((reset, QuotaPeriod(reset.value)) for reset in ResetPeriod)],
)
async def test_translation(
    metric: Metric, unit: Unit, resets: ResetPeriod | None, period: QuotaPeriod
) -> None:
    client = Client((zion_quota(metric=metric, resets=resets, used=130),))
    name = f"pro-{metric.value}"
    assert (await make(client, Clock()).entitlement(ALICE)).quotas == (
        Quota(name=name, unit=unit, limit=100, used=130, period=period, seen_ms=1_767_225_600_000),
    )


@pytest.mark.parametrize(("names", "plan"), [(["pro"], "pro"), (["ai_requests"], None), ([], None)])
async def test_the_plan_is_what_zions_limits_are_named_for(
    names: list[str], plan: str | None
) -> None:
    client = Client(tuple(zion_quota(name=name, metric=Metric.REQUESTS) for name in names))
    assert (await make(client, Clock()).entitlement(ALICE)).plan == plan


def test_every_quota_has_a_name_of_its_own() -> None:
    long = "x" * 100
    quotas = translated(
        [
            zion_quota(metric=Metric.INPUT_TOKENS),
            zion_quota(metric=Metric.REQUESTS),
            zion_quota(metric=Metric.REQUESTS, resets=ResetPeriod.DAILY),
            zion_quota(metric=Metric.REQUESTS, resets=ResetPeriod.DAILY),
            zion_quota(name="ai_requests"),
            zion_quota(name=long, metric=Metric.INPUT_TOKENS),
            zion_quota(name=long, metric=Metric.OUTPUT_TOKENS),
        ],
        seen_ms=1,
    )
    assert [quota.name for quota in quotas] == [
        "pro-ai_input_tokens",
        "pro-ai_requests",
        "pro-ai_requests-daily",
        "pro-ai_requests-daily-",
        "ai_requests",
        f"{'x' * 32}-ai_input_tokens",
        f"{'x' * 32}-ai_output_tokens",
    ]


async def test_a_change_in_zion_shows_within_the_fresh_period_or_at_once_when_told() -> None:
    client, clock = Client(), Clock()
    quotas = make(client, clock)
    await quotas.entitlement(ALICE)
    client.answer = (zion_quota(limit=5),)
    clock.now = 59
    assert (await quotas.entitlement(ALICE)).quotas[0].limit == 100
    quotas.forget_user("ext-z")
    assert (await quotas.entitlement(ALICE)).quotas[0].limit == 100
    quotas.forget_user("ext-a")
    (fresh,) = (await quotas.entitlement(ALICE)).quotas
    assert (fresh.limit, fresh.seen_ms) == (5, 1_767_225_659_000)
    client.answer = ()
    quotas.forget_all()
    assert (await quotas.entitlement(ALICE)).quotas == ()
    assert client.calls == ["ext-a"] * 3
    await quotas.aclose()


async def test_a_user_without_quotas_is_remembered_too() -> None:
    client = Client(())
    quotas = make(client, Clock())
    for _ in range(3):
        assert (await quotas.entitlement(ALICE)).quotas == ()
    assert len(client.calls) == 1


async def test_known_quotas_serve_while_zion_is_down_and_unknown_users_get_a_503() -> None:
    client, clock = Client(), Clock()
    quotas = make(client, clock)
    await quotas.entitlement(ALICE)
    client.answer = ZionUnavailable("down", reason=Reason.TIMEOUT)
    for now in (100, 301, 1799):
        clock.now = now
        assert (await quotas.entitlement(ALICE)).quotas[0].limit == 100
    with pytest.raises(Unavailable):
        await quotas.entitlement(Principal("ext-b", "b", ""))
    clock.now = 1800
    with pytest.raises(Unavailable):
        await quotas.entitlement(ALICE)
    await quotas.aclose()


async def test_a_busy_zion_is_left_alone() -> None:
    client, clock = Client(), Clock()
    client.answer = ZionUnavailable("busy", reason=Reason.RATE_LIMITED, retry_after_s=20)
    quotas = make(client, clock)
    for now in (0, 10, 19):
        clock.now = now
        with pytest.raises(Unavailable) as caught:
            await quotas.entitlement(ALICE)
        assert caught.value.retry_after_s == 20 - now
    assert len(client.calls) == 1


async def test_an_unknown_user_is_refused() -> None:
    client = Client(Forbidden("unknown", code="user_not_found"))
    with pytest.raises(Forbidden):
        await make(client, Clock()).entitlement(ALICE)
