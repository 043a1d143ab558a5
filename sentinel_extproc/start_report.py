"""What a sidecar found and decided as it started, in one line of the log. Never a secret."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinel_extproc import __version__
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.errors import SentinelError
from sentinel_extproc.limits.policy import Policy
from sentinel_extproc.provider_parts import DEFAULT
from sentinel_extproc.redis_parts import RedisFound
from sentinel_extproc.usage.outbox import Outbox

log = logging.getLogger("sentinel.app")

_WITHOUT_REDIS = "each limit goes by its on_outage, usage straight to Zion"
_WITHOUT_ZION = "known users go by what is cached, others get 503; usage waits, none is lost"


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found.

    Attributes:
        zion: why it wasn't reached; empty: it was.
        file: the outbox that this process has.
    """

    redis: RedisFound
    zion: str
    policy: Policy
    outbox: Outbox
    file: Path


async def tell_start(
    settings: Settings,
    find: Callable[[], Awaitable[Findings]],
    *,
    listen: str,
    workers: int,
    seconds: float,
) -> None:
    """Log it: a warning while something isn't ready. Whatever happens here, it goes on serving.

    Args:
        find: looks what there is.
        listen: where this process serves, one of so many workers.
        seconds: that the start took.
    """
    try:
        await _tell(settings, await find(), listen=listen, workers=workers, seconds=seconds)
    except Exception:
        log.exception("start_not_told")


async def _tell(
    settings: Settings, found: Findings, *, listen: str, workers: int, seconds: float
) -> None:
    missing = _not_ready(found)
    log.log(
        logging.WARNING if missing else logging.INFO,
        "serving",
        extra={
            "listen": listen,
            "version": __version__,
            "seconds": round(seconds, 3),
            "mode": settings.server.mode.value,
            "metering": settings.server.metering.value,
            "workers": workers,
            "admin": settings.admin.listen if settings.admin.enabled else "off",
            "identity": settings.identity.source.value,
            "providers": _providers(settings),
            "redis": _redis(settings, found.redis),
            "zion": {"reached": not found.zion, "url": settings.zion.url},
            "limits": _limits(settings, found.policy),
            "outbox": await _outbox(settings, found),
            "not_ready": missing,
        },
    )


def _not_ready(found: Findings) -> dict[str, str]:
    missing: dict[str, str] = {}
    if found.redis.problem:
        missing["redis"] = f"{found.redis.problem.rstrip('.')}; until then {_WITHOUT_REDIS}"
    if found.zion:
        missing["zion"] = f"{found.zion.rstrip('.')}; until then {_WITHOUT_ZION}"
    try:
        found.outbox.check_room()
    except SentinelError as error:
        missing["outbox"] = error.message
    return missing


def _providers(settings: Settings) -> list[str]:
    named = [entry.name for entry in settings.providers]
    return [*named, DEFAULT] if settings.provider.usable else named


def _redis(settings: Settings, found: RedisFound) -> dict[str, Any]:
    known: dict[str, Any] = {"reached": not found.problem, "topology": found.topology}
    if found.version:
        known["version"] = found.version
    return known | {"url": settings.public()["redis"]["url"]}


def _limits(settings: Settings, policy: Policy) -> dict[str, Any]:
    names = {limit.name for rule in policy.rules for limit in rule.limits}
    file = settings.limits.policy_file
    return {
        "count": len(names),
        "from": "limits.requests" if file is None else str(file),
        "zion_quotas": settings.limits.zion_quotas,
    }


async def _outbox(settings: Settings, found: Findings) -> dict[str, Any]:
    outbox = found.outbox
    known: dict[str, Any] = {
        "path": str(found.file),
        "hop": settings.usage.hop.value,
        "fill": round(outbox.fill, 3),
    }
    try:
        backlog = await outbox.backlog()
    except SentinelError as error:
        return known | {"undelivered": None, "fault": error.message}
    return known | {"undelivered": backlog.undelivered}
