"""Facts become spans at a real OTLP receiver; nothing that fails there is felt here."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from sentinel_extproc.limits.facts import LimitsDecided, SettlementApplied
from sentinel_extproc.telemetry.facts import (
    End,
    ExchangeFinished,
    ExchangeNoted,
    ExchangeRefused,
    ExchangeTimed,
    InternalFault,
)
from sentinel_extproc.telemetry.timeline import PhaseTimed, Timeline
from sentinel_extproc.telemetry.trace_context import TraceContext
from sentinel_extproc.telemetry.tracing.adapter import (
    MAX_SETTLING,
    Traced,
    TracedExchange,
    TracedSettlement,
    Traces,
)
from sentinel_extproc.telemetry.tracing.otlp import OtlpExporter, TlsFiles
from sentinel_extproc.telemetry.tracing.shipper import BATCH, Shipper
from sentinel_extproc.telemetry.tracing.spans import SpanMaker
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord
from tests.otlp_receiver import Received, Receiver, grpc_receiver, http_receiver

TRACE = TraceContext(0xABC, 0xDEF, sampled=True, state="vendor=1")
UNSAMPLED = TraceContext(0xABC, 0xDEF, sampled=False)


def finished(
    exchange: str = "x-1",
    *,
    model: str = "gpt-4o",
    outcome: Outcome = Outcome.COMPLETED,
    key_refused: int | None = None,
    provider: str = "",
) -> ExchangeFinished:
    record = UsageRecord(
        id=exchange,
        occurred_at_ms=0,
        external_id="user-7",
        email="ada@example.org",
        endpoint="chat.completions",
        model_requested=model,
        model_served="gpt-4o-2024-08-06",
        requests=1,
        usage=TokenUsage(10, 4, cached_input_tokens=3, reasoning_tokens=2),
        provenance=Provenance.PROVIDER,
        outcome=outcome,
        request_id="req-9",
    )
    return ExchangeFinished(
        record, 0, 11, 500, "cap", "close", provider=provider, key_refused=key_refused
    )


def refused(status: int = 429, code: str = "rate_limit_exceeded") -> ExchangeRefused:
    return ExchangeRefused(
        "x-1", status, code, "chat.completions", "user-7", "gpt-4o", request_id="req-9"
    )


def timed(
    end: End | None = None, trace: TraceContext | None = TRACE, exchange: str = "x-1"
) -> ExchangeTimed:
    now = time.perf_counter_ns()
    timeline = Timeline(
        began_ns=now - 9_000_000,
        phases=[
            PhaseTimed("authenticate", now - 8_000_000, now - 7_000_000),
            PhaseTimed("reserve", now - 6_000_000, now - 5_000_000, "token_revoked"),
        ],
        waited_ns=3_500_000,
    )
    return ExchangeTimed(exchange, timeline, end, trace)


def sampled(
    fact: ExchangeTimed, *, ratio: float = 1.0, draw: Callable[[], float] = lambda: 0.5
) -> list[Traced]:
    shipped: list[Traced] = []
    Traces(shipped.append, ratio=ratio, draw=draw).emit(fact)
    return shipped


class TestWhichAreTraced:
    @pytest.mark.parametrize("ratio", [0.0, 1.0])
    def test_what_was_decided_before_us_holds(self, ratio: float) -> None:
        assert len(sampled(timed(trace=TRACE), ratio=ratio)) == 1
        assert sampled(timed(trace=UNSAMPLED), ratio=ratio) == []

    def test_the_ratio_decides_where_nobody_has(self) -> None:
        assert len(sampled(timed(trace=None), ratio=0.6)) == 1
        assert sampled(timed(trace=None), ratio=0.4) == []
        assert sampled(timed(trace=None), ratio=0.0, draw=lambda: 0.0) == []

    def test_a_trace_of_our_own_has_an_id_of_its_own(self) -> None:
        ids = set()
        for _ in range(100):
            (traced,) = sampled(timed(trace=None))
            assert traced.place.parent_id is None
            assert 0 < traced.place.span_id < 2**64
            assert 0 < traced.place.trace_id < 2**128
            ids.add(traced.place.trace_id)
        assert len(ids) == 100

    def test_other_facts_are_no_traces(self) -> None:
        shipped: list[Traced] = []
        traces = Traces(shipped.append, ratio=1.0)
        traces.emit(finished())
        traces.emit(InternalFault("x-1", "exchange", ValueError(), admitted=True))
        traces.emit_limits(LimitsDecided("admitted"))
        assert shipped == []


class TestSettlements:
    def test_one_before_the_end_is_part_of_it(self) -> None:
        shipped: list[Traced] = []
        traces = Traces(shipped.append, ratio=1.0)
        traces.emit_limits(SettlementApplied("x-1", 0.004))
        traces.emit(timed(finished()))
        (traced,) = shipped
        assert isinstance(traced, TracedExchange)
        assert traced.settled is not None
        assert traced.settled.ended_ns - traced.settled.began_ns == 4_000_000
        assert traced.spans == 4

    def test_one_after_the_end_belongs_to_it_all_the_same(self) -> None:
        shipped: list[Traced] = []
        traces = Traces(shipped.append, ratio=1.0)
        traces.emit(timed(finished()))
        traces.emit_limits(SettlementApplied("x-1", 0.004))
        traces.emit_limits(SettlementApplied("x-1", 0.004))
        exchange, settlement = shipped
        assert isinstance(settlement, TracedSettlement)
        assert settlement.place == exchange.place

    def test_those_of_exchanges_that_nobody_traces_make_no_span(self) -> None:
        shipped: list[Traced] = []
        traces = Traces(shipped.append, ratio=1.0)
        traces.emit_limits(SettlementApplied("x-1", 0.004))
        traces.emit(timed(finished(), UNSAMPLED))
        traces.emit_limits(SettlementApplied("x-1", 0.004))
        assert shipped == []

    def test_what_is_remembered_is_bounded(self) -> None:
        shipped: list[Traced] = []
        traces = Traces(shipped.append, ratio=1.0)
        for number in range(MAX_SETTLING + 1):
            traces.emit_limits(SettlementApplied(f"early-{number}", 0.1))
            traces.emit(timed(finished(f"late-{number}"), exchange=f"late-{number}"))
        shipped.clear()
        traces.emit(timed(finished("early-0"), exchange="early-0"))
        (first,) = shipped
        assert isinstance(first, TracedExchange)
        assert first.settled is None
        traces.emit_limits(SettlementApplied("late-0", 0.1))
        assert len(shipped) == 1


Open = Callable[[], AbstractContextManager[Receiver]]


def shipper_to(receiver: Receiver, *, grpc: bool = False, timeout_s: float = 10.0) -> Shipper:
    def make() -> OtlpExporter:
        return OtlpExporter(
            SpanMaker(service_name="sentinel", instance="one", providers={"": "openai"}),
            endpoint=receiver.url,
            grpc=grpc,
            headers={"x-key": "s3cret"},
            timeout_s=timeout_s,
            tls=TlsFiles(),
        )

    return Shipper(make, every_s=0.01)


async def received(*facts: ExchangeTimed) -> list[Received]:
    with http_receiver() as receiver:
        shipper = shipper_to(receiver)
        shipper.start()
        traces = Traces(shipper.offer, ratio=1.0)
        for fact in facts:
            traces.emit(fact)
        await shipper.aclose(deadline_s=30)
        return receiver.received


@pytest.mark.parametrize(("open_receiver", "grpc"), [(http_receiver, False), (grpc_receiver, True)])
async def test_an_exchange_arrives_with_its_phases(open_receiver: Open, grpc: bool) -> None:
    with open_receiver() as receiver:
        shipper = shipper_to(receiver, grpc=grpc)
        shipper.start()
        traces = Traces(shipper.offer, ratio=1.0)
        traces.emit(timed(finished()))
        traces.emit_limits(SettlementApplied("x-1", 0.001))
        await shipper.aclose(deadline_s=30)
        exchange, *phases = receiver.received
    assert shipper.counters.exported == 4
    assert exchange.service == "sentinel"
    assert exchange.headers["x-key"] == "s3cret"
    assert (exchange.trace_id, exchange.parent_id) == (f"{0xABC:032x}", f"{0xDEF:016x}")
    assert exchange.span.trace_state == "vendor=1"
    assert exchange.span.name == "chat gpt-4o"
    assert exchange.span.kind == Span.SPAN_KIND_SERVER
    assert exchange.span.status.code == Status.STATUS_CODE_UNSET
    assert exchange.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "sentinel.added_latency": 0.0035,
        "sentinel.confidence": "close",
        "sentinel.decision": "admitted",
        "sentinel.endpoint": "chat.completions",
        "sentinel.exchange.id": "x-1",
        "sentinel.outcome": "completed",
        "sentinel.predicted_input_tokens": 11,
        "sentinel.provenance": "provider",
        "sentinel.request.id": "req-9",
        "sentinel.reserved_output_tokens": 500,
    }
    assert [one.span.name for one in phases] == ["authenticate", "reserve", "settle"]
    assert {one.parent_id for one in phases} == {exchange.span_id}
    assert {one.trace_id for one in phases} == {exchange.trace_id}
    assert len({one.span_id for one in (exchange, *phases)}) == 4
    assert phases[1].attributes == {"error.type": "token_revoked"}
    assert phases[1].span.status.code == Status.STATUS_CODE_ERROR
    took_ns = phases[0].span.end_time_unix_nano - phases[0].span.start_time_unix_nano
    assert took_ns == 1_000_000
    assert exchange.span.start_time_unix_nano < phases[0].span.start_time_unix_nano
    assert abs(exchange.span.end_time_unix_nano / 1e9 - time.time()) < 60


async def test_nobody_can_be_recognised_in_a_trace() -> None:
    for end in (finished(), refused()):
        for one in await received(timed(end)):
            raw = one.span.SerializeToString()
            assert b"user-7" not in raw
            assert b"ada@" not in raw


@pytest.mark.parametrize(
    ("end", "error", "failed"),
    [
        (finished(), None, False),
        (finished(outcome=Outcome.DISCONNECTED), None, False),
        (finished(outcome=Outcome.PROVIDER_ERROR), "provider_error", True),
        (
            finished(outcome=Outcome.PROVIDER_ERROR, key_refused=401),
            "provider_key_refused",
            True,
        ),
        (finished(outcome=Outcome.CUT), "cut", True),
        (refused(), "rate_limit_exceeded", False),
        (refused(503, "service_unavailable"), "service_unavailable", True),
        (ExchangeNoted("x-1", 0, 429, "limited", None, None), "limited", False),
        (None, "undecided", True),
    ],
)
async def test_what_counts_as_an_error(end: End | None, error: str | None, failed: bool) -> None:
    exchange, *_ = await received(timed(end))
    assert exchange.attributes.get("error.type") == error
    assert (exchange.span.status.code == Status.STATUS_CODE_ERROR) is failed


async def test_a_refusal_has_its_status_and_no_usage() -> None:
    exchange, *_ = await received(timed(refused()))
    assert exchange.span.name == "chat gpt-4o"
    assert exchange.attributes["http.response.status_code"] == 429
    assert exchange.attributes["sentinel.decision"] == "refused"
    assert "gen_ai.usage.input_tokens" not in exchange.attributes


async def test_a_provider_of_several_has_its_own_name() -> None:
    exchange, *_ = await received(timed(finished(provider="mine")))
    assert exchange.attributes["gen_ai.provider.name"] == "mine"


@pytest.mark.parametrize("model", ["\ud800", "m" * 5000, "a\nb", "世界"])
async def test_any_model_name_can_be_sent(model: str) -> None:
    exchange, *_ = await received(timed(finished(model=model)))
    shown = exchange.attributes["gen_ai.request.model"]
    assert isinstance(shown, str)
    assert 0 < len(shown) <= 200


class Scripted:
    """An exporter that does as told."""

    def __init__(self, *, why: str | None = None, hang: bool = False) -> None:
        self.why = why
        self.batches: list[int] = []
        self.entered = threading.Event()
        self.release = threading.Event()
        self.closed = False
        if not hang:
            self.release.set()

    def export(self, batch: Sequence[Traced]) -> str | None:
        self.entered.set()
        self.release.wait(30)
        self.batches.append(len(batch))
        if self.why == "bug":
            raise ZeroDivisionError
        return self.why

    def close(self) -> None:
        self.closed = True
        self.release.set()


def one() -> Traced:
    (traced,) = sampled(timed(refused()))
    return traced


class TestShipper:
    async def test_a_full_queue_drops_and_counts(self) -> None:
        exporter = Scripted(hang=True)
        shipper = Shipper(lambda: exporter, max_queued=BATCH, every_s=0.01)
        shipper.start()
        shipper.offer(one())
        assert await asyncio.to_thread(exporter.entered.wait, 30)
        for _ in range(BATCH + 5):
            shipper.offer(one())
        assert shipper.counters.dropped == 5 * one().spans
        exporter.release.set()
        await shipper.aclose(deadline_s=30)
        assert shipper.counters.exported == (1 + BATCH) * one().spans
        assert exporter.batches == [1, BATCH]
        assert exporter.closed

    @pytest.mark.parametrize("why", ["no", "bug"])
    async def test_what_is_not_taken_is_counted_and_told_once(
        self, why: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        exporter = Scripted(why=why)
        shipper = Shipper(lambda: exporter, every_s=0.001)
        shipper.start()
        for tries in (1, 2, 3):
            shipper.offer(one())
            await exported(exporter, tries)
        exporter.why = None
        shipper.offer(one())
        await shipper.aclose(deadline_s=30)
        assert shipper.counters.failed == 3 * one().spans
        assert shipper.counters.exported == one().spans
        told = [record.message for record in caplog.records]
        assert told.count("traces_not_exported") == 1

    async def test_an_exporter_that_hangs_holds_up_no_shutdown(self) -> None:
        exporter = Scripted(hang=True)
        shipper = Shipper(lambda: exporter, every_s=0.001)
        shipper.start()
        shipper.offer(one())
        assert await asyncio.to_thread(exporter.entered.wait, 30)
        await shipper.aclose(deadline_s=0.05)
        assert exporter.closed

    async def test_one_that_cannot_be_made_harms_nobody(self) -> None:
        def make() -> Scripted:
            raise ImportError("opentelemetry")

        shipper = Shipper(make, max_queued=64)
        shipper.start()
        for _ in range(70):
            shipper.offer(one())
        await shipper.aclose(deadline_s=30)
        assert shipper.counters.dropped >= 6 * one().spans

    async def test_a_receiver_that_is_gone_costs_spans_and_nothing_else(self) -> None:
        with http_receiver() as receiver:
            pass
        shipper = shipper_to(receiver, timeout_s=0.5)
        shipper.start()
        for _ in range(3):
            shipper.offer(one())
        await shipper.aclose(deadline_s=30)
        assert shipper.counters.failed == 3 * one().spans

    async def test_a_receiver_that_refuses_is_counted(self) -> None:
        with http_receiver() as receiver:
            receiver.status = 403
            shipper = shipper_to(receiver)
            shipper.start()
            shipper.offer(one())
            await shipper.aclose(deadline_s=30)
        assert shipper.counters.failed == one().spans
        assert receiver.requests == 1


async def exported(exporter: Scripted, batches: int) -> None:
    async with asyncio.timeout(30):
        while len(exporter.batches) < batches:  # noqa: ASYNC110 - it is another thread's
            await asyncio.sleep(0.005)


def test_without_tracing_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys; import sentinel_extproc.app;"
        # redis-py looks by itself whether there are metrics.
        "assert not {'opentelemetry.sdk.trace', 'opentelemetry.exporter'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
