"""Every endpoint"s rules against anything: clear refusals, no faults, alike in every split."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentinel_extproc.endpoints.contract import Endpoint, Head, Meter
from sentinel_extproc.endpoints.table import ENDPOINTS
from sentinel_extproc.errors import InvalidRequest, SentinelError
from sentinel_extproc.tokens.estimator import TokenEstimator

ESTIMATOR = TokenEstimator()

NAMES = (
    "model",
    "messages",
    "content",
    "role",
    "input",
    "prompt",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "suffix",
    "max_output_tokens",
    "stream",
    "stream_options",
    "include_usage",
    "tools",
    "name",
    "arguments",
    "instructions",
    "size",
    "quality",
    "partial_images",
    "speed",
    "text",
    "type",
    "thinking",
    "budget_tokens",
    "images",
    "image_url",
    "usage",
    "prompt_tokens",
    "input_tokens",
    "output_tokens",
    "completion_tokens",
    "choices",
    "index",
    "delta",
    "tool_calls",
    "function",
    "error",
    "message",
    "response",
    "item",
    "output_index",
    "seconds",
    "duration",
    "status",
    "content_block",
    "cache_read_input_tokens",
    "output",
    "summary",
    "code",
    "refusal",
)
TYPES = (
    "response.completed",
    "response.output_text.delta",
    "response.output_item.added",
    "response.failed",
    "message_start",
    "message_delta",
    "content_block_delta",
    "content_block_start",
    "error",
    "response.done",
    "response.reasoning_text.delta",
    "response.audio.delta",
    "transcript.text.done",
    "queued",
    "in_progress",
    "conversation.item.input_audio_transcription.completed",
    "duration",
    "tokens",
    "message",
    "function_call",
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 300),
    st.sampled_from([2**31, 2**63, -1, 10**30]),
    st.floats(),
    st.sampled_from(["", "gpt-4o", "a b", "\ud800", "1024x1024", "high", "\x00", *TYPES]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    ),
    max_leaves=25,
)
OBJECTS = st.fixed_dictionaries(
    {"model": st.one_of(st.just("gpt-4o"), LEAVES)},
    optional={name: VALUES for name in NAMES if name != "model"},
)
EVENTS = st.dictionaries(st.sampled_from([*NAMES, "type"]), VALUES, max_size=8)
SOME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def by_name(endpoint: Endpoint) -> str:
    return endpoint.name


PLANNING = [e for e in ENDPOINTS if e.name != "realtime.direct"]


@pytest.mark.parametrize("endpoint", PLANNING, ids=by_name)
@given(value=st.one_of(OBJECTS, VALUES))
@SOME
def test_a_body_is_planned_or_refused(endpoint: Endpoint, value: Any) -> None:
    body = json.dumps(value).encode()
    try:
        plan = endpoint.plan(body, Head("/v1/x", "application/json", len(body)))
    except InvalidRequest:
        return
    assert plan.endpoint == endpoint.name
    assert plan.output_cap is None or 0 <= plan.output_cap < 2**53
    assert 0 <= plan.input_tokens < 2**53
    if plan.count is not None:
        assert ESTIMATOR.estimate(plan.count.kind, plan.count.body).input_tokens >= 0
    clamped = endpoint.clamped(plan, 7)
    if clamped is not plan:
        assert clamped.upstream_body is not None
        assert json.loads(clamped.upstream_body)["model"] == plan.model


def fed(meter: Meter, stream: bytes, cuts: list[int]) -> bytes:
    out = b""
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        piece = stream[start:end]
        shown = meter.feed(piece, end=False)
        out += piece if shown is None else shown
        assert meter.partial >= 0
        assert meter.volume >= 0
    shown = meter.feed(b"", end=True)
    return out + (shown or b"")


def meter_for(endpoint: Endpoint, *, event_stream: bool) -> Meter:
    bodies: dict[str, dict[str, object]] = {
        "messages": {"max_tokens": 5, "messages": [{}]},
        "chat.completions": {"messages": [{}]},
    }
    body: dict[str, object] = {"model": "gpt-4o", "input": "x", "prompt": "x"}
    body |= bodies.get(endpoint.name, {})
    try:
        plan = endpoint.plan(json.dumps(body).encode())
    except SentinelError:  # forms only
        plan = endpoint.plan_head(Head("/", "multipart/form-data; boundary=X", 10**7))  # type: ignore[assignment]
    return endpoint.meter(plan, event_stream=event_stream, counters=ESTIMATOR.output_counter)


@pytest.mark.parametrize("endpoint", PLANNING, ids=by_name)
@given(
    events=st.lists(EVENTS, max_size=6),
    junk=st.sampled_from([b"", b": c\n\n", b"data: {\n\n", b"data: 5\n\n", b"\xff\x81\x05"]),
    cuts=st.lists(st.integers(0, 5000), max_size=9),
)
@SOME
def test_a_stream_passes_and_reads_alike_in_every_split(
    endpoint: Endpoint, events: list[Any], junk: bytes, cuts: list[int]
) -> None:
    stream = junk + b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events)
    whole, split = (meter_for(endpoint, event_stream=True) for _ in range(2))
    out = fed(whole, stream, [])
    assert out == fed(split, stream, cuts) == stream
    first, second = whole.reading(), split.reading()
    assert first == second
    assert first.output_tokens >= 0


@pytest.mark.parametrize("endpoint", PLANNING, ids=by_name)
@given(value=st.one_of(EVENTS, VALUES), cuts=st.lists(st.integers(0, 5000), max_size=9))
@SOME
def test_a_whole_answer_passes_and_reads_alike_in_every_split(
    endpoint: Endpoint, value: Any, cuts: list[int]
) -> None:
    if endpoint.name == "realtime":
        return  # answers nothing but frames, which have tests of their own
    body = json.dumps(value).encode()
    whole, split = (meter_for(endpoint, event_stream=False) for _ in range(2))
    assert fed(whole, body, []) == fed(split, body, cuts) == body
    assert whole.reading() == split.reading()
