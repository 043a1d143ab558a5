"""Drives one exchange per gRPC stream: reads messages, performs commands, writes replies.

The rule that everything here serves (ENVOY.md, trap 1): if our side of the stream ends cleanly
before a decision, Envoy lets the request through. So until then every way out is a reply or an
exception, never a return.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

import msgspec
import uuid_utils

from sentinel_extproc.errors import CredentialRevoked, SentinelError, Unavailable
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.native import BytesPerToken
from sentinel_extproc.exchange.phases import phase_of
from sentinel_extproc.exchange.running import Running
from sentinel_extproc.exchange.shadow import ShadowExchange
from sentinel_extproc.exchange.states import State
from sentinel_extproc.identity.principal import Authenticator, EntitlementSource
from sentinel_extproc.limits.headers import limit_headers
from sentinel_extproc.limits.model import (
    NOTHING,
    GrowingLimiter,
    Quantities,
    Reservation,
    ReserveRequest,
)
from sentinel_extproc.overload.admission import Admission
from sentinel_extproc.telemetry.facts import (
    Emit,
    End,
    ExchangeTimed,
    Fact,
    InternalFault,
    RecordNotStored,
)
from sentinel_extproc.telemetry.timeline import Timeline
from sentinel_extproc.telemetry.trace_context import PARENT, STATE, TraceContext, read_trace
from sentinel_extproc.tokens.model import RequestEstimator
from sentinel_extproc.transport.access_logs import LogWaits
from sentinel_extproc.transport.background import Background
from sentinel_extproc.transport.claims import Claims
from sentinel_extproc.transport.codec import decode, encode
from sentinel_extproc.transport.telling import finished, noted, refused
from sentinel_extproc.usage.deferred import DeferredUsage
from sentinel_extproc.usage.record import Intent, Ledger, UsageRecord

log = logging.getLogger("sentinel.driver")

INLINE_BYTES = 6_000
"""Bodies up to here are read and counted on the event loop: a thread hand-over costs more (about
100 µs), and even a hostile body of this size takes less than 10 ms."""

Question = do.Authenticate | do.Read | do.Count | do.Reserve

_PHASES: dict[type[Question], str] = {
    do.Authenticate: "authenticate",
    do.Read: "read",
    do.Count: "count",
    do.Reserve: "reserve",
}

P = ParamSpec("P")
T = TypeVar("T")


class Stream(Protocol):
    """One gRPC stream, in serialized messages.

    Attributes:
        came_s: when it, or the message that was read last, came, on the loop's clock.
    """

    came_s: float

    @property
    def behind(self) -> int:
        """Messages, of all streams, that came and that nobody has read yet; about."""
        ...

    def header(self, name: str) -> bytes:
        """A header line of the stream itself, not of the request; empty when there is none."""
        ...

    async def read(self) -> bytes | None:
        """The next message; None when Envoy has ended its side."""
        ...

    async def write(self, data: bytes) -> None:
        """Send one message."""
        ...

    def stop_reading(self) -> None:
        """Have ``read`` say that Envoy has ended its side, though it hasn't."""
        ...


@dataclass(slots=True)
class _Timed:
    """What is known of how long an exchange takes.

    Attributes:
        behind: parts of its accounting that go on behind its stream.
        settling: its settlement, once that has begun.
    """

    timeline: Timeline = field(default_factory=Timeline)
    end: End | None = None
    trace: TraceContext | None = None
    behind: int = 0
    settling: asyncio.Task[None] | None = None


class UndecidedEnd(Exception):
    """The stream ended before a decision; the RPC must not end with OK."""


class Driver:
    """Performs what exchanges command.

    Args:
        new_exchange: makes a machine from an exchange id and a start in ms since the epoch.
        decision_timeout_s: from the coming of a message to the end of all that it asks for
            (authentication, or counting and reservation); below Envoy's ``message_timeout``, whose
            expiry would be a bare 504.
        deferred: knows who owes for work that is billed later; None: nobody does.
        quotas: knows the callers' quotas; None when there are only our own limits.
        pool: where large bodies are counted.
        emit: takes facts.
        admission: who comes in at all; None: its defaults.
        bytes_per_token: learns from answers that Envoy metered itself.
        traced: tell which trace an exchange belongs to.
    """

    def __init__(
        self,
        *,
        new_exchange: Callable[[str, int], Exchange],
        authenticator: Authenticator,
        estimator: RequestEstimator,
        limiter: GrowingLimiter,
        ledger: Ledger,
        pool: Executor,
        emit: Emit,
        quotas: EntitlementSource | None = None,
        deferred: DeferredUsage | None = None,
        bytes_per_token: BytesPerToken | None = None,
        admission: Admission | None = None,
        traced: bool = False,
        decision_timeout_s: float = 1.8,
    ) -> None:
        self._new_exchange = new_exchange
        self._authenticator = authenticator
        self._estimator = estimator
        self._limiter = limiter
        self._quotas = quotas
        self._ledger = ledger
        self._pool = pool
        self._emit = _guarded(emit)
        self._admission = Admission() if admission is None else admission
        self._traced = traced
        self._decision_timeout_s = decision_timeout_s
        self._live: dict[Exchange, Stream] = {}
        self._timed: dict[Exchange, _Timed] = {}
        self._logs = LogWaits(bytes_per_token)
        self._digesting: dict[Exchange, Future[object]] = {}
        self._background = Background()
        self._claims = Claims(deferred, emit=self._emit, background=self._background)

    @property
    def live(self) -> int:
        """Exchanges that have a stream right now."""
        return len(self._live)

    def running(self, most: int) -> list[Running]:
        """The ``most`` oldest exchanges that have a stream, oldest first."""
        oldest = heapq.nsmallest(most, self._live, key=lambda exchange: exchange.started_at_ms)
        return [exchange.running for exchange in oldest]

    def hand_back(self) -> None:
        """Let go of every running answer at its next message."""
        for exchange, stream in self._live.items():
            exchange.handle(on.HandBack())
            if exchange.state is State.UNSEEN:
                stream.stop_reading()  # there is no next message to wait for

    def end_streams(self, external_id: str | None) -> int:
        """End the running answers of a user, or of everybody (None), each at its next message.

        Returns:
            How many those are.
        """
        ended = [
            exchange
            for exchange in self._live
            if external_id is None or exchange.external_id == external_id
        ]
        for exchange in ended:
            exchange.handle(on.Evicted())
        return len(ended)

    async def join(self, deadline_s: float) -> int:
        """Wait for settlements and records behind ended streams; how many were cut off."""
        self._logs.give_up()
        return await self._background.join(deadline_s)

    def logged(self, exchange_id: str, body_bytes: int) -> None:
        """Envoy's access log has told how long an answer was."""
        self._logs.tell(exchange_id, body_bytes)

    def is_hopeless(self, stream: Stream) -> bool:
        """Whether the queue is so long that a stream that has just been opened should be ended
        with an error, unread: even to answer each would take too long."""
        waited_s = asyncio.get_running_loop().time() - stream.came_s
        return self._admission.is_hopeless(waited_s, stream.behind)

    async def run(self, stream: Stream) -> None:
        """Serve one stream to its end.

        Raises:
            UndecidedEnd, CodecError, ProtocolViolation: the RPC must end with an error.
        """
        exchange = self._new_exchange(str(uuid_utils.uuid7()), time.time_ns() // 1_000_000)
        self._live[exchange] = stream
        timed = self._timed[exchange] = _Timed()
        timeline = timed.timeline
        if self._traced:
            timed.trace = read_trace(stream.header(PARENT), stream.header(STATE))
        try:
            while (data := await stream.read()) is not None:
                came_ns = time.perf_counter_ns()
                over = await self._message(exchange, stream, decode(data))
                timeline.answered(came_ns, decided=exchange.decided)
                if over:
                    return
            if exchange.enforces and not exchange.decided:
                raise UndecidedEnd
        finally:
            self._live.pop(exchange, None)
            self._admission.leave(exchange.exchange_id)
            self._end(exchange)
            self._over(exchange)

    async def _message(self, exchange: Exchange, stream: Stream, event: on.Event) -> bool:
        """Handle one message; True when our side is to end."""
        # As it stood before: a refusal decides too, but nobody has heard one that fails below.
        held, admitted = exchange.held, exchange.decided
        try:
            return await self._perform(exchange, stream, exchange.handle(event))
        except Exception as fault:
            self._emit(InternalFault(exchange.exchange_id, "exchange", fault, admitted))
            if not admitted:
                self._give_up(exchange, NOTHING)
            if isinstance(exchange, ShadowExchange):
                self._end(exchange)
                return await self._perform(exchange, stream, exchange.give_up())
            if not admitted or isinstance(event, on.RequestHeaders | on.RequestBody):
                raise
            # The provider is answering: settle what is known and let the rest flow untouched.
            self._end(exchange)
            body = held + event.body if held and isinstance(event, on.ResponseBody) else None
            await stream.write(encode(do.Reply(phase_of(event), body=body)))
            return False

    async def _perform(
        self, exchange: Exchange, stream: Stream, commands: Iterable[do.Command]
    ) -> bool:
        todo = deque(commands)
        timeline = self._timed[exchange].timeline
        while todo:
            match todo.popleft():
                case do.Reply() as reply:
                    await stream.write(encode(reply))
                    timeline.replied_ns = time.perf_counter_ns()
                case do.Respond() as respond:
                    self._tell(exchange, refused(exchange, respond))
                    await stream.write(encode(respond))
                    timeline.replied_ns = time.perf_counter_ns()
                case do.Note() as note:
                    self._tell(exchange, noted(exchange, note))
                case do.Record(record):
                    await self._record(exchange, record)
                    todo.extend(exchange.handle(on.Recorded()))
                case do.Digest(work):
                    await self._digest(exchange, work)
                    todo.extend(exchange.handle(on.Digested()))
                case do.Grow(reservation, counted):
                    growth = await self._limiter.grow(reservation, counted)
                    todo.extend(exchange.handle(on.Grown(growth)))
                case do.Claim(owner, deferrals):
                    claimed = await self._claims.claim(exchange.exchange_id, owner, deferrals)
                    todo.extend(exchange.handle(on.Claimed(claimed)))
                case do.Settle() | do.Confirm() | do.AwaitLog() as behind:
                    self._do_behind(exchange, behind)
                case do.Close():
                    return True
                case do.Authenticate() | do.Read() | do.Count() | do.Reserve() as question:
                    todo.extend(await self._decide(exchange, timeline, question, stream))
        return False

    async def _record(self, exchange: Exchange, record: UsageRecord) -> None:
        """Keep it before the client sees the end."""
        timed = self._timed[exchange]
        self._logs.finished(record, unseen=exchange.unseen)
        # Told first: the client may leave while we wait, and the record is kept then.
        self._tell(exchange, finished(exchange, record))
        began_ns = time.perf_counter_ns()
        await self._store(record)
        timed.timeline.phase("record", began_ns)
        if timed.settling is not None and not timed.settling.done():
            # The limiter takes its time only for a place that this client may come for next.
            await asyncio.wait((timed.settling,))

    async def _decide(
        self,
        exchange: Exchange,
        timeline: Timeline,
        question: Question,
        stream: Stream,
    ) -> tuple[do.Command, ...]:
        name, began_ns = _PHASES[type(question)], time.perf_counter_ns()
        deadline = stream.came_s + self._decision_timeout_s
        try:
            waited_s = asyncio.get_running_loop().time() - stream.came_s
            if waited_s >= self._decision_timeout_s:
                raise self._admission.too_late()
            if isinstance(question, do.Authenticate) and not question.again:
                self._admission.enter(len(self._live), waited_s, stream.behind)
            answer = self._at_once(question)
            if answer is None:
                async with asyncio.timeout_at(deadline):
                    answer = await self._ask(question)
            if isinstance(answer, on.Authenticated):
                self._admission.take(exchange.exchange_id, answer.principal.external_id)
        except CredentialRevoked as error:
            timeline.phase(name, began_ns, error.code)
            return exchange.handle(on.Revoked(error))
        except SentinelError as error:
            timeline.phase(name, began_ns, error.code)
            return exchange.refuse(error)
        except TimeoutError:
            timeline.phase(name, began_ns, "timeout")
            return exchange.refuse(Unavailable("The gateway could not decide in time."))
        timeline.phase(name, began_ns)
        return exchange.handle(answer)

    def _at_once(self, question: Question) -> on.Event | None:
        """The answer if it needs neither waiting nor another thread, and so no time-out."""
        match question:
            case do.Read(endpoint, body, head) if len(body) <= INLINE_BYTES:
                return on.Planned(endpoint.plan(body, head))
            case do.Count(request) if request.size <= INLINE_BYTES:
                return on.Counted(self._estimator.estimate(request.kind, request.body))
        return None

    async def _ask(self, question: Question) -> on.Event:
        match question:
            case do.Authenticate(token, again):
                check = self._authenticator.recheck if again else self._authenticator.authenticate
                principal = await check(token)
                if self._quotas is None:
                    return on.Authenticated(principal)
                entitled = await self._quotas.entitlement(principal)
                if principal.plan is None and entitled.plan is not None:
                    principal = replace(principal, plan=entitled.plan)
                return on.Authenticated(principal, entitled.quotas)
            case do.Read(endpoint, body, head):
                return on.Planned(await self._in_thread(endpoint.plan, body, head))
            case do.Count(request):
                estimate = self._estimator.estimate
                return on.Counted(await self._in_thread(estimate, request.kind, request.body))
            case do.Reserve(request, intent):
                self._ledger.check_room()
                reservation = await self._reserve(request)
                self._begin(intent, reservation)
                headers = limit_headers(reservation.states, degraded=reservation.degraded)
                return on.Reserved(reservation, tuple(headers.items()))

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work on a large body, which would hold up all other exchanges here."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(work, *args, **kwargs))

    async def _reserve(self, request: ReserveRequest) -> Reservation:
        try:
            return await self._limiter.reserve(request)
        except asyncio.CancelledError:
            # Whether it was taken is unknown. Replaying the id tells, and then it is handed back.
            self._background.start(self._abandon(request))
            raise

    def _begin(self, intent: Intent, reservation: Reservation) -> None:
        granted = reservation.held.output_tokens
        if granted != intent.reserved_output_tokens:
            intent = msgspec.structs.replace(intent, reserved_output_tokens=granted)
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

    async def _digest(self, exchange: Exchange, work: Callable[[], object]) -> None:
        self._digesting[exchange] = running = self._pool.submit(work)
        # If the stream ends meanwhile, it goes on all the same: nobody may look until it is done.
        await asyncio.shield(asyncio.wrap_future(running))
        del self._digesting[exchange]

    def _end(self, exchange: Exchange) -> None:
        """Account for an exchange whose stream is over; does nothing after a normal end."""
        if exchange.state in (State.CUT, State.DONE, State.LOGGING):
            return
        running = self._digesting.pop(exchange, None)
        if running is None and exchange.state is not State.RECORDING and exchange.digest:
            with contextlib.suppress(RuntimeError):  # no more threads: we are ending ourselves
                running = self._pool.submit(exchange.digest)
        if running is None:
            self._account(exchange)
        else:
            self._timed[exchange].behind += 1
            self._background.start(self._account_after(running, exchange))

    async def _account_after(self, running: Future[object], exchange: Exchange) -> None:
        await asyncio.wait([asyncio.wrap_future(running)])
        self._account(exchange)
        self._timed[exchange].behind -= 1
        self._over(exchange)

    def _do_behind(self, exchange: Exchange, command: do.Settle | do.Confirm | do.AwaitLog) -> None:
        """What nobody waits for."""
        match command:
            case do.Settle(reservation, actual):
                settling = self._background.start(self._limiter.settle(reservation, actual))
                self._timed[exchange].settling = settling
            case do.Confirm(claimed):
                self._claims.confirm(exchange.exchange_id, claimed)
            case do.AwaitLog():
                self._timed[exchange].behind += 1
                self._background.start(self._account_by_log(exchange))

    async def _account_by_log(self, exchange: Exchange) -> None:
        self._account(exchange, on.Logged(await self._logs.wait(exchange.exchange_id)))
        self._timed[exchange].behind -= 1
        self._over(exchange)

    def _account(self, exchange: Exchange, event: on.Event | None = None) -> None:
        if event is None:
            # What is being recorded is recorded even if nobody waits for it any more.
            recording = exchange.state is State.RECORDING
            event = on.Recorded() if recording else on.Disconnected()
        try:
            todo = deque(exchange.handle(event))
            while todo:
                match todo.popleft():
                    case do.Record(record):
                        self._tell(exchange, finished(exchange, record))
                        self._background.start(self._store(record))
                        todo.extend(exchange.handle(on.Recorded()))
                    case do.Settle() | do.Confirm() | do.AwaitLog() as behind:
                        self._do_behind(exchange, behind)
        except Exception as fault:  # noqa: BLE001 - runs in a finally clause
            self._emit(InternalFault(exchange.exchange_id, "end of exchange", fault, True))
            self._give_up(exchange, None)

    def _tell(self, exchange: Exchange, fact: End) -> None:
        self._timed[exchange].end = fact
        self._emit(fact)

    def _over(self, exchange: Exchange) -> None:
        """Tell what took how long, once its stream is over and its end is told."""
        if exchange not in self._live and not self._timed[exchange].behind:
            timed = self._timed.pop(exchange)
            trace = timed.trace
            if trace is None and self._traced:
                # Some gateways tell it on the request alone: then our span is beside theirs.
                trace = read_trace(*exchange.trace_headers)
            self._emit(ExchangeTimed(exchange.exchange_id, timed.timeline, timed.end, trace))

    def _give_up(self, exchange: Exchange, actual: Quantities | None) -> None:
        """A bug keeps it from its end: settle what it holds, as ``actual`` or else as reserved,
        and leave it unknown. What is settled already stays as it is."""
        reservation = exchange.reservation
        if reservation is not None:
            actual = reservation.held if actual is None else actual
            self._background.start(self._limiter.settle(reservation, actual))
            self._background.start(self._abandon_record(exchange.exchange_id))

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


def _guarded(emit: Emit) -> Emit:
    """Telling must never cost a record: an adapter's bug ends here."""

    def emit_safely(fact: Fact) -> None:
        try:
            emit(fact)
        except Exception:
            log.exception("a fact could not be told")

    return emit_safely
