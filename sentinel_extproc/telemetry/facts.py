"""What the program tells about itself: plain facts, which adapters turn into logs and metrics.

The parts that emit facts know nothing of Prometheus, OpenTelemetry or logging.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from msgspec import Struct

from sentinel_extproc.telemetry.timeline import Timeline
from sentinel_extproc.telemetry.trace_context import TraceContext
from sentinel_extproc.usage.record import UsageRecord


class ExchangeRefused(Struct, frozen=True, gc=False):
    """We answered a request ourselves.

    Attributes:
        user: external id; None before authentication.
        model: as requested; None before the body was read.
        request_id: Envoy's ``x-request-id``; None when there was none.
    """

    exchange_id: str
    status: int
    code: str
    endpoint: str | None
    user: str | None
    model: str | None = None
    request_id: str | None = None


class ExchangeNoted(Struct, frozen=True, gc=False):
    """A request that would have been refused, or its answer cut, was let pass: nothing is enforced.

    Attributes:
        at_ms: when it began, milliseconds since the epoch, UTC.
        limit: the limit that had no room.
        request_id: as in ``ExchangeRefused``.
        cut: it would have been let through, and its answer ended early.
    """

    exchange_id: str
    at_ms: int
    status: int
    code: str
    endpoint: str | None
    user: str | None
    model: str | None = None
    limit: str | None = None
    cut: bool = False
    request_id: str | None = None


class ExchangeFinished(Struct, frozen=True, gc=False):
    """An admitted exchange came to its end, whichever.

    Attributes:
        metering_faults: bugs of our own that were kept from the client.
        reserved_output_tokens: what was reserved for the answer, over all choices.
        output_basis: what that came from: ``cap``, ``user``, ``model`` or ``default``.
        predicted_input_tokens: our estimate of the prompt, to be compared with what the provider
            reported; None when nothing was counted.
        confidence: how far that could be trusted: ``exact``, ``close`` or ``rough``.
        provider: whom it went to; empty where there is only one.
        key_refused: status with which the provider refused the key that we sent, if it did.
    """

    record: UsageRecord
    metering_faults: int
    predicted_input_tokens: int | None = None
    reserved_output_tokens: int = 0
    output_basis: str = "cap"
    confidence: str = "rough"
    provider: str = ""
    key_refused: int | None = None


class RecordNotStored(Struct, frozen=True, gc=False):
    """A usage record is not durable yet; the ledger keeps it in memory and tries again."""

    record: UsageRecord
    reason: str


class InternalFault(Struct, frozen=True):
    """A bug: an exception that nothing should have raised.

    Attributes:
        where: the part that raised it.
        admitted: whether the request was at the provider already.
    """

    exchange_id: str
    where: str
    fault: BaseException
    admitted: bool


End = ExchangeRefused | ExchangeNoted | ExchangeFinished


class ExchangeTimed(Struct, frozen=True, gc=False):
    """An exchange is over, its stream included: what took how long.

    Attributes:
        end: how it ended; None when its client left before anything was decided, or a bug did it.
        trace: the trace that it belongs to, where somebody asks for that and there is one.
    """

    exchange_id: str
    timeline: Timeline
    end: End | None
    trace: TraceContext | None = None


Fact = End | ExchangeTimed | RecordNotStored | InternalFault

Emit = Callable[[Fact], None]
"""Takes a fact; must be quick and must not raise."""

F = TypeVar("F")
"""Facts of this module, or of a part that has its own."""

_NOBODY: Mapping[type, Collection[Any]] = {}


def to_all(
    *emits: Callable[[F], None], deaf: Mapping[type, Collection[Callable[[F], None]]] = _NOBODY
) -> Callable[[F], None]:
    """One that hands every fact to all of ``emits``, in order.

    Args:
        deaf: those of them that do nothing about facts of a type, and needn't be called: of what
            every exchange emits.
    """
    everybody = _in_order(emits)
    heard = {
        kind: _in_order(tuple(one for one in emits if one not in them))
        for kind, them in deaf.items()
    }

    def emit(fact: F) -> None:
        heard.get(type(fact), everybody)(fact)

    return emit if heard else everybody


def _in_order(emits: tuple[Callable[[F], None], ...]) -> Callable[[F], None]:
    if len(emits) == 1:
        return emits[0]

    def emit(fact: F) -> None:
        for each in emits:
            each(fact)

    return emit
