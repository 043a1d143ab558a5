"""Endpoints without rules of their own: nothing passes for nothing."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints.contract import Meter
from sentinel_extproc.endpoints.other import Other
from sentinel_extproc.usage.record import TokenUsage

OTHER = Other()
USAGE = {"prompt_tokens": 5, "completion_tokens": 7}


class Letters:
    def __init__(self) -> None:
        self.count = 0

    def feed(self, text: str) -> None:
        self.count += len(text)

    def total(self) -> int:
        return self.count


def meter(body: bytes | None, *, stream: bool = False) -> Meter:
    return OTHER.meter(OTHER.plan(body), event_stream=stream, counters=lambda _: Letters())


@pytest.mark.parametrize(
    ("body", "tokens", "cap", "model"),
    [
        (None, 0, 0, ""),
        (b"x" * 30, 10, None, ""),
        (b'{"model":"m","max_tokens":9}', 10, 9, "m"),
        (b'{"model":7,"max_output_tokens":-1}', 12, 0, ""),
        (b'{"model":"a\\nb","max_tokens":true}', 12, None, ""),
    ],
)
def test_what_is_estimated(body: bytes | None, tokens: int, cap: int | None, model: str) -> None:
    plan = OTHER.plan(body)
    assert (plan.input_tokens, plan.output_cap, plan.model) == (tokens, cap, model)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_read_counts_by_size(stream: bool) -> None:
    watching = meter(b"{}", stream=stream)
    for _ in range(100):
        watching.feed(b'data: {"type":"x.delta","d":"some text"}\n\n'[:40], end=False)
    reading = watching.reading()
    assert (reading.output_tokens, reading.exact) == (1000, False)
    assert watching.volume == 4000, "so that its hold is looked at while it flows"


def test_what_the_provider_reports_wins() -> None:
    watching = meter(b"{}")
    watching.feed(json.dumps({"usage": USAGE}).encode(), end=True)
    assert watching.reading().reported == TokenUsage(5, 7)


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_an_answer_that_comes_later_is_billed_as_reserved(status: str) -> None:
    watching = meter(b'{"assistant_id":"a"}')
    watching.feed(json.dumps({"status": status, "usage": None}).encode(), end=True)
    assert watching.reading().deferred


def test_a_run_that_is_over_at_once_has_its_usage() -> None:
    watching = meter(b'{"assistant_id":"a"}')
    watching.feed(json.dumps({"status": "completed", "usage": USAGE}).encode(), end=True)
    assert (watching.reading().deferred, watching.reading().reported) == (False, TokenUsage(5, 7))


def test_a_streamed_run_reports_last() -> None:
    watching = meter(b'{"assistant_id":"a","stream":true}', stream=True)
    step = {"object": "thread.run.step", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    for data in (step, {"object": "thread.run", "usage": USAGE}):
        watching.feed(b"event: x\ndata: " + json.dumps(data).encode() + b"\n\n", end=False)
    assert watching.reading().reported == TokenUsage(5, 7)


def test_what_was_made_by_another_call_is_not_billed_again() -> None:
    watching = meter(None)
    watching.feed(json.dumps({"usage": USAGE}).encode(), end=True)
    assert watching.reading().reported is None
