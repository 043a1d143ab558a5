"""What an endpoint must say about a request and its answer. Pure.

Vocabulary: a *plan* is what is to be done with one request; a *meter* watches the answer; a
*reading* is what the meter knows when the answer has ended or been cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from sentinel_extproc.errors import SentinelError
from sentinel_extproc.tokens.model import JsonObject, OutputCounter
from sentinel_extproc.usage.record import TokenUsage

CounterFactory = Callable[[str], OutputCounter]
"""Model name to a counter for one generated text."""


class Head(Struct, frozen=True, gc=False):
    """What a request's headers say, before there is a body.

    Attributes:
        target: as in ``:path``, query included.
        content_type: as sent; empty when absent.
        content_length: bytes of the body; None when the client doesn't say.
        method: as in ``:method``.
    """

    target: str = ""
    content_type: str = ""
    content_length: int | None = None
    method: bytes = b""


NO_HEAD = Head()


class Upload(Protocol):
    """Watches a request body that flows on to the provider while it is read."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        ...


class CountRequest(Struct, frozen=True, gc=False):
    """Input to be counted.

    Attributes:
        kind: the estimator's rule.
        body: the decoded request.
        size: bytes of the body, which decides whether counting may run on the event loop.
    """

    kind: str
    body: JsonObject
    size: int


class Plan(Struct, frozen=True, gc=False):
    """What to count, reserve, forward and bill for one request.

    Attributes:
        model: as asked for; empty when the request names none.
        count: what to count, or None when ``input_tokens`` is already the estimate.
        input_tokens: input that is known by constants or by size, on top of what is counted.
        output_cap: most output tokens that the request allows over all choices; None: no cap
            given, 0: the endpoint generates nothing.
        choices: answers asked for at once; what is expected of one is reserved for each.
        billed_requests: requests on the usage record; 0 for free calls.
        upstream_body: what to forward instead of the client's body; None: forward as it came.
        hide_usage: the usage chunk was asked for by us, so the client must not see it.
        streams: an event stream was asked for, with usage at its end.
        unwatched: nothing in the answer's body can change the bill.
        endless: the answer goes on as long as the caller likes, so that debt must end it.
        upload: shall see the request's body pass; only in plans made from the headers.
    """

    endpoint: str
    model: str
    count: CountRequest | None = None
    input_tokens: int = 0
    output_cap: int | None = None
    choices: int = 1
    billed_requests: int = 1
    upstream_body: bytes | None = None
    hide_usage: bool = False
    streams: bool = False
    unwatched: bool = False
    endless: bool = False
    upload: Upload | None = None


class Deferred(Struct, frozen=True, gc=False):
    """Work that is billed when its result is seen, named by the provider's id.

    Attributes:
        usage: what it cost; None while that isn't known.
    """

    name: str
    usage: TokenUsage | None = None


class Reading(Struct, frozen=True, gc=False):
    """What a meter knows of an answer.

    Attributes:
        reported: the provider's own numbers for the whole answer, when it gave them.
        so_far: the provider's own numbers for a part of it (all input, or what came before the
            cut); replaces our estimate of the input, and ``output_tokens`` is on top of it.
        output_tokens: our count or estimate of what was generated.
        exact: ``output_tokens`` is a count of all generated text rather than an estimate.
        model_served: the model that the answer names.
        failed: the answer carries the provider's error object.
        deferred: the provider answers later, elsewhere, so that what was reserved is billed.
        complete: the answer itself says that it is over, however its connection ends.
        deferrals: earlier or later work that it tells of, each to be billed once.
    """

    reported: TokenUsage | None = None
    so_far: TokenUsage | None = None
    output_tokens: int = 0
    exact: bool = False
    model_served: str | None = None
    failed: bool = False
    deferred: bool = False
    complete: bool = False
    deferrals: tuple[Deferred, ...] = ()


class Meter(Protocol):
    """Watches one answer's body. Never raises because of what the body holds."""

    rewrites: bool
    """Whether ``feed`` may give other bytes than it took."""

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:
        """Take the next body bytes.

        Returns:
            What the client is to get instead; None: the chunk as it is.
        """
        ...

    @property
    def held(self) -> bytes:
        """Bytes taken that the client has yet to get; always empty unless ``rewrites``."""
        ...

    @property
    def partial(self) -> int:
        """Bytes at the end of what was given out that are of an event not yet complete."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the last event of the answer was seen: the client knows that it is over, though
        its connection may end later. Never before all is known that is billed."""
        ...

    @property
    def volume(self) -> int:
        """Characters of generated text seen so far; cheap, and only for deciding when to count.

        0 for answers that arrive as a whole, since nothing could be done about them any more.
        """
        ...

    @property
    def waiting(self) -> int:
        """Characters that the next reading has to count, or work that takes as long."""
        ...

    def reading(self) -> Reading:
        """What is known so far; counting that was put off happens here."""
        ...


class Endpoint(Protocol):
    """One API's rules.

    Attributes:
        upgrades: whether a connection upgrade (WebSocket) is understood.
        key_header: where this API's clients put their credential when they send no
            ``authorization``; empty: nowhere else.
        drop_headers: request headers that must not reach the provider.
        any_body: bodies are of any kind; else they are JSON unless they are forms.
    """

    name: str
    upgrades: bool
    key_header: str
    drop_headers: tuple[str, ...]
    any_body: bool

    def plan_head(self, head: Head) -> Plan | None:
        """Decide from the headers alone; the body then flows on without being kept.

        Returns:
            None: ``plan`` needs the whole body.

        Raises:
            InvalidRequest: it must not be forwarded.
        """
        ...

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:
        """Decide what to do with a request.

        Args:
            body: the whole body; None when the request has none.

        Raises:
            InvalidRequest: it must not be forwarded.
        """
        ...

    def refined(self, plan: Plan) -> Plan:
        """``plan`` with what its ``upload`` has seen of the body since; never raises."""
        ...

    def clamped(self, plan: Plan, output_tokens: int) -> Plan:
        """The same request, made to generate at most ``output_tokens``.

        Returns:
            ``plan`` itself where the endpoint has no way to say so.
        """
        ...

    def cut(self, message: str) -> bytes:
        """What ends an event stream early, in the endpoint's own form of an error event."""
        ...

    def error_body(self, error: SentinelError) -> bytes:
        """The body of our own answer to a request, in the form that this API's clients read."""
        ...

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:
        """A meter for the answer to ``plan``.

        Args:
            event_stream: the answer's content type is ``text/event-stream``.
        """
        ...
