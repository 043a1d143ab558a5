"""Meters: what they read, and that they change only what we put there."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints.chat_answer import StreamMeter, read_whole
from sentinel_extproc.endpoints.contract import Reading
from sentinel_extproc.endpoints.events import EventMeter
from sentinel_extproc.endpoints.guarded import GuardedMeter
from sentinel_extproc.endpoints.meters import JsonMeter, OpaqueMeter
from sentinel_extproc.endpoints.provider_usage import read_usage
from sentinel_extproc.endpoints.responses import ResponsesReader
from sentinel_extproc.usage.record import TokenUsage

USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}


class Letters:
    """One token a letter."""

    def __init__(self) -> None:
        self.count = 0

    def feed(self, text: str) -> None:
        self.count += len(text)

    def total(self) -> int:
        return self.count


def stream_meter(*, hide: bool = True) -> StreamMeter:
    return StreamMeter("m", lambda _: Letters(), hide_usage=hide)


def json_meter(limit: int = 1 << 20) -> JsonMeter:
    return JsonMeter("m", lambda _: Letters(), read_whole, max_bytes=limit)


def data(value: object) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def run(meter: StreamMeter, stream: bytes, size: int) -> bytes:
    out = b""
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    for piece in pieces:
        shown = meter.feed(piece, end=False)
        out += piece if shown is None else shown
    shown = meter.feed(b"", end=True)
    return out + (shown or b"")


def chunk(**fields: object) -> dict[str, object]:
    return {"id": "c", "choices": [{"index": 0, "delta": fields}]}


CONTENT = '\\"usage\\":null ,"usage": nothing 🎈'
OPENAI_STREAM = [
    chunk(role="assistant", content=""),
    chunk(content=CONTENT),
    chunk(refusal="no"),
    chunk(tool_calls=[{"index": 0, "function": {"name": "fn", "arguments": ""}}]),
    chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"usage":null}'}}]),
]


@pytest.mark.parametrize("size", [1, 2, 3, 10, 64, 100_000])
def test_the_client_sees_the_stream_as_if_usage_had_not_been_asked_for(size: int) -> None:
    asked = b"".join(data(c | {"usage": None}) for c in OPENAI_STREAM)
    asked += data({"id": "c", "choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"
    unasked = b"".join(data(c) for c in OPENAI_STREAM) + b"data: [DONE]\n\n"
    meter = stream_meter()
    assert run(meter, asked, size) == unasked
    assert meter.reading().reported == TokenUsage(5, 7)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_nothing_is_changed_where_nothing_was_asked(size: int) -> None:
    stream = b": ping\n\n" + data({"usage": None}) + data({"choices": [], "usage": USAGE}) + b"x"
    assert run(stream_meter(hide=False), stream, size) == stream


@pytest.mark.parametrize(
    "stream",
    [
        b"data: not json\n\n",
        b"data: [1,2]\n\n",
        b"data: {\n\n",
        b": comment\n\n",
        b"event: ping\ndata: {}\n\n",
        b"garbage without an end",
        b"\xff\xfe\x00",
        data({"error": {"message": "boom"}}),
    ],
)
def test_what_is_no_chunk_passes_as_it_is(stream: bytes) -> None:
    assert run(stream_meter(), stream, 3) == stream


def test_usage_on_a_chunk_with_choices_is_taken_out_alone() -> None:
    shown = run(stream_meter(), data(chunk(content="x") | {"usage": USAGE}), 1000)
    assert json.loads(shown.removeprefix(b"data: ")) == chunk(content="x")


def test_all_generated_text_is_counted_when_usage_is_missing() -> None:
    meter = stream_meter()
    two = {"choices": [{"index": i, "delta": {"content": "ab"}} for i in range(2)]}
    for event in [*OPENAI_STREAM, two]:
        meter.feed(data(event), end=False)
    reading = meter.reading()
    assert reading.exact
    assert reading.output_tokens == len(CONTENT + "no" + "fn" + '{"usage":null}' + "abab")


def usage(given: int, made: int) -> dict[str, object]:
    return {"usage": {"prompt_tokens": given, "completion_tokens": made}}


@pytest.mark.parametrize("hide", [True, False])
def test_the_last_of_the_sums_in_every_chunk_counts(hide: bool) -> None:
    meter = stream_meter(hide=hide)
    for made, letter in enumerate("abc", start=1):
        meter.feed(data(chunk(content=letter) | usage(5, made * 10)), end=False)
    assert meter.reading().reported == TokenUsage(5, 30)


@pytest.mark.parametrize("hide", [True, False])
def test_what_comes_after_the_last_sums_is_counted(hide: bool) -> None:
    """Of an answer that is cut, or whose provider tells the prompt's size at first and no more."""
    meter = stream_meter(hide=hide)
    meter.feed(data(chunk(role="assistant", content="") | usage(5, 0)), end=False)
    assert meter.reading().reported == TokenUsage(5, 0)
    for letters in ("ab", "cde"):
        meter.feed(data(chunk(content=letters)), end=False)
    reading = meter.reading()
    assert (reading.reported, reading.so_far) == (None, TokenUsage(5, 0))
    assert (reading.output_tokens, reading.exact) == (5, True)
    assert meter.volume == 5
    meter.feed(data({"choices": []} | usage(5, 9)), end=True)
    assert meter.reading().reported == TokenUsage(5, 9)


@pytest.mark.parametrize("size", [1, 2, 5, 100_000])
@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n"])
@pytest.mark.parametrize("done", [True, False])
def test_any_line_ends_a_bom_pings_and_no_done(size: int, end: bytes, done: bool) -> None:
    events = [data(c | {"usage": None}) for c in OPENAI_STREAM]
    asked = b": ping\n\n".join(events) + data({"choices": [], "usage": USAGE})
    unasked = b": ping\n\n".join(data(c) for c in OPENAI_STREAM)
    last = b"data: [DONE]\n\n" if done else b""
    meter = stream_meter()
    bom = b"\xef\xbb\xbf"
    shown = run(meter, bom + (asked + last).replace(b"\n", end), size)
    assert shown == bom + (unasked + last).replace(b"\n", end)
    assert meter.reading().reported == TokenUsage(5, 7)


@pytest.mark.parametrize(
    "error", [{"error": {"message": "boom"}}, {"error": "boom"}, {"object": "error", "code": 5}]
)
def test_an_error_in_the_stream(error: dict[str, object]) -> None:
    meter = stream_meter()
    meter.feed(data(chunk(content="ab")), end=False)
    assert not meter.reading().failed
    assert meter.feed(data(error), end=True) == data(error)
    assert (meter.reading().failed, meter.reading().output_tokens) == (True, 2)


def test_usage_that_makes_no_sense_is_as_good_as_none() -> None:
    for bad in ({}, {"prompt_tokens": -1}, {"prompt_tokens": "5"}, {"prompt_tokens": True}, 7):
        assert read_usage(bad) is None
    assert read_usage({"prompt_tokens": 2**60, "completion_tokens": 1}) == TokenUsage(0, 1)


def test_details_are_kept_apart_in_both_spellings() -> None:
    chat = {
        "prompt_tokens": 9,
        "completion_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 2},
    }
    responses = {
        "input_tokens": 9,
        "output_tokens": 8,
        "input_tokens_details": {"cached_tokens": 4, "audio_tokens": 1},
        "output_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 2},
    }
    assert read_usage(chat) == read_usage(responses) == TokenUsage(9, 8, 4, 5, 1, 2)


def test_a_whole_answer_is_read_at_its_end() -> None:
    meter = json_meter()
    answer = json.dumps({"model": "served", "usage": USAGE}).encode()
    for byte in answer:
        assert meter.feed(bytes([byte]), end=False) is None
    assert meter.reading() == Reading(TokenUsage(5, 7), model_served="served")


def test_an_answer_over_the_bound_is_estimated_and_not_kept() -> None:
    meter = json_meter(limit=100)
    for _ in range(50):
        meter.feed(b"x" * 40, end=False)
    assert meter.reading().output_tokens == 500
    assert not meter.reading().exact


class Broken:
    """A meter with a bug in it."""

    rewrites = True
    partial = 0
    volume = 0
    finished = False
    waiting = 0

    def __init__(self) -> None:
        self.held = b""

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:
        if chunk == b"hold":
            self.held = chunk
            return b""
        raise RuntimeError("bug")

    def reading(self) -> Reading:
        raise RuntimeError("bug")


def test_a_meters_bug_costs_no_byte_and_no_bill() -> None:
    meter = GuardedMeter(Broken())
    assert meter.feed(b"hold", end=False) == b""
    assert meter.feed(b"next", end=False) == b"holdnext"
    assert meter.feed(b"more", end=True) is None
    assert meter.faults == 1
    assert meter.reading().output_tokens == 3


def test_a_bug_while_reading_still_gives_an_estimate() -> None:
    meter = GuardedMeter(Broken())
    meter.feed(b"hold", end=False)
    assert meter.reading().output_tokens == 1
    assert GuardedMeter(OpaqueMeter()).reading() == Reading()


class FailsOnce:
    """Counts letters until a certain chunk."""

    rewrites = False
    held = b""
    partial = 0
    volume = 0
    finished = False
    waiting = 0

    def __init__(self) -> None:
        self.count = 0

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:
        if chunk == b"bad":
            raise RuntimeError("bug")
        self.count += len(chunk)
        return None

    def reading(self) -> Reading:
        return Reading(output_tokens=self.count, exact=True)


def test_what_was_counted_before_a_bug_stands() -> None:
    meter = GuardedMeter(FailsOnce())
    for chunk in (b"x" * 100, b"bad", b"y" * 41):
        assert meter.feed(chunk, end=False) is None
    assert meter.reading() == Reading(output_tokens=100 + 11, exact=False)


def test_a_chunk_that_cannot_be_written_anew_as_utf_8_keeps_its_escapes() -> None:
    odd = b'data: {"choices":[{"delta":{"content":"\\ud800"}}],"usage":{"prompt_tokens":5,'
    odd += b'"completion_tokens":7}}\n\n'
    meter = stream_meter()
    shown = meter.feed(odd, end=False)
    assert shown is not None
    assert json.loads(shown.removeprefix(b"data: ")) == {
        "choices": [{"delta": {"content": "\ud800"}}]
    }
    assert meter.reading().reported == TokenUsage(5, 7)


@pytest.mark.parametrize("last", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]"])
def test_an_unterminated_end_is_not_held_back(last: bytes) -> None:
    meter = stream_meter()
    assert meter.feed(data(chunk(content="x")) + last, end=False) is not None
    assert meter.held == b""
    assert meter.feed(b"\n", end=True) == b"\n"


@pytest.mark.parametrize("hide_usage", [False, True])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_is_finished_with_its_done_and_not_before(hide_usage: bool, size: int) -> None:
    meter = GuardedMeter(stream_meter(hide=hide_usage))
    # What a model writes can't look like it: line breaks are escaped in JSON.
    text = json.dumps({"choices": [{"delta": {"content": "data: [DONE]\n\n"}}]})
    body = b"data: " + text.encode() + b"\n\n"
    for place in range(0, len(body), size):
        meter.feed(body[place : place + size], end=False)
        assert not meter.finished
    meter.feed(b"data: [DONE]\n\n", end=False)
    assert meter.finished


@pytest.mark.parametrize("last", ["message_stop", "response.completed", "response.failed"])
def test_other_streams_are_finished_with_their_last_event(last: str) -> None:
    meter = EventMeter(ResponsesReader("m", lambda _: Letters()))
    meter.feed(b'data: {"type": "response.created"}\n\n', end=False)
    assert not meter.finished
    meter.feed(f'data: {{"type": "{last}"}}\n\n'.encode(), end=False)
    assert meter.finished
