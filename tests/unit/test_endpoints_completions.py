"""Completions: what is reserved, changed and counted."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints.completions import Completions
from sentinel_extproc.errors import InvalidRequest
from sentinel_extproc.usage.record import TokenUsage

COMPLETIONS = Completions()


class Words:
    def __init__(self) -> None:
        self.text = ""

    def feed(self, text: str) -> None:
        self.text += text

    def total(self) -> int:
        return len(self.text.split())


def encode(**fields: object) -> bytes:
    return json.dumps({"model": "babbage-002", "prompt": "x"} | fields).encode()


@pytest.mark.parametrize(
    ("fields", "cap"),
    [
        ({}, 16),
        ({"prompt": None}, 16),
        ({"max_tokens": 0, "echo": True}, 0),
        ({"max_tokens": 10}, 10),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": 10, "n": 2, "best_of": 5}, 50),
        ({"max_tokens": 10, "prompt": ["a", "b", "c"]}, 30),
        ({"max_tokens": 10, "prompt": [1, 2, 3]}, 10),
        ({"max_tokens": 10, "prompt": [[1, 2], [3]], "n": 2}, 40),
        ({"max_tokens": 2**31 - 1, "n": 128, "prompt": ["a"] * 9}, 2**31 - 1),
    ],
)
def test_every_prompts_every_choice_is_reserved(fields: dict[str, object], cap: int) -> None:
    assert COMPLETIONS.plan(encode(**fields)).output_cap == cap


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"best_of": 0}, "best_of"),
        ({"n": "2"}, "n"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_bad_requests(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        COMPLETIONS.plan(encode(**fields))
    assert caught.value.param == param


def test_a_stream_is_made_to_report_and_its_report_hidden() -> None:
    plan = COMPLETIONS.plan(encode(stream=True))
    assert plan.hide_usage
    assert plan.upstream_body is not None
    assert json.loads(plan.upstream_body)["stream_options"] == {"include_usage": True}
    meter = COMPLETIONS.meter(plan, event_stream=True, counters=lambda _: Words())
    chunk = b'data: {"choices":[{"index":0,"text":"one two"}],"model":"m"}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    assert meter.feed(chunk + usage, end=False) == chunk
    assert meter.reading().reported == TokenUsage(1, 2)


def test_clamping_goes_to_each_choice() -> None:
    plan = COMPLETIONS.plan(encode(max_tokens=100, n=2, stream=True))
    body = COMPLETIONS.clamped(plan, 50).upstream_body
    assert body is not None
    assert json.loads(body)["max_tokens"] == 25
    assert json.loads(body)["stream_options"] == {"include_usage": True}
    uncapped = COMPLETIONS.clamped(COMPLETIONS.plan(encode()), 5).upstream_body
    assert uncapped is not None
    assert json.loads(uncapped)["max_tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "exact"),
    [({}, True), ({"n": 2, "best_of": 2}, True), ({"echo": True}, False), ({"best_of": 3}, False)],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_text_that_was_not_generated_or_not_shown_makes_a_count_an_estimate(
    fields: dict[str, object], exact: bool, streamed: bool
) -> None:
    meter = COMPLETIONS.meter(
        COMPLETIONS.plan(encode(**fields)), event_stream=streamed, counters=lambda _: Words()
    )
    answer = b'{"choices":[{"index":0,"text":"one two"}]}'
    meter.feed(b"data: " + answer + b"\n\n" if streamed else answer, end=True)
    reading = meter.reading()
    assert (reading.output_tokens, reading.exact) == (2, exact)
