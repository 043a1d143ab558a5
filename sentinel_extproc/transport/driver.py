"""Drives one exchange per gRPC stream: reads messages, performs commands, writes replies.

The rule that everything here serves (ENVOY.md, trap 1): if our side of the stream ends cleanly
before a decision, Envoy lets the request through. So until then every way out is a reply or an
exception, never a return.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from time import perf_counter_ns, time_ns

import uuid_utils

from sentinel_extproc.errors import CredentialRevoked, SentinelError, Unavailable
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange.machine import Exchange
from sentinel_extproc.exchange.native import BytesPerToken
from sentinel_extproc.exchange.phases import phase_of
from sentinel_extproc.exchange.running import Running
from sentinel_extproc.exchange.shadow import ShadowExchange
from sentinel_extproc.exchange.states import DECIDED, State
from sentinel_extproc.identity.principal import Authenticator, EntitlementSource
from sentinel_extproc.limits.model import NOTHING, GrowingLimiter
from sentinel_extproc.overload.admission import Admission
from sentinel_extproc.telemetry.facts import (
    Emit,
    Fact,
    InternalFault,
)
from sentinel_extproc.telemetry.trace_context import PARENT, STATE, read_trace
from sentinel_extproc.tokens.model import RequestEstimator
from sentinel_extproc.transport.access_logs import LogWaits
from sentinel_extproc.transport.accounts import Accounts
from sentinel_extproc.transport.background import Background
from sentinel_extproc.transport.claims import Claims
from sentinel_extproc.transport.codec import decode, encode, encode_reply
from sentinel_extproc.transport.deadlines import Deadlines
from sentinel_extproc.transport.questions import Question, Questions
from sentinel_extproc.transport.served import Served, Stream
from sentinel_extproc.transport.telling import noted, refused
from sentinel_extproc.usage.deferred import DeferredUsage
from sentinel_extproc.usage.record import Ledger

log = logging.getLogger("sentinel.driver")

_QUESTIONS = (do.Authenticate, do.Read, do.Count, do.Reserve)
_BEHIND = (do.Settle, do.Confirm, do.AwaitLog)


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
        self._limiter = limiter
        self._emit = _guarded(emit)
        self._admission = Admission() if admission is None else admission
        self._traced = traced
        self._decision_timeout_s = decision_timeout_s
        self._live: dict[Exchange, Served] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._logs = LogWaits(bytes_per_token)
        self._background = Background()
        self._claims = Claims(deferred, emit=self._emit, background=self._background)
        self._accounts = Accounts(
            limiter=limiter,
            ledger=ledger,
            pool=pool,
            emit=self._emit,
            logs=self._logs,
            claims=self._claims,
            background=self._background,
            traced=traced,
        )
        self._deadlines = Deadlines()
        self._ways = Questions(
            authenticator=authenticator,
            quotas=quotas,
            estimator=estimator,
            limiter=limiter,
            ledger=ledger,
            pool=pool,
            background=self._background,
        ).ways

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
        for exchange, served in self._live.items():
            exchange.handle(on.HandBack())
            if exchange.state is State.UNSEEN:
                served.stream.stop_reading()  # there is no next message to wait for

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
        loop = self._loop or self._running_loop()
        return self._admission.is_hopeless(loop.time() - stream.came_s, stream.behind)

    async def run(self, stream: Stream) -> None:
        """Serve one stream to its end.

        Raises:
            UndecidedEnd, CodecError, ProtocolViolation: the RPC must end with an error.
        """
        exchange = self._new_exchange(str(uuid_utils.uuid7()), time_ns() // 1_000_000)
        loop = self._loop or self._running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - a coroutine runs in one
        served = self._live[exchange] = Served(exchange, stream, task, loop.time)
        timeline, decided = served.timeline, False
        if self._traced:
            served.trace = read_trace(stream.header(PARENT), stream.header(STATE))
        try:
            while (data := await stream.read()) is not None:
                came_ns = perf_counter_ns()
                event = decode(data)
                held = exchange.held if isinstance(event, on.ResponseBody) else b""
                try:
                    over = await self._perform(served, exchange.handle(event))
                except Exception as fault:  # noqa: BLE001 - raised again unless it can be mended
                    # What was decided before: a refusal decides too, but nobody has heard this one.
                    over = await self._mend(served, event, fault, admitted=decided, held=held)
                timeline.messages += 1
                if timeline.replied_ns > came_ns:
                    timeline.waited_ns += timeline.replied_ns - came_ns
                if not decided and exchange.state in DECIDED:  # which nothing undoes
                    decided, timeline.request_ns = True, timeline.waited_ns
                if over:
                    return
            if exchange.enforces and not decided:
                raise UndecidedEnd
        finally:
            del self._live[exchange]
            served.streams = False
            self._admission.leave(exchange.exchange_id)
            self._accounts.end(served)
            self._accounts.over(served)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        # Kept, since to ask for it is a system call each time: Python 3.11 looks for forks.
        self._loop = asyncio.get_running_loop()
        return self._loop

    async def _mend(
        self, served: Served, event: on.Event, fault: Exception, *, admitted: bool, held: bytes
    ) -> bool:
        """A bug came to light at ``event``: go on without it, where that lets nothing through.

        Returns:
            Whether our side is to end.

        Raises:
            Exception: ``fault``, where Envoy must see an error.
        """
        exchange = served.exchange
        self._emit(InternalFault(exchange.exchange_id, "exchange", fault, admitted))
        if not admitted:
            self._accounts.give_up(exchange, NOTHING)
        if isinstance(exchange, ShadowExchange):
            self._accounts.end(served)
            return await self._perform(served, exchange.give_up())
        if not admitted or isinstance(event, on.RequestHeaders | on.RequestBody):
            raise fault
        # The provider is answering: settle what is known and let the rest flow untouched.
        self._accounts.end(served)
        body = held + event.body if held and isinstance(event, on.ResponseBody) else None
        await served.stream.write(encode(do.Reply(phase_of(event), body=body)))
        return False

    async def _perform(self, served: Served, commands: Iterable[do.Command]) -> bool:
        """Do what the machine says; True when our side is to end."""
        exchange, stream = served.exchange, served.stream
        todo = list(commands)
        for command in todo:  # while it grows; the commonest are looked for first
            if isinstance(command, do.Reply):
                await stream.write(encode_reply(command))
                served.timeline.replied_ns = perf_counter_ns()
            elif isinstance(command, _QUESTIONS):
                todo += await self._decide(served, command)
            elif isinstance(command, do.Record):
                await self._accounts.record(served, command.record)
                todo += exchange.handle(on.Recorded())
            elif isinstance(command, _BEHIND):
                self._accounts.do_behind(served, command)
            elif isinstance(command, do.Close):
                return True
            else:
                todo += await self._perform_rare(served, command)
        return False

    async def _perform_rare(
        self, served: Served, command: do.Respond | do.Note | do.Digest | do.Grow | do.Claim
    ) -> do.Commands:
        exchange = served.exchange
        match command:
            case do.Respond() as respond:
                self._accounts.tell(served, refused(exchange, respond))
                await served.stream.write(encode(respond))
                served.timeline.replied_ns = perf_counter_ns()
                return ()
            case do.Note() as note:
                self._accounts.tell(served, noted(exchange, note))
                return ()
            case do.Digest(work):
                await self._accounts.digest(served, work)
                return exchange.handle(on.Digested())
            case do.Grow(reservation, counted):
                growth = await self._limiter.grow(reservation, counted)
                return exchange.handle(on.Grown(growth))
            case do.Claim(owner, deferrals):
                claimed = await self._claims.claim(exchange.exchange_id, owner, deferrals)
                return exchange.handle(on.Claimed(claimed))

    async def _decide(self, served: Served, question: Question) -> do.Commands:
        exchange, timeline, came_s = served.exchange, served.timeline, served.stream.came_s
        began_ns = perf_counter_ns()
        name, ask, at_once = self._ways[type(question)]
        try:
            waited_s = served.now_s() - came_s
            if waited_s >= self._decision_timeout_s:
                raise self._admission.too_late()
            answer = None if at_once is None else at_once(question)
            if answer is None:
                if isinstance(question, do.Authenticate) and not question.again:
                    self._admission.enter(len(self._live), waited_s, served.stream.behind)
                deadline_s = came_s + self._decision_timeout_s
                answer = await self._deadlines.within(deadline_s, served.task, ask(question))
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


def _guarded(emit: Emit) -> Emit:
    """Telling must never cost a record: an adapter's bug ends here."""

    def emit_safely(fact: Fact) -> None:
        try:
            emit(fact)
        except Exception:
            log.exception("a fact could not be told")

    return emit_safely
