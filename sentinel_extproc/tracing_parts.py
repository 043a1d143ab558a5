"""The composition root's part about traces: who makes them, if anybody wants any."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from sentinel_extproc.config.settings import Settings
from sentinel_extproc.config.tracing import tracing_headers
from sentinel_extproc.exchange.providers import Kind
from sentinel_extproc.limits.facts import EmitLimitFact
from sentinel_extproc.provider_parts import DEFAULT
from sentinel_extproc.telemetry.facts import Emit
from sentinel_extproc.telemetry.tracing.adapter import Traces
from sentinel_extproc.telemetry.tracing.shipper import Exporter, Shipper, SpanCounters

_CONVENTION = {
    Kind.OPENAI: "openai",
    Kind.AZURE: "azure.ai.openai",
    Kind.ANTHROPIC: "anthropic",
}
"""What GenAI's conventions call kinds of providers; any other goes by its own name."""


@dataclass(frozen=True, slots=True)
class TracingParts:
    """Who is told facts, so that traces are made of them; nobody while tracing is off."""

    emit: tuple[Emit, ...] = ()
    emit_limits: tuple[EmitLimitFact, ...] = ()
    counters: SpanCounters | None = None

    @property
    def on(self) -> bool:
        """Whether anybody asks for traces."""
        return bool(self.emit)


def tracing_parts(settings: Settings, instance: str, stack: AsyncExitStack) -> TracingParts:
    """Start what carries traces away; ``stack`` ends it.

    Args:
        instance: tells this sidecar from others.

    Raises:
        OSError, ValueError: the file of headers changed since the settings were checked.
    """
    tracing = settings.tracing
    if tracing.endpoint is None:
        return TracingParts()
    endpoint, headers = tracing.endpoint, tracing_headers(tracing.headers_file)
    providers = {
        one.name: _CONVENTION.get(one.kind, one.name) for one in settings.providers
    } | dict.fromkeys(("", DEFAULT), _CONVENTION[Kind.OPENAI])

    def make() -> Exporter:
        from sentinel_extproc.telemetry.tracing.otlp import OtlpExporter, TlsFiles
        from sentinel_extproc.telemetry.tracing.spans import SpanMaker

        return OtlpExporter(
            SpanMaker(service_name=tracing.service_name, instance=instance, providers=providers),
            endpoint=endpoint,
            grpc=tracing.protocol == "grpc",
            headers=headers,
            timeout_s=tracing.timeout_seconds,
            tls=TlsFiles(tracing.ca_file, tracing.client_cert_file, tracing.client_key_file),
        )

    shipper = Shipper(make, max_queued=tracing.max_queued)
    stack.push_async_callback(shipper.aclose)
    shipper.start()
    traces = Traces(shipper.offer, ratio=tracing.sample_ratio)
    return TracingParts((traces.emit,), (traces.emit_limits,), shipper.counters)
