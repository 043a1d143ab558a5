"""Puts the admin port together from the parts of a running sidecar."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from starlette.types import ASGIApp

from sentinel_extproc import __version__
from sentinel_extproc.admin.control import Control
from sentinel_extproc.admin.guard import Access, HostRule
from sentinel_extproc.admin.inner import LastWords, Shown, inner_routes
from sentinel_extproc.admin.listening import host_of
from sentinel_extproc.admin.looking import SidecarLookUps
from sentinel_extproc.admin.pacing import Pacing
from sentinel_extproc.admin.page.sources import OwnSources
from sentinel_extproc.admin.page.tables import MAX_RUNNING, TOP
from sentinel_extproc.admin.readings.hop import hop_readings, orphan_readings
from sentinel_extproc.admin.readings.identity import (
    identity_readings,
    quota_readings,
    revocation_readings,
    shared_cache_readings,
)
from sentinel_extproc.admin.readings.overload import overload_readings
from sentinel_extproc.admin.readings.serving import (
    breaker_readings,
    limit_readings,
    reload_readings,
    serving_readings,
    text_readings,
    trace_readings,
    zion_key_reading,
)
from sentinel_extproc.admin.readings.usage import (
    ledger_readings,
    outbox_readings,
    reporter_readings,
)
from sentinel_extproc.admin.routes import Check, Status, admin_app
from sentinel_extproc.admin.sampler import Sampler
from sentinel_extproc.admin.server import AdminServer, Tls
from sentinel_extproc.config.admin import admin_token
from sentinel_extproc.config.sections.operating import AdminSettings, Requirement
from sentinel_extproc.exchange.running import Running
from sentinel_extproc.identity.denylist import RedisDenyList
from sentinel_extproc.identity.effect import EffectTimes
from sentinel_extproc.identity.quotas import CachedQuotas
from sentinel_extproc.identity.service import CachedAuthenticator
from sentinel_extproc.identity.shared import RedisSharedCache
from sentinel_extproc.limits.limiter import StoreLimiter
from sentinel_extproc.limits.store.ladder import Ladder
from sentinel_extproc.limits.store.replicas import ReplicaCounter
from sentinel_extproc.overload.admission import Admission
from sentinel_extproc.reloading.reloader import ReloadState
from sentinel_extproc.telemetry.live import Live, tokens_by_name
from sentinel_extproc.telemetry.prometheus import Metrics
from sentinel_extproc.telemetry.readings import Reading
from sentinel_extproc.telemetry.tracing.shipper import SpanCounters
from sentinel_extproc.tokens.remembered import TextCounters
from sentinel_extproc.usage.item_queue import Backlog
from sentinel_extproc.usage.outbox import Outbox
from sentinel_extproc.usage.reading import LedgerState
from sentinel_extproc.usage_parts import UsageParts
from sentinel_extproc.workers.place import Place
from sentinel_extproc.zion.breaker import State
from sentinel_extproc.zion.client import ZionClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the admin port looks at; ``live`` counts exchanges that have a stream, ``running`` tells
    of the oldest ones; ``prefix`` is of the paths that are served."""

    metrics: Metrics
    outbox: Outbox
    usage: UsageParts
    zion: ZionClient
    authenticator: CachedAuthenticator
    texts: Callable[[], TextCounters]
    shared: RedisSharedCache
    denials: RedisDenyList
    effect: EffectTimes
    quotas: CachedQuotas | None
    limiter: StoreLimiter
    ladder: Ladder
    replicas: ReplicaCounter
    live: Callable[[], int]
    admission: Admission
    draining: Callable[[], bool]
    control: Control
    recent: Live
    running: Callable[[int], list[Running]]
    prefix: str
    reloads: Callable[[], ReloadState]
    traced: SpanCounters | None = None


async def start_admin(
    settings: AdminSettings, parts: Parts, stack: AsyncExitStack, *, worker: Place | None = None
) -> None:
    """Start what is measured behind the requests, and the port; ``stack`` ends them.

    Args:
        worker: which one of several this is; then the port is only for the one of all workers.

    Raises:
        ServerError: the address or the certificates can't be used.
        OSError, ValueError: the token file changed since the settings were checked.
    """
    if not settings.enabled:
        return
    backlog = Sampler(parts.outbox.backlog)
    stack.push_async_callback(backlog.aclose)
    backlog.start()
    ledger = Sampler(parts.outbox.ledger)
    stack.push_async_callback(ledger.aclose)
    ledger.start()
    parts.metrics.add_readings(_readings(parts, backlog, ledger))

    status = _status(parts, backlog, ledger, started_s=time.monotonic())
    look_ups = SidecarLookUps(
        peek=parts.limiter.peek,
        remembered=parts.authenticator.remembered,
        shared=parts.shared,
        denials=parts.denials,
        quotas=parts.quotas,
        prefix=parts.prefix,
    )
    make = partial(
        admin_app,
        exposition=parts.metrics.exposition,
        checks=_checks(parts, settings.ready_requires),
        status=status,
        control=parts.control,
        replay=parts.outbox.replay,
        look_ups=look_ups,
    )
    if worker is None:
        page = OwnSources(
            live=parts.recent,
            running=parts.running,
            in_all=parts.live,
            status=status,
            look_ups=look_ups,
            control=parts.control,
        )
        await serve_admin(settings, partial(make, page=page), stack)
        return
    words = LastWords(
        families=parts.metrics.families,
        counts=worker.counts,
        past=parts.recent.past,
        past_file=worker.past,
    )
    stack.push_async_callback(words.aclose)
    words.start()

    def shown() -> Shown:
        return Shown(parts.recent.past(), parts.running(MAX_RUNNING), parts.live())

    app = make(
        access=Access(token=None, trusted_peers=True),
        hosts=None,
        more=inner_routes(parts.metrics.families, shown),
    )
    await _serve(AdminServer(app, listen=worker.admin), stack)


async def serve_admin(
    settings: AdminSettings, make: Callable[..., ASGIApp], stack: AsyncExitStack
) -> None:
    """Serve an application where the settings say, to whom they say.

    Args:
        make: makes it; ``admin_app`` without ``access``, ``hosts`` and ``pacing``.

    Raises:
        As ``start_admin``.
    """
    on_socket = settings.listen.startswith("unix:")
    tls = None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        tls = Tls(settings.tls_cert_file, settings.tls_key_file, settings.client_ca_file)
    app = make(
        access=Access(
            token=admin_token(settings),
            trusted_peers=on_socket or settings.client_ca_file is not None,
        ),
        hosts=None if on_socket else HostRule((host_of(settings.listen), *settings.allowed_hosts)),
        pacing=Pacing(),
    )
    await _serve(
        AdminServer(app, listen=settings.listen, socket_mode=settings.socket_mode, tls=tls), stack
    )


async def _serve(server: AdminServer, stack: AsyncExitStack) -> None:
    stack.push_async_callback(server.aclose)
    await server.start()


def _readings(
    parts: Parts, backlog: Sampler[Backlog], ledger: Sampler[LedgerState]
) -> list[Reading]:
    quotas = parts.quotas
    return [
        *reload_readings(parts.reloads),
        *serving_readings(live=parts.live, draining=parts.draining),
        *overload_readings(parts.admission),
        *identity_readings(lambda: parts.authenticator.counters),
        *shared_cache_readings(lambda: parts.shared.counters),
        *text_readings(parts.texts),
        *revocation_readings(lambda: parts.denials.counters, lambda: parts.effect),
        *([] if quotas is None else quota_readings(lambda: quotas.counters)),
        *limit_readings(
            down=lambda: parts.ladder.down,
            pending=lambda: parts.limiter.pending_settlements,
            replicas=lambda: parts.replicas.count,
        ),
        *outbox_readings(parts.outbox, backlog),
        *ledger_readings(parts.outbox, ledger),
        *reporter_readings(lambda: parts.usage.reporter.counters),
        *orphan_readings(lambda: parts.usage.orphans.counters),
        *_hop_readings(parts.usage),
        *trace_readings(parts.traced),
        *breaker_readings(
            {
                "zion_lookup": lambda: parts.zion.lookup_state,
                "zion_report": lambda: parts.zion.report_state,
            }
        ),
        zion_key_reading(lambda: parts.zion.own_key_refused),
    ]


def _hop_readings(usage: UsageParts) -> list[Reading]:
    forwarder, queue = usage.forwarder, usage.queue
    if forwarder is None or queue is None:
        return []
    return hop_readings(
        lambda: forwarder.counters,
        lambda: forwarder.state,
        away=lambda: queue.away,
        in_hand=lambda: queue.in_hand,
        taken_over=lambda: queue.taken_over,
    )


def _checks(parts: Parts, requires: tuple[Requirement, ...]) -> dict[str, Check]:
    async def serving() -> str | None:
        return "draining" if parts.draining() else None

    async def outbox() -> str | None:
        parts.outbox.check_room()
        return None

    async def redis() -> str | None:
        if parts.ladder.down:
            return "the limit store is away"
        await parts.limiter.ping()
        return None

    async def zion() -> str | None:
        if parts.zion.own_key_refused:
            return "it refuses our key"
        return "its breaker is open" if parts.zion.lookup_state is State.OPEN else None

    known: Mapping[Requirement, Callable[[], Awaitable[str | None]]] = {
        Requirement.OUTBOX: outbox,
        Requirement.REDIS: redis,
        Requirement.ZION: zion,
    }
    return {"serving": serving} | {each.value: known[each] for each in requires}


def _status(
    parts: Parts, backlog: Sampler[Backlog], ledger: Sampler[LedgerState], *, started_s: float
) -> Status:
    async def status() -> dict[str, Any]:
        return {
            "version": __version__,
            "uptime_seconds": int(time.monotonic() - started_s),
            "configuration": _configuration(parts.reloads()),
            "exchanges": {"live": parts.live(), "draining": parts.draining()},
            "top": {
                "users": tokens_by_name(parts.recent.users(TOP)),
                "models": tokens_by_name(parts.recent.models(TOP)),
            },
            "overload": _overload(parts.admission),
            "limits": {
                "store": "away" if parts.ladder.down else "up",
                "replicas": parts.replicas.count,
                "pending_settlements": parts.limiter.pending_settlements,
            },
            "identity": asdict(parts.authenticator.counters),
            "zion": {
                "lookup_breaker": parts.zion.lookup_state.value,
                "report_breaker": parts.zion.report_state.value,
                "own_key": "refused" if parts.zion.own_key_refused else "not refused",
            },
            "outbox": {
                "fill": parts.outbox.fill,
                "degraded": parts.outbox.degraded,
                "fault": parts.outbox.fault,
                "set_aside": [kept.name for kept in parts.outbox.set_aside],
            }
            | _waiting(backlog.last),
            "stream": _stream(parts.usage),
            "ledger": _ledger(parts.outbox, ledger.last),
            "reports": asdict(parts.usage.reporter.counters),
        }

    return status


def _overload(admission: Admission) -> dict[str, Any]:
    return {
        "admitted_share": round(admission.shedder.share, 3),
        "reasons": sorted(admission.shedder.reasons),
        "turned_away": dict(admission.turned_away),
    }


def _stream(usage: UsageParts) -> dict[str, Any] | None:
    if usage.forwarder is None or usage.queue is None:
        return None
    state = usage.forwarder.state
    return {
        "away": usage.queue.away,
        "entries": state.entries,
        "pending": state.pending,
        "in_hand": usage.queue.in_hand,
        "oldest_seconds": int(state.oldest_s),
    }


def _configuration(state: ReloadState) -> dict[str, Any]:
    return {
        "reloads": state.taken,
        "refused_reloads": state.refused,
        "last_reload": None if state.at_ms is None else state.at_ms // 1000,
        "faults": list(state.faults),
        "needs_restart": list(state.needs_restart),
    }


def _ledger(outbox: Outbox, state: LedgerState | None) -> dict[str, Any]:
    head = outbox.head
    return {
        "heads": [{"sidecar": outbox.sidecar, "seq": head.seq, "hash": head.hash.hex()}],
        "under_way": outbox.intents_in_use,
        "unknown": None if state is None else state.unknown,
        "retained": None if state is None else state.retained,
    }


def _waiting(backlog: Backlog | None) -> dict[str, Any]:
    if backlog is None:
        return {"undelivered": None, "oldest_seconds": None}
    oldest_ms = backlog.oldest_ms
    return {
        "undelivered": backlog.undelivered,
        **{f"{state.value}_items": count for state, count in backlog.items.items()},
        "oldest_seconds": None
        if oldest_ms is None
        else max(0, int(time.time() - oldest_ms / 1000)),
    }
