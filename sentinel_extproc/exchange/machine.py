"""One exchange, from its first message to its settled end. No I/O.

Invariants, each with tests in tests/unit/test_exchange_machine.py and
tests/property/test_exchange_property.py:

1. No request reaches the provider before authentication and reservation succeeded: every reply
   before ``ADMITTED`` leaves Envoy waiting for the body; a body that is not kept starts to flow
   with the reply that admits.
2. Every message gets exactly one reply of its own kind, or the exchange ends.
3. The user's token never goes upstream; the client's copies of our headers are removed.
4. Every reservation is settled exactly once.
5. Every admitted exchange leaves exactly one usage record, and the reply that lets the client see
   the end of the answer comes only after that record is durable. An intent is noted before the
   request is let through, so that one whose sidecar dies is known of.
6. A fault in accounting never changes or stalls the client's bytes (``endpoints.guarded``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sentinel_extproc.endpoints.contract import CounterFactory, Plan
from sentinel_extproc.endpoints.guarded import GuardedUpload
from sentinel_extproc.endpoints.table import Match
from sentinel_extproc.errors import (
    CredentialRevoked,
    InvalidRequest,
    LimitExceeded,
    SentinelError,
    Unauthenticated,
    Unavailable,
)
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange import native
from sentinel_extproc.exchange.accounting import (
    access_log,
    bill,
    intent,
    lesson,
    usage_record,
    used,
)
from sentinel_extproc.exchange.answer import Answer
from sentinel_extproc.exchange.expected_output import (
    Basis,
    Expected,
    FixedOutput,
    OutputExpectation,
)
from sentinel_extproc.exchange.headers import (
    first,
    read_head,
    request_id,
    to_client,
    to_provider,
)
from sentinel_extproc.exchange.intake import (
    Credential,
    bearer,
    claim,
    kind_of,
    output_to_reserve,
    read_opening,
)
from sentinel_extproc.exchange.native import BytesPerToken
from sentinel_extproc.exchange.phases import phase_of
from sentinel_extproc.exchange.providers import Choose, Chosen
from sentinel_extproc.exchange.running import Running
from sentinel_extproc.exchange.states import DECIDED, ProtocolViolation, State
from sentinel_extproc.exchange.unreadable import content_type
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Growth, Quantities, Quota, Reservation
from sentinel_extproc.tokens.model import Confidence
from sentinel_extproc.usage.record import Outcome, Pricer, unpriced

Commands = tuple[do.Command, ...]

KEY_REFUSED = "provider_key_refused"
"""In ``x-sentinel-error`` and ``reason``: the provider refused our key, not the caller's."""

_EXHAUSTED = "A limit was exhausted while this answer was generated."
_DRAINING = "The gateway is restarting; connect again."
_REVOKED = "The API key was revoked while this answer was generated."


class Exchange:
    """The state machine of one exchange.

    Args:
        exchange_id: UUIDv7 in text form; also the id of the usage record.
        started_at_ms: milliseconds since the epoch, UTC.
        choose: finds the provider and the rules for a request.
        counters: makes counters for generated text.
        expected_output: what to reserve when a request has no cap; is told of answers' lengths.
        credential: takes what is to be authenticated.
        price: what usage costs.
        max_body_bytes: longest body that Envoy can buffer for us; None: it says so itself.
        native: how long event streams are for each token, where Envoy meters them itself; None:
            all pass through here.
        native_path: where it does.
    """

    enforces = True
    """Whether what it says is done; see ``exchange.shadow``."""

    def __init__(
        self,
        *,
        exchange_id: str,
        started_at_ms: int,
        choose: Choose,
        counters: CounterFactory,
        expected_output: OutputExpectation = FixedOutput(1024),  # noqa: B008 - stateless
        credential: Credential = bearer,
        price: Pricer = unpriced,
        native: BytesPerToken | None = None,
        native_path: str = native.CHAT_PATH,
        max_body_bytes: int | None = None,
    ) -> None:
        self.exchange_id = exchange_id
        self.started_at_ms = started_at_ms
        self.state = State.START
        self._choose = choose
        self._counters = counters
        self._expected_output = expected_output
        self._credential = credential
        self._price = price
        self._native = native
        self._native_path = native_path
        self._unseen = False
        self._max_body = max_body_bytes
        self._cut_short = False
        # Each is set by the step that learns it, and read only in states that come after.
        self._request: on.RequestHeaders
        self._match: Match
        self._provider: Chosen
        self._error_body: Callable[[SentinelError], bytes] = SentinelError.body
        self._principal: Principal
        self._quotas: tuple[Quota, ...]
        self._plan: Plan
        self._planned = False
        self._token: str
        self._asked_again = False
        self._upload: GuardedUpload | None = None
        self._confidence = Confidence.ROUGH
        self._predicted: Quantities
        self._basis = Basis.CAP
        self._reservation: Reservation
        self._answer_headers: tuple[tuple[str, str], ...] = ()
        self._answer = Answer()
        self._waiting: do.Reply
        self._whole = False
        self._last: Commands = ()
        self._after = State.DONE
        self._handing_back = False
        self._evicted = False
        self._key_refused: int | None = None
        self._facts: dict[str, str | int] = {"exchange_id": exchange_id}

    @property
    def decided(self) -> bool:
        """Whether the request was let through or answered; only then may the stream end cleanly."""
        return self.state in DECIDED

    @property
    def external_id(self) -> str | None:
        """Whose it is; None before authentication."""
        user = self._facts.get("user")
        return None if user is None else str(user)

    @property
    def request_id(self) -> str | None:
        """What Envoy calls the request; None if it doesn't."""
        return request_id(self._headers)

    @property
    def trace_headers(self) -> tuple[bytes, bytes]:
        """What the request says of its trace: ``traceparent`` and ``tracestate``."""
        return first(self._headers, "traceparent"), first(self._headers, "tracestate")

    @property
    def _headers(self) -> on.Headers:
        request = getattr(self, "_request", None)
        return () if request is None else request.headers

    @property
    def running(self) -> Running:
        """What can be told of it while it runs."""
        endpoint, model = self._facts.get("endpoint"), self._facts.get("model")
        return Running(
            id=self.exchange_id,
            started_at_ms=self.started_at_ms,
            user=self.external_id,
            endpoint=None if endpoint is None else str(endpoint),
            model=None if model is None else str(model),
            admitted="decision" in self._facts,
            generated_chars=self._answer.volume,
        )

    @property
    def reservation(self) -> Reservation | None:
        """What was taken for it, settled or not."""
        return getattr(self, "_reservation", None)

    @property
    def counted_input(self) -> int | None:
        """Our count of an admitted request's input; None when it was only estimated by size."""
        return None if self._plan.count is None else self._predicted.input_tokens

    @property
    def confidence(self) -> Confidence:
        """How far ``counted_input`` can be trusted."""
        return self._confidence

    @property
    def key_refused(self) -> int | None:
        """The status with which the provider refused our key, if it did."""
        return self._key_refused

    @property
    def provider(self) -> str:
        """Whom an admitted request went to; empty where there is only one."""
        return self._provider.name

    @property
    def swaps(self) -> bool:
        """Whether the provider's key is put in place of the client's token."""
        return True

    @property
    def reserved_output(self) -> Expected:
        """What was predicted of an admitted request's output, and by what."""
        return Expected(self._predicted.output_tokens, self._basis)

    @property
    def metering_faults(self) -> int:
        """Bugs of a meter that were kept from the client."""
        return self._answer.faults + (self._upload.faults if self._upload else 0)

    @property
    def unseen(self) -> bool:
        """Whether its answer never passed here, because Envoy meters it."""
        return self._unseen

    @property
    def digest(self) -> Callable[[], object] | None:
        """What to do in a thread before it is told that its stream is over, if that is much."""
        return self._answer.reading if self._answer.heavy else None

    @property
    def held(self) -> bytes:
        """Bytes of the answer that the client has yet to get."""
        return self._answer.held

    def handle(self, event: on.Event) -> Commands:
        """Take one event.

        Raises:
            ProtocolViolation: it can't happen in this state.
        """
        step = _STEPS.get((self.state, type(event))) or _ANYWHERE.get(type(event))
        if step is None:
            raise ProtocolViolation(f"{type(event).__name__} in state {self.state.name}")
        try:
            return step(self, event)
        except SentinelError as error:
            return self.refuse(error)

    def refuse(self, error: SentinelError) -> Commands:
        """Answer with ``error``, which some command's result was.

        Raises:
            ProtocolViolation: the request is already at the provider.
        """
        if self.decided:
            raise ProtocolViolation(f"a refusal in state {self.state.name}")
        self.state = State.DONE
        return (self._respond(error, self._facts | {"decision": "denied", "reason": error.code}),)

    def _respond(
        self, error: SentinelError, metadata: dict[str, str | int] | None = None
    ) -> do.Respond:
        return do.Respond(error, self._error_body(error), metadata)

    # The request

    def request_headers(self, event: on.RequestHeaders) -> Commands:
        """Find the rules, take the token."""
        if event.observed and self.enforces:
            raise ProtocolViolation("Envoy only observes here; server.mode: shadow is for that")
        self._request = event
        self._provider = self._choose(event)
        self._match = self._provider.match
        self._error_body = self._match.endpoint.error_body
        self._facts["endpoint"] = self._match.endpoint.name
        if self._provider.name:
            self._facts["provider"] = self._provider.name
        opening = read_opening(
            self._match, event, credential=self._credential, max_body_bytes=self._max_body
        )
        if opening.plan is not None:
            self._plan, self._planned = opening.plan, True
        self._token = opening.token
        self.state = State.AUTHENTICATING
        return (do.Authenticate(opening.token),)

    def authenticated(self, event: on.Authenticated) -> Commands:
        """Let Envoy collect the body, if it is needed."""
        self._principal = event.principal
        self._quotas = event.quotas
        self._facts["user"] = event.principal.external_id
        if self._planned:
            return self._count_or_reserve()
        self.state = State.WAITING_FOR_BODY
        return (self._request_reply(do.Mode.REQUEST_AND_STREAM),)

    def request_body(self, event: on.RequestBody) -> Commands:
        """Read the request."""
        self.state = State.READING
        return (do.Read(self._match.endpoint, event.body, read_head(self._request.headers)),)

    def planned(self, event: on.Planned) -> Commands:
        """The request is understood."""
        self._plan = event.plan
        return self._count_or_reserve()

    def trailers_for_body(self, event: on.Trailers) -> Commands:
        """Trailers without a body: Envoy would forward them without ever asking about a body."""
        if event.of_response:
            raise ProtocolViolation("response trailers before a decision")
        raise InvalidRequest(
            "Requests with trailers but without a body are not supported.",
            code="trailers_without_body",
        )

    def _count_or_reserve(self) -> Commands:
        self._facts["model"] = self._plan.model
        self._provider.check_model(self._plan.model)
        if self._plan.count is None:
            if not self._plan.input_tokens:
                self._confidence = Confidence.EXACT
            return self._reserve(0, characters=0)
        self.state = State.COUNTING
        return (do.Count(self._plan.count),)

    def counted(self, event: on.Counted) -> Commands:
        """Reserve what was counted."""
        self._confidence = event.estimate.confidence
        return self._reserve(event.estimate.input_tokens, characters=event.estimate.characters)

    def _reserve(self, input_tokens: int, *, characters: int) -> Commands:
        output = output_to_reserve(self._plan, self._expected_output, self._principal.external_id)
        self._basis = output.basis
        self._predicted = Quantities(
            requests=1,
            input_tokens=input_tokens + self._plan.input_tokens,
            output_tokens=output.tokens,
            characters=characters,
        )
        return self._claim()

    def _claim(self) -> Commands:
        self.state = State.RESERVING
        who = (self._principal, self._quotas)
        request = claim(self.exchange_id, self._match, self._plan, *who, self._predicted)
        begun = intent(
            request,
            self._plan,
            self._principal,
            occurred_at_ms=self.started_at_ms,
            request_id=request_id(self._request.headers),
        )
        return (do.Reserve(request, begun),)

    def revoked(self, event: on.Revoked) -> Commands:
        """Ask the identity source itself, once: it may still accept the token."""
        if self._asked_again:
            return self.refuse(event.error)
        self._asked_again = True
        self.state = State.REAUTHENTICATING
        return (do.Authenticate(self._token, again=True),)

    def reauthenticated(self, event: on.Authenticated) -> Commands:
        """Reserve again, if it is still the same caller: the request was prepared for that one."""
        if event.principal.external_id != self._principal.external_id:
            raise Unauthenticated("The API key belongs to somebody else now.")
        self._principal, self._quotas = event.principal, event.quotas
        return self._claim()

    def reserved(self, event: on.Reserved) -> Commands:
        """Let the request through."""
        self._reservation = event.reservation
        self._answer_headers = event.answer_headers
        granted = event.reservation.held.output_tokens
        if granted < self._predicted.output_tokens:
            clamped = self._match.endpoint.clamped(self._plan, granted)
            if clamped is not self._plan:
                self._plan = clamped
                self._answer_headers += (("x-sentinel-max-output-tokens", str(granted)),)
        self._facts["decision"] = "admitted"
        self.state = State.ADMITTED
        if self._planned:
            mode = do.Mode.HEADERS_ONLY if self._plan.unwatched else do.Mode.STREAM
            if self._plan.upload is not None:
                self._upload = GuardedUpload(self._plan.upload)
                mode = do.Mode.STREAM_BOTH
            return (self._request_reply(mode),)
        body = self._plan.upstream_body
        # A changed body with the old Content-Length would make Envoy answer 500.
        changed = () if body is None else (("content-length", b"%d" % len(body)),)
        if not self._meters_natively:
            return (do.Reply(do.Phase.REQUEST_BODY, changed, body=body),)
        changed = (*changed, native.HEADER)
        return (do.Reply(do.Phase.REQUEST_BODY, changed, body=body, reroute=True),)

    def _request_reply(self, mode: do.Mode) -> do.Reply:
        headers, endpoint = self._request.headers, self._match.endpoint
        set_headers, removed = to_provider(
            headers,
            self._provider.upstream,
            self._principal,
            self.exchange_id,
            drop=endpoint.drop_headers,
        )
        if not self._planned:
            set_headers += content_type(headers, read_head(headers), endpoint)
        # A client's own copy may have chosen the route, before it was taken away.
        astray = self._native is not None and native.HEADER[0] in removed
        return do.Reply(do.Phase.REQUEST_HEADERS, set_headers, removed, mode=mode, reroute=astray)

    def uploaded(self, event: on.RequestBody) -> Commands:
        """Watch a piece of an admitted request pass; the answer may have begun already."""
        if self._upload is None:
            raise ProtocolViolation(f"a second body in state {self.state.name}")
        if self._evicted:
            return self._finish(Outcome.CUT, self._respond(CredentialRevoked(_REVOKED)))
        self._upload.feed(event.body)
        return (do.Reply(do.Phase.REQUEST_BODY),)

    # The answer

    def foreign_answer(self, event: on.ResponseHeaders) -> Commands:  # noqa: ARG002
        """An earlier filter answered by itself: there is nothing to govern."""
        self.state = State.DONE
        return (do.Reply(do.Phase.RESPONSE_HEADERS, mode=do.Mode.NOTHING),)

    def answered_instead(self, event: on.ResponseHeaders) -> Commands:
        """Envoy answers by itself while it collects the body: over its buffer (413), or too slow.

        Raises:
            ProtocolViolation: it is a success, so the request went out behind our back.
        """
        if first(event.headers, ":status")[:1] in (b"4", b"5"):
            return self.foreign_answer(event)
        raise ProtocolViolation("an answer to a request that was never let through")

    def response_headers(self, event: on.ResponseHeaders) -> Commands:
        """Say how the limits stand, and choose how to watch the answer."""
        status = first(event.headers, ":status")
        failed = not status.startswith((b"1", b"2", b"3"))
        if status in (b"401", b"403") and self.swaps and self._provider.upstream.credentials:
            # The client must not take this for a word on its own key, which never got there.
            self._key_refused = int(status)
            self._facts["reason"] = KEY_REFUSED
            self._answer_headers += (("x-sentinel-error", KEY_REFUSED),)
        set_headers, removed = to_client(event.headers, self._answer_headers, self.exchange_id)
        reply = do.Reply(do.Phase.RESPONSE_HEADERS, set_headers, removed)
        if event.end_of_stream:
            return self._finish(_outcome(failed=failed), reply)
        if self._evicted:
            return self._finish(Outcome.CUT, self._respond(CredentialRevoked(_REVOKED)))
        self._refine()
        if not failed:
            self._answer.begin(self._match.endpoint, self._plan, event.headers, self._counters)
        if failed or self._plan.unwatched:
            # Nothing in the body can change the bill, so Envoy needn't send it.
            return self._finish(_outcome(failed=failed), replace(reply, mode=do.Mode.NOTHING))
        if self._handing_back and self._plan.endless:
            return self._finish(Outcome.DRAINED, self._respond(Unavailable(_DRAINING)))
        if self._handing_back:
            return self._finish(Outcome.DRAINED, replace(reply, mode=do.Mode.NOTHING), close=True)
        if self._meters_natively:
            self.state, self._unseen = State.UNSEEN, True
            # For the access log, by which we find out about a cut answer.
            known = {"exchange_id": self.exchange_id}
            return (replace(reply, mode=do.Mode.TRAILERS_ONLY, metadata=known),)
        self.state = State.ANSWERING
        if self._answer.rewrites:
            reply = replace(reply, remove_headers=(*removed, "content-length"))
        return (reply,)

    @property
    def _meters_natively(self) -> bool:
        return (
            self._native is not None
            and self._plan.streams
            and self._match.endpoint.name in native.ENDPOINTS
            # The same call elsewhere, be it at another provider, is none that Envoy reads.
            and read_head(self._request.headers).target.partition("?")[0] == self._native_path
        )

    def told(self, event: on.Trailers) -> Commands:
        """An answer that never passed here is over."""
        reply = do.Reply(phase_of(event))
        if not event.of_response:
            return (replace(reply, remove_headers=event.names),)
        reading = None if event.told is None else native.read_told(event.told)
        if reading is None:
            self.state = State.LOGGING
            return (reply, do.AwaitLog())
        self._answer.tell(reading)
        return self._finish(Outcome.COMPLETED, reply)

    def lost_unseen(self, event: on.Disconnected) -> Commands:  # noqa: ARG002
        """It ended without a word on its usage."""
        self._cut_short = True
        self.state = State.LOGGING
        # Of an answer that goes on without us the log would come too late.
        return self.logged(on.Logged(None)) if self._handing_back else (do.AwaitLog(),)

    def logged(self, event: on.Logged) -> Commands:
        """Bill an answer by its length."""
        assert self._native is not None  # noqa: S101 - what led here
        reading = native.read_bytes(
            self._plan,
            event.body_bytes,
            reserved=self._predicted.output_tokens,
            bytes_per_token=self._native.of(self._plan.model),
        )
        self._answer.tell(reading)
        if not self._cut_short:
            return self._finish(Outcome.COMPLETED)
        return self._finish(Outcome.DRAINED if self._handing_back else Outcome.DISCONNECTED)

    def response_body(self, event: on.ResponseBody) -> Commands:
        """Watch a piece of the answer pass."""
        body = self._answer.feed(event.body, end=event.end_of_stream)
        self._waiting = do.Reply(do.Phase.RESPONSE_BODY, body=body)
        self._whole = event.end_of_stream or self._answer.over
        return self._digest() or self._passed()

    def digested(self, event: on.Digested) -> Commands:  # noqa: ARG002
        """Go on with what the digest was for."""
        self.state = State.ANSWERING
        return self._passed()

    def _digest(self) -> Commands:
        # What comes as one is looked at only when it is whole.
        if not self._answer.heavy or not (self._whole or self._answer.event_stream):
            return ()
        self.state = State.DIGESTING
        return (do.Digest(self._answer.reading),)

    def _passed(self) -> Commands:
        """Whether the piece that is waiting may go on to the client, and what else is due."""
        reply = self._waiting
        if self._whole:
            return self._complete()
        if self._evicted:
            return self._cut(_REVOKED)
        if self._handing_back and self._plan.endless:
            # Without us it would go on for ever, unmetered.
            return self._cut(_DRAINING, Outcome.DRAINED)
        if self._handing_back:
            if reply.body is not None:
                reply = replace(reply, body=reply.body + self._answer.held)
            return self._finish(Outcome.DRAINED, reply, close=True)
        if not self._answer.due():
            return (reply,)
        self.state = State.GROWING
        usage = used(self._plan, self._predicted, self._answer.reading())
        counted = replace(
            self._predicted, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens
        )
        return (do.Grow(self._reservation, counted),)

    def _complete(self) -> Commands:
        """The answer came to its end, and ``_waiting`` lets the client see it."""
        if deferrals := self._answer.reading().deferrals:
            self.state = State.CLAIMING
            return (do.Claim(self._principal.external_id, deferrals),)
        return self._finish(Outcome.COMPLETED, self._waiting)

    def claimed(self, event: on.Claimed) -> Commands:
        """Bill what the answer tells of, and what wasn't billed yet."""
        self._answer.claim(event.claimed)
        commands = self._finish(Outcome.COMPLETED, self._waiting)
        if event.claimed:
            # In front of the reply, at which the client may be gone.
            self._last = (do.Confirm(event.claimed), *self._last)
        return commands

    def grown(self, event: on.Grown) -> Commands:
        """Go on, or end the answer because a limit ran out under it."""
        self.state = State.ANSWERING
        # Debt has no end where the answer has none.
        ending = (Growth.CUT, Growth.DEBT) if self._plan.endless else (Growth.CUT,)
        if event.growth in ending:
            return self._cut(_EXHAUSTED)
        return (self._waiting,)

    def _cut(self, why: str, outcome: Outcome = Outcome.CUT) -> Commands:
        if not self._answer.event_stream:
            # Nothing can be added to such an answer that its reader would understand.
            return self._finish(outcome, self._respond(LimitExceeded(why)))
        body = self._answer.cut(self._match.endpoint.cut(why))
        if body is None:
            return (self._waiting,)
        return self._finish(outcome, replace(self._waiting, body=body), after=State.CUT)

    def after_cut(self, event: on.ResponseBody) -> Commands:
        """The client has its last event; stop the provider at the first sign of life."""
        self.state = State.DONE
        if event.end_of_stream:
            return (do.Reply(do.Phase.RESPONSE_BODY, body=b""),)
        return (self._respond(LimitExceeded(_EXHAUSTED)),)

    def trailers(self, event: on.Trailers) -> Commands:
        """Trailers end the body that they follow."""
        if event.of_response and self.state in (State.ADMITTED, State.ANSWERING):
            self._waiting, self._whole = do.Reply(do.Phase.RESPONSE_TRAILERS), True
            self._answer.end()
            return self._digest() or self._passed()
        if not event.of_response and "decision" not in self._facts:
            raise ProtocolViolation("request trailers before a decision")
        # A server may take trailers for headers that nobody looked at.
        return (do.Reply(phase_of(event), remove_headers=event.names),)

    # The end

    def _finish(
        self,
        outcome: Outcome,
        reply: do.Reply | do.Respond | None = None,
        *,
        close: bool = False,
        after: State = State.DONE,
    ) -> Commands:
        reading = self._answer.reading()
        if reading.failed and outcome is Outcome.COMPLETED:
            outcome = Outcome.PROVIDER_ERROR if not reading.output_tokens else outcome
        if reading.complete and outcome is Outcome.DISCONNECTED:
            outcome = Outcome.COMPLETED
        self._refine()
        final = bill(self._plan, self._predicted, reading, outcome, self._confidence)
        if (taught := lesson(self._plan, final)) is not None:
            user = self._principal.external_id
            self._expected_output.learn(user, kind_of(self._plan), taught)
        last: list[do.Command] = []
        if reply is not None:
            last.append(replace(reply, metadata=self._facts | access_log(final)))
        if close:
            last.append(do.Close())
        self._last = tuple(last)
        self._after = after
        record = usage_record(
            final,
            self._plan,
            self._principal,
            exchange_id=self.exchange_id,
            occurred_at_ms=self.started_at_ms,
            request_id=request_id(self._request.headers),
            price=self._price,
        )
        settle = do.Settle(self._reservation, final.quantities(self._predicted))
        # Last, so that a fault above isn't taken for a record that is on its way.
        self.state = State.RECORDING
        return (settle, do.Record(record))

    def _refine(self) -> None:
        """Take in what the body has told since it was admitted."""
        if self._upload is not None:
            self._plan = self._upload.refined(self._match.endpoint, self._plan)
            self._predicted = replace(self._predicted, input_tokens=self._plan.input_tokens)

    def recorded(self, event: on.Recorded) -> Commands:  # noqa: ARG002
        """Let the client see the end."""
        self.state = self._after
        return self._last

    def lost(self, event: on.Disconnected) -> Commands:  # noqa: ARG002
        """Client or provider went away under an admitted exchange."""
        return self._finish(Outcome.DRAINED if self._handing_back else Outcome.DISCONNECTED)

    def left_early(self, event: on.Disconnected) -> Commands:  # noqa: ARG002
        """Nothing was admitted. The driver hands back a reservation that was on its way."""
        if self.state not in (State.RECORDING, State.CUT, State.LOGGING):
            self.state = State.DONE
        return ()

    def evict(self, event: on.Evicted) -> Commands:  # noqa: ARG002
        """Remember to end the answer at the next message."""
        self._evicted = True
        return ()

    def hand_back(self, event: on.HandBack) -> Commands:  # noqa: ARG002
        """Remember to let go at the next message."""
        self._handing_back = True
        return ()

    def nothing_more(self, event: on.Event) -> Commands:
        """Envoy still sends of an answer what it was told not to: let it pass."""
        return (do.Reply(phase_of(event)),)


def _outcome(*, failed: bool) -> Outcome:
    return Outcome.PROVIDER_ERROR if failed else Outcome.COMPLETED


Step = Callable[[Exchange, Any], Commands]

_STEPS: dict[tuple[State, type[on.Event]], Step] = {
    (State.START, on.RequestHeaders): Exchange.request_headers,
    (State.START, on.ResponseHeaders): Exchange.foreign_answer,
    (State.AUTHENTICATING, on.Authenticated): Exchange.authenticated,
    (State.WAITING_FOR_BODY, on.RequestBody): Exchange.request_body,
    (State.WAITING_FOR_BODY, on.Trailers): Exchange.trailers_for_body,
    (State.WAITING_FOR_BODY, on.ResponseHeaders): Exchange.answered_instead,
    (State.READING, on.Planned): Exchange.planned,
    (State.COUNTING, on.Counted): Exchange.counted,
    (State.RESERVING, on.Reserved): Exchange.reserved,
    (State.RESERVING, on.Revoked): Exchange.revoked,
    (State.REAUTHENTICATING, on.Authenticated): Exchange.reauthenticated,
    (State.ADMITTED, on.RequestBody): Exchange.uploaded,
    (State.ADMITTED, on.ResponseHeaders): Exchange.response_headers,
    (State.ADMITTED, on.Disconnected): Exchange.lost,
    (State.ANSWERING, on.ResponseBody): Exchange.response_body,
    (State.ANSWERING, on.RequestBody): Exchange.uploaded,
    (State.ANSWERING, on.Disconnected): Exchange.lost,
    (State.DIGESTING, on.Digested): Exchange.digested,
    (State.DIGESTING, on.Disconnected): Exchange.lost,
    (State.UNSEEN, on.Trailers): Exchange.told,
    (State.UNSEEN, on.RequestBody): Exchange.uploaded,
    (State.UNSEEN, on.Disconnected): Exchange.lost_unseen,
    (State.LOGGING, on.Logged): Exchange.logged,
    (State.GROWING, on.Grown): Exchange.grown,
    (State.CLAIMING, on.Claimed): Exchange.claimed,
    (State.CLAIMING, on.Disconnected): Exchange.lost,
    (State.GROWING, on.Disconnected): Exchange.lost,
    (State.CUT, on.ResponseBody): Exchange.after_cut,
    (State.CUT, on.RequestBody): Exchange.uploaded,
    (State.RECORDING, on.Recorded): Exchange.recorded,
    (State.DONE, on.ResponseHeaders): Exchange.nothing_more,
    (State.DONE, on.ResponseBody): Exchange.nothing_more,
    (State.DONE, on.RequestBody): Exchange.uploaded,
}

_ANYWHERE: dict[type[on.Event], Step] = {
    on.Trailers: Exchange.trailers,
    on.Disconnected: Exchange.left_early,
    on.Evicted: Exchange.evict,
    on.HandBack: Exchange.hand_back,
}
