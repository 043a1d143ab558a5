"""What an exchange has learnt so far, and what can be told of it meanwhile. Pure.

Written by the steps (``exchange.steps``) alone. Others read its properties.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs

from sentinel_extproc.endpoints.contract import CounterFactory, Head, Plan
from sentinel_extproc.endpoints.guarded import GuardedUpload
from sentinel_extproc.endpoints.table import Match
from sentinel_extproc.errors import SentinelError
from sentinel_extproc.exchange import commands as do
from sentinel_extproc.exchange import events as on
from sentinel_extproc.exchange import native
from sentinel_extproc.exchange.answer import Answer
from sentinel_extproc.exchange.expected_output import (
    Basis,
    Expected,
    FixedOutput,
    OutputExpectation,
)
from sentinel_extproc.exchange.intake import Credential, bearer
from sentinel_extproc.exchange.lines import first
from sentinel_extproc.exchange.native import BytesPerToken
from sentinel_extproc.exchange.providers import Choose, Chosen
from sentinel_extproc.exchange.running import Running
from sentinel_extproc.exchange.states import DECIDED, State
from sentinel_extproc.identity.principal import Principal
from sentinel_extproc.limits.model import Quantities, Quota, Reservation
from sentinel_extproc.tokens.model import Confidence
from sentinel_extproc.usage.record import Pricer, unpriced


class Progress:
    """How far one exchange has come.

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

    Attributes:
        confidence: how far ``counted_input`` can be trusted.
        request_id: what Envoy calls the request; None if it doesn't.
        key_refused: the status with which the provider refused our key, if it did.
        unseen: whether its answer never passes here, because Envoy meters it.
    """

    enforces = True
    """Whether what it says is done; see ``exchange.shadow``."""

    # Each of these is set by the step that learns it, and read only in states that come after.
    request: on.RequestHeaders
    head: Head
    match: Match
    chosen: Chosen
    principal: Principal
    quotas: tuple[Quota, ...]
    plan: Plan
    token: str
    predicted: Quantities
    reserved: Reservation
    waiting: do.Reply

    # And these are so until a step says otherwise; here, since each exchange would set them all.
    state = State.START
    request_id: str | None = None
    planned = False
    asked_again = False
    upload: GuardedUpload | None = None
    confidence = Confidence.ROUGH
    basis = Basis.CAP
    answer_headers: tuple[tuple[str, str], ...] = ()
    unseen = False
    cut_short = False
    whole = False
    last: do.Commands = ()
    after = State.DONE
    handing_back = False
    evicted = False
    key_refused: int | None = None

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
        self.choose = choose
        self.counters = counters
        self.expected_output = expected_output
        self.credential = credential
        self.price = price
        self.bytes_per_token = native
        self.native_path = native_path
        self.max_body = max_body_bytes
        self.answer = Answer()
        self.facts: dict[str, str | int] = {"exchange_id": exchange_id}
        self.error_body: Callable[[SentinelError], bytes] = SentinelError.body

    @property
    def decided(self) -> bool:
        """Whether the request was let through or answered; only then may the stream end cleanly."""
        return self.state in DECIDED

    @property
    def external_id(self) -> str | None:
        """Whose it is; None before authentication."""
        user = self.facts.get("user")
        return None if user is None else str(user)

    @property
    def trace_headers(self) -> tuple[bytes, bytes]:
        """What the request says of its trace: ``traceparent`` and ``tracestate``."""
        return first(self._headers, "traceparent"), first(self._headers, "tracestate")

    @property
    def _headers(self) -> on.Headers:
        request = getattr(self, "request", None)
        return () if request is None else request.headers

    @property
    def running(self) -> Running:
        """What can be told of it while it runs."""
        endpoint, model = self.facts.get("endpoint"), self.facts.get("model")
        return Running(
            id=self.exchange_id,
            started_at_ms=self.started_at_ms,
            user=self.external_id,
            endpoint=None if endpoint is None else str(endpoint),
            model=None if model is None else str(model),
            admitted="decision" in self.facts,
            generated_chars=self.answer.volume,
        )

    @property
    def reservation(self) -> Reservation | None:
        """What was taken for it, settled or not."""
        return getattr(self, "reserved", None)

    @property
    def counted_input(self) -> int | None:
        """Our count of an admitted request's input; None when it was only estimated by size."""
        return None if self.plan.count is None else self.predicted.input_tokens

    @property
    def provider(self) -> str:
        """Whom an admitted request went to; empty where there is only one."""
        return self.chosen.name

    @property
    def swaps(self) -> bool:
        """Whether the provider's key is put in place of the client's token."""
        return True

    @property
    def reserved_output(self) -> Expected:
        """What was predicted of an admitted request's output, and by what."""
        return Expected(self.predicted.output_tokens, self.basis)

    @property
    def metering_faults(self) -> int:
        """Bugs of a meter that were kept from the client."""
        return self.answer.faults + (self.upload.faults if self.upload else 0)

    @property
    def digest(self) -> Callable[[], object] | None:
        """What to do in a thread before it is told that its stream is over, if that is much."""
        return self.answer.reading if self.answer.heavy else None

    @property
    def held(self) -> bytes:
        """Bytes of the answer that the client has yet to get."""
        return self.answer.held

    @property
    def meters_natively(self) -> bool:
        """Whether Envoy reads the usage of its answer."""
        return (
            self.bytes_per_token is not None
            and self.plan.streams
            and self.match.endpoint.name in native.ENDPOINTS
            # The same call elsewhere, be it at another provider, is none that Envoy reads.
            and self.head.target.partition("?")[0] == self.native_path
        )

    def refine(self) -> None:
        """Take in what the body has told since it was admitted."""
        if self.upload is not None:
            self.plan = self.upload.refined(self.match.endpoint, self.plan)
            self.predicted = structs.replace(self.predicted, input_tokens=self.plan.input_tokens)
