"""Responses: what is reserved and changed, and what is read of whole and streamed answers."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints.contract import Meter, Reading
from sentinel_extproc.endpoints.responses import Responses
from sentinel_extproc.errors import InvalidRequest
from sentinel_extproc.sse import MAX_EVENT_BYTES
from sentinel_extproc.usage.record import TokenUsage

RESPONSES = Responses()
USAGE = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 8,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 17,
}
REPORTED = TokenUsage(9, 8, cached_input_tokens=4, reasoning_tokens=5)


class Words:
    def __init__(self) -> None:
        self.text = ""

    def feed(self, text: str) -> None:
        self.text += text

    def total(self) -> int:
        return len(self.text.split())


def encode(**fields: object) -> bytes:
    return json.dumps({"model": "gpt-4.1", "input": "x"} | fields).encode()


def meter(*, streamed: bool) -> Meter:
    plan = RESPONSES.plan(encode(stream=streamed))
    return RESPONSES.meter(plan, event_stream=streamed, counters=lambda _: Words())


def event(kind: str, **fields: object) -> bytes:
    value = {"type": kind, **fields}
    return f"event: {kind}\ndata: {json.dumps(value)}\n\n".encode()


def read_stream(*events: bytes, size: int = 7) -> Reading:
    one = meter(streamed=True)
    stream = b"".join(events)
    for start in range(0, len(stream), size):
        assert one.feed(stream[start : start + size], end=False) is None
    one.feed(b"", end=True)
    return one.reading()


def read_whole(**fields: object) -> Reading:
    one = meter(streamed=False)
    one.feed(json.dumps({"model": "served", "error": None} | fields).encode(), end=True)
    return one.reading()


DELTAS = [
    event("response.created", response={"model": "served", "usage": None}),
    event("response.output_item.added", output_index=0, item={"type": "message"}),
    event("response.output_text.delta", output_index=0, content_index=0, delta="one tw"),
    event("response.output_text.delta", output_index=0, content_index=0, delta="o"),
    event("response.refusal.delta", output_index=0, content_index=1, delta="three"),
    event("response.output_item.added", output_index=1, item={"name": "four"}),
    event("response.function_call_arguments.delta", output_index=1, delta='{"five":6}'),
    event("response.output_text.done", output_index=0, content_index=0, text="one two"),
]


class TestRequest:
    def test_the_cap_is_reserved_and_the_body_left_alone(self) -> None:
        plan = RESPONSES.plan(encode(max_output_tokens=50, stream=True))
        assert plan.output_cap == 50
        assert plan.upstream_body is None
        assert plan.count is not None
        assert plan.count.kind == "responses"
        assert RESPONSES.plan(encode()).output_cap is None

    def test_a_template_needs_no_model(self) -> None:
        assert RESPONSES.plan(b'{"prompt":{"id":"pmpt_1"}}').model == "prompt"
        with pytest.raises(InvalidRequest):
            RESPONSES.plan(b'{"input":"x"}')

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"input": 5}, "input"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"max_output_tokens": "5"}, "max_output_tokens"),
            ({"stream": 1}, "stream"),
        ],
    )
    def test_bad_requests(self, fields: dict[str, object], param: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            RESPONSES.plan(encode(**fields))
        assert caught.value.param == param

    @pytest.mark.parametrize(
        ("cap", "granted", "sent"), [(None, 100, 100), (50, 100, 50), (500, 100, 100), (500, 3, 16)]
    )
    def test_clamping(self, cap: int | None, granted: int, sent: int) -> None:
        plan = RESPONSES.clamped(RESPONSES.plan(encode(max_output_tokens=cap)), granted)
        assert plan.upstream_body is not None
        assert json.loads(plan.upstream_body)["max_output_tokens"] == sent


class TestStream:
    @pytest.mark.parametrize("kind", ["completed", "incomplete", "failed"])
    @pytest.mark.parametrize("size", [1, 7, 100_000])
    def test_the_last_event_tells_the_usage(self, kind: str, size: int) -> None:
        last = event(f"response.{kind}", response={"model": "served", "usage": USAGE})
        reading = read_stream(*DELTAS, last, size=size)
        assert reading.reported == REPORTED
        assert reading.model_served == "served"
        assert reading.failed is (kind == "failed")

    def test_a_cut_stream_is_counted(self) -> None:
        reading = read_stream(*DELTAS)
        assert (reading.reported, reading.output_tokens, reading.exact) == (None, 5, True)

    @pytest.mark.parametrize(
        "kind", ["response.reasoning_summary_text.delta", "response.reasoning_text.delta"]
    )
    def test_reasoning_counts_but_makes_it_an_estimate(self, kind: str) -> None:
        reading = read_stream(event(kind, output_index=0, summary_index=0, delta="two words"))
        assert (reading.output_tokens, reading.exact) == (2, False)

    @pytest.mark.parametrize(
        "kind",
        [
            "response.function_call_arguments.delta",
            "response.refusal.delta",
            "response.custom_tool_call_input.delta",
            "response.code_interpreter_call_code.delta",
        ],
    )
    def test_everything_written_counts(self, kind: str) -> None:
        pieces = [event(kind, output_index=0, delta=word) for word in ("one ", "two")]
        assert read_stream(*pieces) == Reading(output_tokens=2, exact=True)

    def test_sound_is_not_taken_for_text(self) -> None:
        reading = read_stream(event("response.audio.delta", delta="QUJD " * 1000))
        assert (reading.output_tokens, reading.exact) == (0, False)

    def test_a_last_event_too_large_to_keep_is_still_found_to_report(self) -> None:
        output = [{"type": "image_generation_call", "result": "A" * (MAX_EVENT_BYTES + 999)}]
        response = {"output": output, "usage": USAGE, "metadata": {"note": "n" * 500}}
        last = event("response.completed", response=response)
        assert read_stream(*DELTAS, last, size=65_536).reported == REPORTED

    @pytest.mark.parametrize(
        "bad",
        [
            event("error", code="server_error", message="boom"),
            b'event: error\ndata: {"error":{"message":"boom"}}\n\n',
        ],
    )
    def test_an_error_event(self, bad: bytes) -> None:
        reading = read_stream(DELTAS[0], bad)
        assert (reading.failed, reading.output_tokens) == (True, 0)

    @pytest.mark.parametrize(
        "odd",
        [
            event("response.output_text.delta"),
            event("response.output_text.delta", delta=5),
            event("response.completed"),
            event("response.completed", response=[]),
            event("response.completed", response={"usage": {"input_tokens": -1}}),
            event("response.output_item.added", item=None),
            b"data: []\n\n",
            b'data: {"type": 5}\n\n',
        ],
    )
    def test_odd_events_are_passed_over(self, odd: bytes) -> None:
        assert read_stream(odd) == Reading(exact=True)

    def test_the_cut_reads_as_an_error_to_every_client(self) -> None:
        cut = RESPONSES.cut("No room.")
        assert cut.startswith(b"event: error\ndata: ")
        value = json.loads(cut.split(b"data: ")[1])
        assert value["type"] == "error"
        assert value["message"] == value["error"]["message"] == "No room."


class TestWhole:
    def test_usage(self) -> None:
        reading = read_whole(status="completed", usage=USAGE, output=[])
        assert reading.reported == REPORTED
        assert not reading.failed

    def test_without_usage_all_text_is_counted(self) -> None:
        output = [
            {"type": "message", "content": [{"text": "one two"}, {"refusal": "three"}, 5]},
            {"type": "function_call", "name": "four", "arguments": '{"five":6}'},
            None,
        ]
        reading = read_whole(status="completed", output=output)
        assert (reading.output_tokens, reading.exact) == (5, True)

    def test_a_summary_makes_it_an_estimate(self) -> None:
        output = [{"type": "reasoning", "summary": [{"text": "one two"}]}]
        reading = read_whole(status="completed", output=output)
        assert (reading.output_tokens, reading.exact) == (2, False)

    @pytest.mark.parametrize("status", ["queued", "in_progress"])
    def test_an_answer_that_comes_later_is_billed_as_reserved(self, status: str) -> None:
        assert read_whole(status=status, output=[], usage=None).deferred
        assert not read_whole(status=status, output=[], usage=USAGE).deferred
        assert not read_whole(status="completed", output=[]).deferred
        assert not read_whole(status=[], output=[]).deferred

    def test_a_failure(self) -> None:
        assert read_whole(status="failed", error={"message": "boom"}).failed
