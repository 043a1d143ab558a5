"""Answers that Envoy meters itself: what its word and the answer's length are taken for."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.endpoints.contract import Plan, Reading
from sentinel_extproc.exchange.events import Told
from sentinel_extproc.exchange.native import TYPICAL_BYTES, BytesPerToken, read_bytes, read_told
from sentinel_extproc.transport import access_logs
from sentinel_extproc.transport.access_logs import LogWaits
from sentinel_extproc.transport.codec import (
    METADATA_NAMESPACE,
    USAGE_NAMESPACE,
    decode,
    read_access_logs,
)
from sentinel_extproc.transport.pb import sentinel_ext_proc_pb2 as pb
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord

PLAN = Plan("chat.completions", "gpt-4o")


def test_envoys_word_is_the_providers_own() -> None:
    reading = read_told(Told("gpt-4o-2024", 10, 7, cached_tokens=4, reasoning_tokens=2))
    assert reading == Reading(
        reported=TokenUsage(
            input_tokens=10, output_tokens=7, cached_input_tokens=4, reasoning_tokens=2
        ),
        model_served="gpt-4o-2024",
        complete=True,
    )


def test_parts_are_never_more_than_the_whole() -> None:
    reading = read_told(Told("", 3, 2, cached_tokens=9, reasoning_tokens=9))
    assert reading is not None
    assert reading.reported == TokenUsage(3, 2, cached_input_tokens=3, reasoning_tokens=2)
    assert reading.model_served is None


@pytest.mark.parametrize("told", [Told("m", None, 1), Told("m", 1, None)])
def test_half_a_word_is_none(told: Told) -> None:
    assert read_told(told) is None


@pytest.mark.parametrize(
    ("body_bytes", "cap", "tokens"),
    [
        (0, None, 0),
        (1, None, 1),
        (2400, None, 10),
        (2401, None, 11),
        (10**6, 50, 50),
        (None, 9, 77),
    ],
)
def test_a_cut_answer_by_its_length(body_bytes: int | None, cap: int | None, tokens: int) -> None:
    plan = Plan("chat.completions", "gpt-4o", output_cap=cap)
    reading = read_bytes(plan, body_bytes, reserved=77, bytes_per_token=240)
    assert (reading.output_tokens, reading.exact, reading.reported) == (tokens, False, None)


def test_it_learns_a_models_own_length() -> None:
    known = BytesPerToken()
    assert known.of("m") == TYPICAL_BYTES
    for _ in range(100):
        known.learn("m", 20_000, 100)
    assert known.of("m") == pytest.approx(200)
    assert known.of("other") == TYPICAL_BYTES


def test_short_answers_teach_nothing() -> None:
    known = BytesPerToken()
    known.learn("m", 100_000, 3)
    known.learn("m", 0, 300)
    assert known.of("m") == TYPICAL_BYTES


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 10**9), st.integers(0, 10**6))))
def test_whatever_it_is_told_it_stays_within_bounds(
    lessons: list[tuple[str, int, int]],
) -> None:
    known = BytesPerToken()
    for model, size, tokens in lessons:
        known.learn(model, size, tokens)
        assert 1 <= known.of(model) <= 2 * TYPICAL_BYTES


def test_it_remembers_so_many_models_only() -> None:
    known = BytesPerToken()
    for n in range(1000):
        known.learn(f"m{n}", 20_000, 100)
    assert known.of("m0") == TYPICAL_BYTES
    assert known.of("m999") == pytest.approx(200)


def trailers(usage: pb.TokenUsage | bytes) -> bytes:
    value = usage if isinstance(usage, bytes) else usage.SerializeToString()
    message = pb.ProcessingRequest(response_trailers=pb.HttpTrailers())
    message.metadata_context.typed_filter_metadata[USAGE_NAMESPACE].value = value
    return message.SerializeToString()


def test_usage_comes_with_the_trailers() -> None:
    usage = pb.TokenUsage(
        model="m",
        input_tokens=pb.UInt64Value(value=5),
        output_tokens=pb.UInt64Value(),
        extraction_status=1,
    )
    event = decode(trailers(usage))
    assert event.told == Told("m", 5, 0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "usage", [pb.TokenUsage(extraction_status=3), b"\xff\xff", pb.TokenUsage()]
)
def test_what_envoy_could_not_read_is_no_usage(usage: pb.TokenUsage | bytes) -> None:
    assert decode(trailers(usage)).told is None  # type: ignore[union-attr]


def test_access_logs_name_exchanges_and_lengths() -> None:
    message = pb.StreamAccessLogsMessage()
    ours = message.http_logs.log_entry.add()
    facts = ours.common_properties.metadata.filter_metadata[METADATA_NAMESPACE]
    facts.fields["exchange_id"].string_value = "x"
    ours.response.response_body_bytes = 12
    message.http_logs.log_entry.add().response.response_body_bytes = 99  # not through us
    assert read_access_logs(message.SerializeToString()) == [("x", 12)]


def record(**changed: object) -> UsageRecord:
    fields: dict[str, object] = {
        "id": "x",
        "occurred_at_ms": 0,
        "external_id": "e",
        "email": "e@example.com",
        "endpoint": "chat.completions",
        "model_requested": "m",
        "model_served": None,
        "requests": 1,
        "usage": TokenUsage(1, 100),
        "provenance": Provenance.PROVIDER,
        "outcome": Outcome.COMPLETED,
    }
    return UsageRecord(**(fields | changed))  # type: ignore[arg-type]


async def test_who_waits_is_told_and_who_is_done_teaches() -> None:
    known = BytesPerToken()
    waits = LogWaits(known)
    waiting = asyncio.ensure_future(waits.wait("a"))
    await asyncio.sleep(0)
    waits.tell("a", 7)
    waits.tell("a", 8)
    waits.tell("nobody", 9)
    assert await waiting == 7
    waits.finished(record(), unseen=True)
    waits.tell("x", 10_000)
    assert known.of("m") == 100
    waits.tell("x", 50_000)
    assert known.of("m") == 100, "once"


async def test_a_log_that_comes_first_is_kept() -> None:
    waits = LogWaits(BytesPerToken())
    for n in range(5000):
        waits.tell(str(n), n)
    assert await waits.wait("4999") == 4999
    assert len(waits._early) <= access_logs._MAX_EARLY


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_logs, "WAIT_S", 0.01)
    waits = LogWaits(None)
    assert await waits.wait("a") is None
    waiting = asyncio.ensure_future(waits.wait("b"))
    await asyncio.sleep(0)
    waits.give_up()
    assert await waiting is None
    assert await waits.wait("c") is None


def test_what_is_remembered_to_learn_from_is_bounded() -> None:
    waits = LogWaits(BytesPerToken())
    for n in range(5000):
        waits.finished(record(id=str(n)), unseen=True)
    assert len(waits._finished) == access_logs._MAX_FINISHED
    counted = LogWaits(BytesPerToken())
    counted.finished(record(provenance=Provenance.COUNTED), unseen=True)
    assert not counted._finished, "our own count is no lesson"
