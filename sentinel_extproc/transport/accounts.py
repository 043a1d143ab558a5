"""Accounts for exchanges: what is told, kept and settled at their ends, and behind them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from time import perf_counter_ns

from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.states import State
from sentinel_extproc.limits.model import Limiter, Quantities, Reservation
from sentinel_extproc.telemetry.facts import (
    Emit,
    End,
    ExchangeTimed,
    InternalFault,
    RecordNotStored,
)
from sentinel_extproc.telemetry.trace_context import read_trace
from sentinel_extproc.transport.access_logs import LogWaits
from sentinel_extproc.transport.background import Background
from sentinel_extproc.transport.claims import Claims
from sentinel_extproc.transport.served import Served
from sentinel_extproc.transport.telling import finished
from sentinel_extproc.usage.record import Ledger, UsageRecord


class Accounts:
    """Whatever happens here, it never costs the client a byte, nor us a record.

    Args:
        pool: where large answers are counted.
        emit: takes facts; never raises.
        logs: knows how long the answers were that Envoy metered itself.
        background: where what nobody waits for goes on.
        traced: tell which trace an exchange belongs to.
    """

    def __init__(
        self,
        *,
        limiter: Limiter,
        ledger: Ledger,
        pool: Executor,
        emit: Emit,
        logs: LogWaits,
        claims: Claims,
        background: Background,
        traced: bool,
    ) -> None:
        self._limiter = limiter
        self._ledger = ledger
        self._pool = pool
        self._emit = emit
        self._logs = logs
        self._claims = claims
        self._background = background
        self._traced = traced

    async def record(self, served: Served, record: UsageRecord) -> None:
        """Keep it before the client sees the end."""
        exchange = served.exchange
        self._logs.finished(record, unseen=exchange.unseen)
        # Told first: the client may leave while we wait, and the record is kept then.
        self.tell(served, finished(exchange, record))
        began_ns = perf_counter_ns()
        await self._store(record)
        served.timeline.phase("record", began_ns)
        if served.settling is not None and not served.settling.done():
            # The limiter takes its time only for a place that this client may come for next.
            await asyncio.wait((served.settling,))

    async def digest(self, served: Served, work: Callable[[], object]) -> None:
        """Count what has come of a large answer, in a thread."""
        served.digesting = running = self._pool.submit(work)
        # If the stream ends meanwhile, it goes on all the same: nobody may look until it is done.
        await asyncio.shield(asyncio.wrap_future(running))
        served.digesting = None

    def end(self, served: Served) -> None:
        """Account for an exchange whose stream is over; does nothing after a normal end."""
        exchange = served.exchange
        if exchange.state in (State.CUT, State.DONE, State.LOGGING):
            return
        running, served.digesting = served.digesting, None
        if running is None and exchange.state is not State.RECORDING and exchange.digest:
            with contextlib.suppress(RuntimeError):  # no more threads: we are ending ourselves
                running = self._pool.submit(exchange.digest)
        if running is None:
            self._account(served)
        else:
            served.behind += 1
            self._background.start(self._account_after(running, served))

    def do_behind(self, served: Served, command: do.Settle | do.Confirm | do.AwaitLog) -> None:
        """What nobody waits for."""
        if isinstance(command, do.Settle):
            exchange_id = served.exchange.exchange_id
            served.settling = self._settle(exchange_id, command.reservation, command.actual)
        elif isinstance(command, do.Confirm):
            self._claims.confirm(served.exchange.exchange_id, command.claimed)
        else:
            served.behind += 1
            self._background.start(self._account_by_log(served))

    def tell(self, served: Served, fact: End) -> None:
        """Tell how it ended."""
        served.end = fact
        self._emit(fact)

    def over(self, served: Served) -> None:
        """Tell what took how long, once its stream is over and its end is told."""
        exchange, trace = served.exchange, served.trace
        if served.streams or served.behind:
            return
        if trace is None and self._traced:
            # Some gateways tell it on the request alone: then our span is beside theirs.
            trace = read_trace(*exchange.trace_headers)
        self._emit(ExchangeTimed(exchange.exchange_id, served.timeline, served.end, trace))

    def give_up(self, exchange: Exchange, actual: Quantities | None) -> None:
        """A bug keeps it from its end: settle what it holds, as ``actual`` or else as reserved,
        and leave it unknown. What is settled already stays as it is."""
        reservation = exchange.reservation
        if reservation is not None:
            actual = reservation.held if actual is None else actual
            self._settle(exchange.exchange_id, reservation, actual)
            self._background.start(self._abandon_record(exchange.exchange_id))

    def _settle(
        self, exchange_id: str, reservation: Reservation, actual: Quantities
    ) -> asyncio.Task[None] | None:
        try:
            return self._background.start(self._limiter.settle(reservation, actual))
        except Exception as fault:  # noqa: BLE001 - a hold lapses by itself; a record would be lost
            self._emit(InternalFault(exchange_id, "settlement", fault, True))
            return None

    async def _account_after(self, running: Future[object], served: Served) -> None:
        await asyncio.wait([asyncio.wrap_future(running)])
        self._account(served)
        served.behind -= 1
        self.over(served)

    async def _account_by_log(self, served: Served) -> None:
        body_bytes = await self._logs.wait(served.exchange.exchange_id)
        self._account(served, on.Logged(body_bytes))
        served.behind -= 1
        self.over(served)

    def _account(self, served: Served, event: on.Event | None = None) -> None:
        exchange = served.exchange
        if event is None:
            # What is being recorded is recorded even if nobody waits for it any more.
            recording = exchange.state is State.RECORDING
            event = on.Recorded() if recording else on.Disconnected()
        try:
            todo = list(exchange.handle(event))
            for command in todo:  # while it grows
                match command:
                    case do.Record(record):
                        self.tell(served, finished(exchange, record))
                        self._background.start(self._store(record))
                        todo += exchange.handle(on.Recorded())
                    case do.Settle() | do.Confirm() | do.AwaitLog() as behind:
                        self.do_behind(served, behind)
        except Exception as fault:  # noqa: BLE001 - runs in a finally clause
            self._emit(InternalFault(exchange.exchange_id, "end of exchange", fault, True))
            self.give_up(exchange, None)

    async def _abandon_record(self, exchange_id: str) -> None:
        try:
            await self._ledger.abandon(exchange_id)
        except Exception as fault:  # noqa: BLE001 - its intent stays, so it is known of
            self._emit(InternalFault(exchange_id, "unknown record", fault, True))

    async def _store(self, record: UsageRecord) -> None:
        try:
            await self._ledger.append(record)
        except Exception as fault:  # noqa: BLE001 - the client's bytes must not wait for a disk
            self._emit(RecordNotStored(record, str(fault)))
