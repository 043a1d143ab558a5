"""Anthropic-style messages."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints.contract import Head, Meter, Reading
from sentinel_extproc.endpoints.messages import CountTokens, Messages
from sentinel_extproc.errors import InvalidRequest
from sentinel_extproc.usage.record import TokenUsage

MESSAGES = Messages()
START_USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 3,
    "cache_read_input_tokens": 5,
    "output_tokens": 1,
}


class Words:
    def __init__(self) -> None:
        self.text = ""

    def feed(self, text: str) -> None:
        self.text += text

    def total(self) -> int:
        return len(self.text.split())


def encode(**fields: object) -> bytes:
    whole: dict[str, object] = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "x"}],
    }
    return json.dumps({k: v for k, v in (whole | fields).items() if v is not None}).encode()


def meter(*, streamed: bool) -> Meter:
    return MESSAGES.meter(
        MESSAGES.plan(encode(stream=streamed)), event_stream=streamed, counters=lambda _: Words()
    )


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def delta(index: int, **fields: object) -> bytes:
    return event("content_block_delta", index=index, delta=fields)


def read_stream(*events: bytes, size: int = 9) -> Reading:
    one = meter(streamed=True)
    stream = b"".join(events)
    for start in range(0, len(stream), size):
        assert one.feed(stream[start : start + size], end=False) is None
    return one.reading()


START = event("message_start", message={"model": "served", "usage": START_USAGE})
TEXT = [
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("ping"),
    delta(0, type="text_delta", text="one tw"),
    delta(0, type="text_delta", text="o"),
    event("content_block_stop", index=0),
    event("content_block_start", index=1, content_block={"type": "tool_use", "name": "three"}),
    delta(1, type="input_json_delta", partial_json='{"four":4}'),
]


class TestRequest:
    def test_the_cap_is_reserved_and_the_body_left_alone(self) -> None:
        plan = MESSAGES.plan(encode(stream=True))
        assert plan.output_cap == 100
        assert plan.upstream_body is None
        assert plan.count is not None
        assert plan.count.kind == "messages"

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"max_tokens": None}, "max_tokens"),
            ({"max_tokens": "9"}, "max_tokens"),
            ({"model": None}, "model"),
            ({"messages": []}, "messages"),
            ({"messages": "x"}, "messages"),
            ({"stream": "x"}, "stream"),
        ],
    )
    def test_bad_requests(self, fields: dict[str, object], param: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            MESSAGES.plan(encode(**fields))
        assert caught.value.param == param

    def test_clamping_but_never_below_what_it_may_think(self) -> None:
        plan = MESSAGES.plan(encode())
        body = MESSAGES.clamped(plan, 40).upstream_body
        assert body is not None
        assert json.loads(body)["max_tokens"] == 40
        thinks = MESSAGES.plan(encode(thinking={"type": "enabled", "budget_tokens": 64}))
        assert MESSAGES.clamped(thinks, 40) is thinks
        assert MESSAGES.clamped(thinks, 70) is not thinks

    def test_counting_is_free_of_tokens_and_needs_no_body(self) -> None:
        plan = CountTokens().plan_head(Head())
        assert (plan.output_cap, plan.count, plan.input_tokens) == (0, None, 0)
        assert plan.unwatched
        assert plan.billed_requests == 1


class TestStream:
    @pytest.mark.parametrize("size", [1, 9, 100_000])
    def test_usage_is_the_firsts_input_and_the_lasts_output(self, size: int) -> None:
        last = event("message_delta", delta={"stop_reason": "end"}, usage={"output_tokens": 42})
        reading = read_stream(START, *TEXT, last, event("message_stop"), size=size)
        assert reading.reported == TokenUsage(18, 42, cached_input_tokens=5)
        assert reading.model_served == "served"

    def test_the_last_word_on_the_input_counts(self) -> None:
        usage = {"input_tokens": 20, "cache_read_input_tokens": 7, "output_tokens": 42}
        reading = read_stream(START, *TEXT, event("message_delta", usage=usage))
        assert reading.reported == TokenUsage(27, 42, cached_input_tokens=7)

    def test_a_last_word_that_leaves_out_the_cache_is_not_the_whole_input(self) -> None:
        usage = {"input_tokens": 10, "output_tokens": 42}
        reading = read_stream(START, *TEXT, event("message_delta", usage=usage))
        assert reading.reported == TokenUsage(18, 42, cached_input_tokens=5)

    def test_arguments_and_pings(self) -> None:
        tool = event(
            "content_block_start", index=0, content_block={"type": "tool_use", "name": "f"}
        )
        parts = [
            delta(0, type="input_json_delta", partial_json=piece) for piece in ('{"a":', " 1}")
        ]
        reading = read_stream(START, event("ping"), tool, *parts, event("ping"))
        assert (reading.output_tokens, reading.exact) == (3, True)

    def test_a_cut_stream_is_its_reported_input_and_what_was_streamed(self) -> None:
        reading = read_stream(START, *TEXT)
        assert reading.reported is None
        assert reading.so_far == TokenUsage(18, 0, cached_input_tokens=5)
        assert (reading.output_tokens, reading.exact) == (4, True)

    def test_sums_before_more_text_are_not_the_last(self) -> None:
        early = event("message_delta", usage={"output_tokens": 1})
        assert read_stream(START, early, *TEXT).reported is None

    def test_thinking_counts_but_makes_it_an_estimate(self) -> None:
        reading = read_stream(START, delta(0, type="thinking_delta", thinking="one two"))
        assert (reading.output_tokens, reading.exact) == (2, False)

    def test_an_error(self) -> None:
        reading = read_stream(event("error", error={"type": "overloaded_error"}))
        assert (reading.failed, reading.so_far) == (True, None)

    @pytest.mark.parametrize(
        "odd",
        [
            event("message_start"),
            event("message_start", message=5),
            event("message_start", message={"usage": []}),
            event("message_delta"),
            event("message_delta", usage={"output_tokens": -4}),
            event("content_block_delta", delta="x"),
            event("content_block_start", content_block=5),
            b'data: {"type": []}\n\n',
        ],
    )
    def test_odd_events_are_passed_over(self, odd: bytes) -> None:
        reading = read_stream(odd)
        assert (reading.reported, reading.output_tokens, reading.failed) == (None, 0, False)

    def test_the_cut_has_the_apis_own_form(self) -> None:
        assert MESSAGES.cut("No room.") == CountTokens().cut("No room.")
        name, data = MESSAGES.cut("No room.").decode().strip().split("\n")
        assert name == "event: error"
        assert json.loads(data.removeprefix("data: ")) == {
            "type": "error",
            "error": {"type": "rate_limit_error", "message": "No room."},
        }


class TestWhole:
    def test_usage(self) -> None:
        one = meter(streamed=False)
        one.feed(json.dumps({"model": "served", "usage": START_USAGE}).encode(), end=True)
        assert one.reading().reported == TokenUsage(18, 1, cached_input_tokens=5)
        assert one.reading().model_served == "served"

    def test_without_usage_all_text_is_counted(self) -> None:
        one = meter(streamed=False)
        blocks = [
            {"type": "text", "text": "one two"},
            {"type": "tool_use", "name": "three", "input": {"four": 4}},
            5,
        ]
        one.feed(json.dumps({"content": blocks}).encode(), end=True)
        assert (one.reading().output_tokens, one.reading().exact) == (4, True)
