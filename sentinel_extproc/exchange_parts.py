"""The composition root's part about exchanges: how each is made, and who counts them in shadow."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

from sentinel_extproc.config.sections.limits import LimitSettings
from sentinel_extproc.config.sections.serving import Mode
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.exchange.expected_output import (
    FixedOutput,
    LearnedOutput,
    OutputExpectation,
)
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.native import BytesPerToken
from sentinel_extproc.exchange.providers import Choose
from sentinel_extproc.exchange.shadow import ShadowExchange
from sentinel_extproc.identity_parts import credential_of
from sentinel_extproc.shadow.recorder import ShadowRecorder
from sentinel_extproc.shadow.store import ShadowStore
from sentinel_extproc.shadow.tally import Tally
from sentinel_extproc.start_error import StartError
from sentinel_extproc.telemetry.facts import Emit
from sentinel_extproc.tokens.model import RequestEstimator
from sentinel_extproc.usage.record import Pricer

log = logging.getLogger("sentinel.app")


def exchanges(
    settings: Settings,
    choose: Choose,
    estimator: RequestEstimator,
    price: Pricer,
    native: BytesPerToken | None,
) -> Callable[[str, int], Exchange]:
    """Makes an exchange of an id and when it started, milliseconds since the epoch."""
    credential = credential_of(settings.identity)
    expected_output = _expected_output(settings.limits)

    make: Callable[..., Exchange] = Exchange
    if settings.server.mode is Mode.SHADOW:
        make = partial(ShadowExchange, swap=settings.shadow.swap_credentials)
    make = partial(
        make,
        choose=choose,
        counters=estimator.output_counter,
        expected_output=expected_output,
        credential=credential,
        price=price,
        native=native,
        native_path=f"{settings.endpoints.prefix}chat/completions",
        max_body_bytes=settings.endpoints.max_body_bytes,
    )

    def new_exchange(exchange_id: str, started_at_ms: int) -> Exchange:
        return make(exchange_id=exchange_id, started_at_ms=started_at_ms)

    return new_exchange


async def shadow_report(settings: Settings, stack: AsyncExitStack) -> list[Emit]:
    """Who counts what would have been refused; nobody while we enforce.

    Raises:
        StartError: there is no place for the counts.
    """
    if settings.server.mode is Mode.ENFORCE:
        return []
    tally = Tally(max_rows=settings.shadow.max_rows)
    recorder = ShadowRecorder(tally, ShadowStore(settings.shadow.report_path))
    try:
        await recorder.start()
    except (OSError, sqlite3.Error) as error:
        raise StartError(f"shadow.report_path: {settings.shadow.report_path}: {error}") from None
    stack.push_async_callback(recorder.aclose)
    bills = settings.shadow.bill
    log.warning("shadow_mode", extra={"reason": "nothing is enforced", "bills": bills})
    return [tally.take]


def _expected_output(limits: LimitSettings) -> OutputExpectation:
    if not limits.learn_output:
        return FixedOutput(limits.default_output_tokens)
    return LearnedOutput(
        default=limits.default_output_tokens,
        percentile=limits.learned_output_percentile,
        least=limits.learned_output_least,
        most=limits.learned_output_most,
        samples=limits.learned_output_samples,
        users=limits.learned_output_users,
    )
