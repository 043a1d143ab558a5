"""What is traced, as OpenTelemetry's spans. Never a body, a token, a user or an address.

One span for the exchange, of kind SERVER because Envoy calls us, and one below it for each phase.
Attributes are those of the GenAI semantic conventions (in development as of semconv 1.37), and our
own under ``sentinel.``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.span import TraceState
from opentelemetry.trace.status import Status, StatusCode

from sentinel_extproc import __version__
from sentinel_extproc.telemetry.facts import (
    End,
    ExchangeFinished,
    ExchangeNoted,
    ExchangeRefused,
)
from sentinel_extproc.telemetry.timeline import PhaseTimed
from sentinel_extproc.telemetry.tracing.adapter import (
    Place,
    Traced,
    TracedExchange,
    TracedSettlement,
    new_id,
)
from sentinel_extproc.usage.record import Outcome

OPERATIONS: Mapping[str, str] = MappingProxyType(
    {
        "chat.completions": "chat",
        "responses": "chat",
        "messages": "chat",
        "completions": "text_completion",
        "embeddings": "embeddings",
    }
)
"""From our endpoints to the conventions' operations; others go by their own names."""

MAX_CHARS = 200

_FAILED = (Outcome.PROVIDER_ERROR, Outcome.CUT)
"""A client that leaves is no error, nor is an answer that goes on without us."""

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_OK, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)

Attributes = dict[str, str | int | float | bool]


class SpanMaker:
    """Makes spans.

    Args:
        service_name, instance: what the receiver calls this process.
        providers: the conventions' names of providers, by ours; ours is empty for the only one.
    """

    def __init__(self, *, service_name: str, instance: str, providers: Mapping[str, str]) -> None:
        self._resource = Resource.create(
            {
                "service.name": service_name,
                "service.version": __version__,
                "service.instance.id": instance,
            }
        )
        self._scope = InstrumentationScope("sentinel-extproc", __version__)
        self._providers = providers

    def spans(self, traced: Traced) -> list[ReadableSpan]:
        """All of it, the exchange's own first."""
        if isinstance(traced, TracedSettlement):
            return [self._below(traced.place, traced.phase, traced.unix_ns)]
        phases = list(traced.fact.timeline.phases)
        if traced.settled is not None:
            phases.append(traced.settled)
        below = [self._below(traced.place, phase, traced.unix_ns) for phase in phases]
        return [self._exchange(traced), *below]

    def _exchange(self, traced: TracedExchange) -> ReadableSpan:
        place, timeline = traced.place, traced.fact.timeline
        attributes: Attributes = {
            "sentinel.exchange.id": traced.fact.exchange_id,
            "sentinel.added_latency": timeline.waited_ns / 1e9,
        }
        name = self._describe(traced.fact.end, attributes)
        # What our caller did wrong is no error of this server's; see HTTP's conventions.
        end = traced.fact.end
        blameless = isinstance(end, ExchangeRefused | ExchangeNoted) and end.status < 500
        failed = "error.type" in attributes and not blameless
        parent = None
        if place.parent_id is not None:
            parent = SpanContext(place.trace_id, place.parent_id, is_remote=True)
        return ReadableSpan(
            name=name,
            context=_context(place.trace_id, place.span_id, place.state),
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            kind=SpanKind.SERVER,
            instrumentation_scope=self._scope,
            status=_ERROR if failed else _OK,
            start_time=timeline.began_ns + traced.unix_ns,
            end_time=max(traced.ended_ns, timeline.began_ns) + traced.unix_ns,
        )

    def _describe(self, end: End | None, attributes: Attributes) -> str:
        endpoint: str | None
        model: str | None
        why: str | None
        match end:
            case ExchangeFinished():
                endpoint, model, why = self._finished(end, attributes)
            case ExchangeRefused() | ExchangeNoted():
                endpoint, model, why = end.endpoint, end.model, end.code
                noted = isinstance(end, ExchangeNoted)
                attributes["sentinel.decision"] = "noted" if noted else "refused"
                if not noted:
                    attributes["http.response.status_code"] = end.status
                _put(attributes, "sentinel.request.id", end.request_id)
            case _:
                endpoint, model, why = None, None, "undecided"
        _put(attributes, "error.type", why)
        _put(attributes, "sentinel.endpoint", endpoint)
        _put(attributes, "gen_ai.request.model", model)
        operation = None if endpoint is None else OPERATIONS.get(endpoint, endpoint)
        _put(attributes, "gen_ai.operation.name", operation)
        return " ".join(_text(part) for part in (operation, model) if part) or "exchange"

    def _finished(
        self, end: ExchangeFinished, attributes: Attributes
    ) -> tuple[str, str, str | None]:
        record, usage = end.record, end.record.usage
        attributes |= {
            "sentinel.decision": "admitted",
            "sentinel.outcome": record.outcome.value,
            "sentinel.provenance": record.provenance.value,
            "sentinel.reserved_output_tokens": end.reserved_output_tokens,
            "gen_ai.provider.name": self._providers.get(end.provider, end.provider or "openai"),
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
        }
        if usage.cached_input_tokens:
            attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_input_tokens
        if usage.reasoning_tokens:
            attributes["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
        if end.predicted_input_tokens is not None:
            attributes["sentinel.predicted_input_tokens"] = end.predicted_input_tokens
            attributes["sentinel.confidence"] = end.confidence
        _put(attributes, "gen_ai.response.model", record.model_served)
        _put(attributes, "sentinel.request.id", record.request_id)
        why = record.outcome.value if record.outcome in _FAILED else None
        if end.key_refused is not None:
            why = "provider_key_refused"
        return record.endpoint, record.model_requested, why

    def _below(self, place: Place, phase: PhaseTimed, unix_ns: int) -> ReadableSpan:
        exchange = _context(place.trace_id, place.span_id, place.state)
        return ReadableSpan(
            name=phase.name,
            context=_context(place.trace_id, new_id(64), place.state),
            parent=exchange,
            resource=self._resource,
            attributes={} if phase.error is None else {"error.type": phase.error},
            kind=SpanKind.INTERNAL,
            instrumentation_scope=self._scope,
            status=_OK if phase.error is None else _ERROR,
            start_time=phase.began_ns + unix_ns,
            end_time=phase.ended_ns + unix_ns,
        )


def _context(trace_id: int, span_id: int, state: str) -> SpanContext:
    held = TraceState.from_header([state]) if state else None
    return SpanContext(trace_id, span_id, False, _SAMPLED, held)


def _put(attributes: Attributes, name: str, text: str | None) -> None:
    if text:
        attributes[name] = _text(text)


def _text(text: str) -> str:
    # From outside, most of it: a lone surrogate could not be encoded, and would cost a whole batch.
    return text[:MAX_CHARS].encode("utf-8", "replace").decode()
