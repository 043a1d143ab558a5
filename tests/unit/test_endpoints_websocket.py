"""WebSocket frames and realtime sessions."""

from __future__ import annotations

import json
import os
import struct

import pytest

from sentinel_extproc.endpoints.contract import Head
from sentinel_extproc.endpoints.realtime import Realtime, SessionMeter
from sentinel_extproc.endpoints.websocket import (
    BINARY,
    CLOSE,
    MAX_MESSAGE_BYTES,
    TEXT,
    FrameScanner,
    Message,
    close_frame,
    text_frame,
)
from sentinel_extproc.errors import InvalidRequest
from sentinel_extproc.usage.record import TokenUsage


class Words:
    def __init__(self) -> None:
        self.text = ""

    def feed(self, text: str) -> None:
        self.text += text

    def total(self) -> int:
        return len(self.text.split())


def frame(
    content: bytes, opcode: int = TEXT, *, final: bool = True, masked: bool = False, rsv: int = 0
) -> bytes:
    size = len(content)
    first, bit = (0x80 if final else 0) | rsv | opcode, 0x80 if masked else 0
    if size < 126:
        head = struct.pack(">BB", first, bit | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", first, bit | 126, size)
    else:
        head = struct.pack(">BBQ", first, bit | 127, size)
    if not masked:
        return head + content
    mask = os.urandom(4)
    return head + mask + bytes(b ^ mask[n % 4] for n, b in enumerate(content))


def scan(stream: bytes, size: int, bound: int = MAX_MESSAGE_BYTES) -> tuple[list[Message], int]:
    scanner = FrameScanner(bound)
    messages = []
    for start in range(0, len(stream), size):
        messages += scanner.feed(stream[start : start + size])
    assert not scanner.broken
    return messages, scanner.partial


class TestFrames:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 10**7])
    @pytest.mark.parametrize("masked", [False, True])
    def test_every_length_in_every_split(self, size: int, masked: bool) -> None:
        contents = [b"", b"x", b"y" * 125, b"z" * 126, os.urandom(300)]
        if size > 3:
            contents += [b"w" * 65_535, b"v" * 65_536]
        stream = b"".join(frame(c, masked=masked) for c in contents)
        messages, partial = scan(stream, size)
        assert messages == [Message(TEXT, len(c), c) for c in contents]
        assert partial == 0

    @pytest.mark.parametrize("size", [1, 5, 10_000])
    def test_fragments_are_joined_around_control_frames(self, size: int) -> None:
        stream = (
            frame(b"ab", BINARY, final=False, masked=True)
            + frame(b"ping", 0x9)
            + frame(b"", 0, final=False)
            + frame(b"cd", 0, masked=True)
            + frame(b"\x03\xe8", CLOSE)
        )
        messages, partial = scan(stream, size)
        assert messages == [
            Message(0x9, 0, b""),
            Message(BINARY, 4, b"abcd"),
            Message(CLOSE, 0, b""),
        ]
        assert partial == 0

    def test_a_message_over_the_bound_is_only_measured(self) -> None:
        stream = frame(b"x" * 50, final=False) + frame(b"y" * 60, 0) + frame(b"z" * 100)
        messages, _ = scan(stream, 7, bound=100)
        assert messages == [Message(TEXT, 110, None), Message(TEXT, 100, b"z" * 100)]

    def test_memory_stays_bounded(self) -> None:
        scanner = FrameScanner(1000)
        scanner.feed(struct.pack(">BBQ", 0x81, 127, 2**40))
        for _ in range(1000):
            assert scanner.feed(b"x" * 10_000) == []
        assert sum(map(len, scanner._pieces)) <= 1000

    def test_partial_counts_from_the_last_whole_message(self) -> None:
        scanner = FrameScanner()
        scanner.feed(frame(b"whole") + frame(b"ab", final=False) + frame(b"ping", 0x9)[:3])
        assert scanner.partial == len(frame(b"ab")) + 3
        scanner.feed(frame(b"ping", 0x9)[3:] + frame(b"end", 0))
        assert scanner.partial == 0

    @pytest.mark.parametrize(
        "stream",
        [
            frame(b"x", rsv=0x40),
            frame(b"x", 0x3),
            frame(b"x", 0),
            frame(b"x", final=False) + frame(b"y"),
            frame(b"x" * 126, 0x9),
            frame(b"x", 0x9, final=False),
            b"HTTP/1.1 200 OK\r\n\r\n",
        ],
    )
    def test_what_is_no_websocket_breaks_it_for_good(self, stream: bytes) -> None:
        scanner = FrameScanner()
        scanner.feed(stream)
        assert scanner.broken
        assert scanner.feed(frame(b"x")) == []

    @pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
    def test_what_we_write_reads_back(self, size: int) -> None:
        stream = text_frame(b"x" * size) + close_frame("r" * 500)
        messages, partial = scan(stream, 10_000)
        assert messages == [Message(TEXT, size, b"x" * size), Message(CLOSE, 0, b"")]
        assert partial == 0


USAGE = {
    "input_tokens": 10,
    "output_tokens": 7,
    "input_token_details": {"audio_tokens": 4, "cached_tokens": 2},
    "output_token_details": {"audio_tokens": 6},
}
ONE = TokenUsage(10, 7, cached_input_tokens=2, audio_input_tokens=4, audio_output_tokens=6)


def say(**event: object) -> bytes:
    return frame(json.dumps(event).encode())


def done() -> bytes:
    return say(type="response.done", response={"usage": USAGE})


def text(delta: str) -> bytes:
    return say(type="response.output_text.delta", item_id="i", delta=delta)


def session(*frames: bytes) -> SessionMeter:
    meter = SessionMeter("gpt-realtime", lambda _: Words())
    for one in frames:
        assert meter.feed(one, end=False) is None
    return meter


class TestSession:
    def test_usage_is_summed(self) -> None:
        reading = session(text("a b"), done(), text("c"), done()).reading()
        assert reading.reported == TokenUsage(20, 14, 4, 0, 8, 12)
        assert not reading.complete

    def test_a_session_without_a_response_costs_nothing(self) -> None:
        assert session(say(type="session.created")).reading().reported == TokenUsage()

    def test_a_close_completes_it(self) -> None:
        assert session(done(), frame(b"\x03\xe8", CLOSE)).reading().complete

    def test_an_unfinished_response_comes_on_top(self) -> None:
        reading = session(done(), text("one tw"), text("o three")).reading()
        assert (reading.reported, reading.so_far) == (None, ONE)
        assert (reading.output_tokens, reading.exact) == (3, True)

    def test_unfinished_sound_is_estimated_by_its_length(self) -> None:
        second = "A" * (48_000 * 4 // 3)
        meter = session(say(type="response.output_audio.delta", delta=second))
        assert (meter.reading().output_tokens, meter.reading().exact) == (20, False)
        meter.feed(done(), end=False)
        assert meter.reading().reported == ONE

    @pytest.mark.parametrize(
        ("usage", "tokens"),
        [
            ({"type": "tokens", "input_tokens": 5, "output_tokens": 3}, TokenUsage(5, 3)),
            ({"type": "duration", "seconds": 4}, TokenUsage(40, 0, audio_input_tokens=40)),
            ({"type": "duration", "seconds": True}, TokenUsage()),
            (None, TokenUsage()),
        ],
    )
    def test_transcriptions_are_charged_besides(self, usage: object, tokens: TokenUsage) -> None:
        kind = "conversation.item.input_audio_transcription.completed"
        assert session(say(type=kind, usage=usage)).reading().reported == tokens

    def test_volume_grows_with_what_is_used(self) -> None:
        meter = session()
        seen = [meter.volume]
        for one in (text("some words"), done(), done()):
            meter.feed(one, end=False)
            seen.append(meter.volume)
        assert seen == sorted(set(seen))

    def test_what_can_not_be_read_is_taken_by_size(self) -> None:
        meter = session(frame(b"x" * 400, rsv=0x40))
        assert meter.reading().output_tokens == 100
        assert not meter.reading().exact
        big = session(frame(b"x" * (MAX_MESSAGE_BYTES + 4)))
        assert big.reading().output_tokens == MAX_MESSAGE_BYTES // 4 + 1

    @pytest.mark.parametrize(
        "odd",
        [
            frame(b"not json"),
            frame(b"[]"),
            frame(b"\xff", BINARY),
            say(type=5),
            say(type="response.done"),
            say(type="response.done", response={"usage": {"input_tokens": -1}}),
            say(type="response.output_text.delta", delta=5),
        ],
    )
    def test_odd_messages_are_passed_over(self, odd: bytes) -> None:
        assert session(odd).reading().reported == TokenUsage()

    def test_the_cut_is_a_message_and_a_close(self) -> None:
        messages, _ = scan(Realtime().cut("No room."), 1000)
        assert [m.opcode for m in messages] == [TEXT, CLOSE]
        assert messages[0].content is not None
        event = json.loads(messages[0].content)
        assert (event["type"], event["error"]["code"]) == ("error", "limit_exhausted")


@pytest.mark.parametrize(
    ("target", "model"),
    [
        ("/v1/realtime?model=gpt-realtime-mini", "gpt-realtime-mini"),
        ("/v1/realtime?intent=transcription", "gpt-realtime"),
        ("/v1/realtime?model=a%20b", "a b"),
    ],
)
def test_the_model_is_in_the_query(target: str, model: str) -> None:
    plan = Realtime().plan_head(Head(target))
    assert (plan.model, plan.endless) == (model, True)


@pytest.mark.parametrize("query", ["model=a&model=b", "model=%00", "model=" + "x" * 300])
def test_a_model_that_can_not_be_told(query: str) -> None:
    with pytest.raises(InvalidRequest):
        Realtime().plan_head(Head("/v1/realtime?" + query))
