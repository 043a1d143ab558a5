"""The composition root: builds the parts, starts them in order, ends them in order."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

from sentinel_extproc.admin.assembly import Parts, start_admin
from sentinel_extproc.admin.revoking import AllForgetters, RevokerControl
from sentinel_extproc.config.sections.limits import LimitSettings
from sentinel_extproc.config.sections.serving import Metering, Mode
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.credentials.watch import KeyWatch
from sentinel_extproc.exchange.native import BytesPerToken
from sentinel_extproc.exchange_parts import exchanges, shadow_report
from sentinel_extproc.identity.quotas import CachedQuotas
from sentinel_extproc.identity.revocation import (
    EndStreams,
    Forgetter,
    RevocationFeed,
    Revoker,
)
from sentinel_extproc.identity_parts import IdentityParts, identity_parts
from sentinel_extproc.limits.facts import EmitLimitFact
from sentinel_extproc.limits.limiter import StoreLimiter
from sentinel_extproc.limits.policy import Policy
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.ladder import Ladder
from sentinel_extproc.limits.store.replicas import ReplicaCounter
from sentinel_extproc.memory import give_back
from sentinel_extproc.outbox_parts import close_outbox, departed, note_head, open_outbox
from sentinel_extproc.overload_parts import admission_of, watch_load
from sentinel_extproc.pauses import keep_pauses_short
from sentinel_extproc.provider_parts import provider_parts
from sentinel_extproc.redis_parts import (
    breaker_boards,
    check_redis,
    deferred_usage,
    redis_client,
    redis_store,
    redis_tls,
)
from sentinel_extproc.reloading.reading import CurrentPrice, Swappable, read_again, swappable
from sentinel_extproc.reloading.reloader import Reloader
from sentinel_extproc.server_parts import server_of
from sentinel_extproc.shadow.recorder import NoLedger
from sentinel_extproc.start_report import Findings, tell_start
from sentinel_extproc.telemetry.fact_logs import (
    NO_LINE,
    FactLog,
    log_credential_fact,
    log_limit_fact,
)
from sentinel_extproc.telemetry.facts import ExchangeTimed, to_all
from sentinel_extproc.telemetry.live import Live
from sentinel_extproc.telemetry.outages import Dependency, OutageLog
from sentinel_extproc.telemetry.prometheus import Metrics
from sentinel_extproc.tokens.encodings import preload
from sentinel_extproc.tokens.estimator import TokenEstimator
from sentinel_extproc.tracing_parts import tracing_parts
from sentinel_extproc.transport.driver import Driver
from sentinel_extproc.transport.server import Server
from sentinel_extproc.usage_parts import UsageParts, usage_parts
from sentinel_extproc.workers.place import Place
from sentinel_extproc.zion.breaker import State
from sentinel_extproc.zion.client import ZionClient
from sentinel_extproc.zion.wire import Dialect

log = logging.getLogger("sentinel.app")

_SETTLE_DEADLINE_S = 5.0
_REACH_S = 1.0
"""For Zion to be looked at, while requests are served already."""


async def serve(
    settings: Settings, config_file: Path | None = None, *, place: Place | None = None
) -> None:
    """Run until SIGTERM or SIGINT, then drain; SIGHUP reloads.

    Args:
        config_file: where the settings are from, to be read again.
        place: which one of several workers this is; None: the only one.

    Raises:
        StartError, ServerError, OutboxError, ValueError: it can't start as configured.
    """
    stop = asyncio.Event()
    replaced = False
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reload = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    if place is not None and place.successor:
        reload.set()

    def leave(for_another: bool) -> None:
        nonlocal replaced
        replaced = for_another
        stop.set()

    async with AsyncExitStack() as stack:
        if place is not None:
            place.lifeline.hold(leave)
            stack.push_async_callback(place.lifeline.let_go)
        server, driver, findings = await _start(
            settings,
            stack,
            config_file=config_file,
            reload=reload,
            draining=stop.is_set,
            place=place,
        )
        keep_pauses_short()
        give_back()
        took_s = loop.time() - started
        if place is not None:
            place.lifeline.ready()
        await tell_start(
            settings,
            findings,
            listen=settings.server.listen if place is None else place.address,
            workers=1 if place is None else place.count,
            seconds=took_s,
        )
        await stop.wait()
        log.info("draining", extra={"streams": driver.live})
        began = loop.time()
        await server.drain(
            grace_s=settings.server.drain_seconds,
            hand_back_s=settings.server.hand_back_seconds,
            replaced=replaced,
        )
        log.info("intake_stopped", extra={"seconds": round(loop.time() - began, 3)})
        if late := await driver.join(_SETTLE_DEADLINE_S):
            log.error("settlements_cut_off", extra={"count": late})
        log.info("settled", extra={"seconds": round(loop.time() - began, 3)})
    log.info("stopped")


async def _start(
    settings: Settings,
    stack: AsyncExitStack,
    *,
    config_file: Path | None,
    reload: asyncio.Event,
    draining: Callable[[], bool],
    place: Place | None,
) -> tuple[Server, Driver, Callable[[], Awaitable[Findings]]]:
    """Start every part; ``stack`` ends them in the reverse order."""
    workers = 1 if place is None else place.count
    metrics, recent = Metrics(), Live()
    pool = ThreadPoolExecutor(settings.tokens.threads, thread_name_prefix="count")
    stack.callback(pool.shutdown, wait=False, cancel_futures=True)
    # Here, before there is anything else: building makes and frees much, and what another thread
    # kept in between would hold on to that memory, 15 MiB of it.
    preload()

    outbox, outbox_file = open_outbox(settings, workers=workers)
    note_head("ledger_opened", outbox)
    stack.push_async_callback(close_outbox, outbox)

    tracing = tracing_parts(settings, outbox.sidecar, stack)
    boards = breaker_boards(settings.redis, stack)
    zion = ZionClient(
        base_url=settings.zion.url,
        api_key=settings.zion.api_key.get_secret_value(),
        dialect=Dialect(settings.zion.dialect.value),
        deadline_s=settings.zion.deadline_seconds,
        report_deadline_s=settings.zion.report_deadline_seconds,
        ca_file=settings.zion.ca_file,
        client_cert_file=settings.zion.client_cert_file,
        client_key_file=settings.zion.client_key_file,
        lookup_board=boards("lookup"),
        report_board=boards("report"),
    )
    stack.push_async_callback(zion.aclose)
    await zion.prime()

    for_usage = redis_client(settings.redis, stack, max_connections=8)
    usage = await usage_parts(
        settings.usage,
        outbox=outbox,
        zion=zion,
        redis=for_usage,
        prefix=settings.redis.prefix,
        report_deadline_s=settings.zion.report_deadline_seconds,
        stack=stack,
    )

    if place is None or place.index == 0:
        left = departed(settings, own=outbox_file, workers=workers, zion=zion, redis=for_usage)
        stack.push_async_callback(left.aclose)
        left.start()

    store = redis_store(settings.redis)
    identity = identity_parts(
        settings.identity,
        zion=zion,
        store=store,
        prefix=settings.redis.prefix,
        budget_s=settings.redis.timeout_seconds,
        redis_answers=lambda: not ladder.down,
        stack=stack,
    )
    quotas = _quotas(settings, zion)
    if quotas is not None:
        stack.push_async_callback(quotas.aclose)
    forgetters: tuple[Forgetter, ...] = (identity.authenticator, *([quotas] if quotas else []))

    emit_limits = to_all(
        log_limit_fact,
        metrics.emit_limits,
        *tracing.emit_limits,
        deaf=dict.fromkeys(NO_LINE, (log_limit_fact,)),
    )
    replicas = ReplicaCounter(store, at_least=settings.limits.replicas_at_least * workers)
    ladder = Ladder(store, replicas=replicas, emit=emit_limits)
    current = swappable(settings)
    limiter = _limiter(settings.limits, ladder, current.policy, emit_limits)
    stack.push_async_callback(limiter.close)
    await limiter.start()
    redis = await check_redis(store, settings.redis)

    choose, key_files = provider_parts(settings)
    emit_credentials = to_all(log_credential_fact, metrics.emit_credentials)
    watch = KeyWatch(key_files, emit=emit_credentials)
    stack.push_async_callback(watch.aclose)
    watch.start()
    estimator = TokenEstimator(current.models)
    price = CurrentPrice(current.price)
    native = BytesPerToken() if settings.server.metering is Metering.NATIVE else None
    bills = settings.server.mode is Mode.ENFORCE or settings.shadow.bill
    admission = admission_of(
        settings.overload,
        max_streams=settings.server.max_streams,
        workers=workers,
        enforces=settings.server.mode is Mode.ENFORCE,
    )
    fact_log = FactLog()
    stack.callback(fact_log.flush)
    driver = Driver(
        new_exchange=exchanges(settings, choose, estimator, price, native),
        bytes_per_token=native,
        authenticator=identity.authenticator,
        estimator=estimator,
        limiter=limiter,
        ledger=outbox if bills else NoLedger(),
        quotas=quotas,
        deferred=deferred_usage(settings.redis, stack) if bills else None,
        pool=pool,
        emit=to_all(
            fact_log.emit,
            metrics.emit,
            recent.emit,
            *tracing.emit,
            *await shadow_report(settings, stack),
            deaf={ExchangeTimed: (fact_log.emit, recent.emit)},
        ),
        traced=tracing.on,
        admission=admission,
        decision_timeout_s=settings.server.decision_timeout_seconds,
    )
    watch_load(
        admission.shedder,
        outbox=outbox,
        live=lambda: driver.live,
        observe=metrics.loop_lag.observe,
        stack=stack,
    )
    await _hear_revocations(settings, identity, forgetters, driver.end_streams, stack)
    server = server_of(
        settings.server, driver, inherited=None if place is None else place.listening
    )
    stack.push_async_callback(server.drain, grace_s=0.0, hand_back_s=0.0)
    await server.start()
    revoker = Revoker(
        store,
        store.client,
        local=AllForgetters(*forgetters),
        shared=identity.shared,
        denials=identity.denials,
        channel=_revocations(settings),
    )

    def swap(new: Swappable) -> None:
        limiter.policy, price.price = new.policy, new.price
        estimator.replace(new.models)
        identity.take_static_keys(new.static_keys)

    reloader = Reloader(
        current,
        read=lambda: read_again(config_file),
        swap=swap,
        config_file=config_file,
        asked=reload,
    )
    stack.push_async_callback(reloader.aclose)
    reloader.start()
    outages = OutageLog(_dependencies(zion, usage))
    stack.push_async_callback(outages.aclose)
    outages.start()
    # Last to start and first to end, so that it never looks at a part that isn't there.
    await start_admin(
        settings.admin,
        Parts(
            metrics=metrics,
            outbox=outbox,
            usage=usage,
            zion=zion,
            authenticator=identity.authenticator,
            texts=lambda: estimator.text_counters,
            shared=identity.shared,
            denials=identity.denials,
            effect=identity.effect,
            quotas=quotas,
            limiter=limiter,
            ladder=ladder,
            replicas=replicas,
            live=lambda: driver.live,
            admission=admission,
            draining=draining,
            control=RevokerControl(revoker.revoke, end_streams=driver.end_streams),
            recent=recent,
            running=driver.running,
            prefix=settings.endpoints.prefix,
            reloads=lambda: reloader.state,
            traced=tracing.counters,
        ),
        stack,
        worker=place,
    )

    async def findings() -> Findings:
        reached = await zion.reach(_REACH_S)
        return Findings(redis, reached, current.policy, outbox, outbox_file)

    return server, driver, findings


def _dependencies(zion: ZionClient, usage: UsageParts) -> dict[str, Dependency]:
    """What is told by state. The limit store tells by itself."""
    found = {
        "zion_key": Dependency(
            lambda: zion.own_key_refused,
            "Zion refuses zion.api_key: users whose quotas aren't known get 503, usage waits; give"
            " the right key, and restart",
        ),
        "zion_lookups": Dependency(
            lambda: zion.lookup_state is not State.CLOSED,
            "known users go by what is cached, others get 503",
        ),
        "zion_reports": Dependency(
            lambda: zion.report_state is not State.CLOSED, "usage waits, none is lost"
        ),
    }
    if (queue := usage.queue) is not None:
        found["usage_stream"] = Dependency(lambda: queue.away, "usage goes straight to Zion")
    return found


def _limiter(
    settings: LimitSettings, ladder: Ladder, policy: Policy, emit: EmitLimitFact
) -> StoreLimiter:
    return StoreLimiter(
        ladder,
        policy,
        quota_on_outage=settings.quota_on_outage,
        quota_on_exhausted=settings.quota_on_exhausted,
        quota_right_size=settings.quota_right_size,
        emit=emit,
    )


def _quotas(settings: Settings, zion: ZionClient) -> CachedQuotas | None:
    if not settings.limits.zion_quotas:
        return None
    identity = settings.identity
    return CachedQuotas(
        zion,
        fresh_s=identity.fresh_seconds,
        stale_s=identity.stale_seconds,
        on_error_s=identity.stale_on_error_seconds,
        max_entries=identity.max_entries,
    )


async def _hear_revocations(
    settings: Settings,
    identity: IdentityParts,
    forgetters: tuple[Forgetter, ...],
    end_streams: EndStreams,
    stack: AsyncExitStack,
) -> None:
    # A connection of its own, without a time-out on reading: a quiet channel is no fault.
    client = build_client(
        settings.redis.url, timeout_s=None, max_connections=2, tls=redis_tls(settings.redis)
    )
    stack.push_async_callback(client.aclose)
    feed = RevocationFeed(
        client,
        forgetters,
        channel=_revocations(settings),
        end_streams=end_streams,
        denials=identity.denials,
        effect=identity.effect,
    )
    stack.push_async_callback(feed.aclose)
    feed.start()


def _revocations(settings: Settings) -> str:
    return f"{settings.redis.prefix}:revocations"
