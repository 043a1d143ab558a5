"""Speech and recordings."""

from __future__ import annotations

import json
import struct

import pytest

from sentinel_extproc.endpoints.audio import Recordings, Speech, read_transcript
from sentinel_extproc.endpoints.audio_length import SLOWEST_BYTES, input_tokens, seconds_of
from sentinel_extproc.endpoints.contract import Head, Meter
from sentinel_extproc.endpoints.form import MAX_KEPT_BYTES
from sentinel_extproc.errors import InvalidRequest, LengthRequired
from sentinel_extproc.usage.record import TokenUsage

TRANSCRIPTIONS = Recordings("audio.transcriptions")
FORM = "multipart/form-data; boundary=XX"
SMALL = Head("/v1/audio/transcriptions", FORM, 1000)
LARGE = Head("/v1/audio/transcriptions", FORM, MAX_KEPT_BYTES + 1)


class Words:
    def __init__(self) -> None:
        self.text = ""

    def feed(self, text: str) -> None:
        self.text += text

    def total(self) -> int:
        return len(self.text.split())


def wav(byte_rate: int, size: int) -> bytes:
    head = b"RIFF" + bytes(4) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 0, byte_rate, 2, 16)
    return head + bytes(size - len(head))


def form(sound: bytes, model: str | None = "whisper-1", name: str = "file") -> bytes:
    body = b""
    if model is not None:
        body = f'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'.encode()
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'
    return body + head.encode() + sound + b"\r\n--XX--\r\n"


def meter(*, streamed: bool = False) -> Meter:
    plan = TRANSCRIPTIONS.plan(form(b"x"), SMALL)
    return TRANSCRIPTIONS.meter(plan, event_stream=streamed, counters=lambda _: Words())


class TestLength:
    @pytest.mark.parametrize(
        ("head", "size", "seconds"),
        [
            (wav(32_000, 44), 320_000, 10),
            (wav(1, 44), 8_000, 8_000 / SLOWEST_BYTES),
            (wav(2**31, 44), 8_000, 8_000 / SLOWEST_BYTES),
            (b"\xff\xfb\x90\x00", 160_000, 10),
            (b"\xff\xf3\x60\x00", 60_000, 10),
            (b"\xff\xfb\xf0\x00", 40_000, 10),
            (b"\xff\xfb\x00\x00", 40_000, 10),
            (b"OggS", 40_000, 10),
            (b"", 0, 0),
        ],
    )
    def test_by_rate_if_it_is_told_else_by_the_slowest(
        self, head: bytes, size: int, seconds: float
    ) -> None:
        assert seconds_of(head, size) == seconds

    def test_started_seconds_count(self) -> None:
        assert input_tokens(1.01) == 11


class TestSpeech:
    def encode(self, **fields: object) -> bytes:
        return json.dumps({"model": "tts-1", "voice": "v", "input": "x" * 150} | fields).encode()

    @pytest.mark.parametrize(
        ("fields", "cap"),
        [({}, 200), ({"speed": 0.5}, 400), ({"speed": 4}, 200), ({"speed": 0}, 800)],
    )
    def test_sound_is_reserved_by_the_texts_length(
        self, fields: dict[str, object], cap: int
    ) -> None:
        plan = Speech().plan(self.encode(instructions="softly", **fields))
        assert plan.output_cap == cap
        assert plan.count is not None
        assert plan.count.body["input"] == ["x" * 150, "softly"]

    def test_bytes_of_sound_change_nothing(self) -> None:
        plan = Speech().plan(self.encode())
        assert plan.unwatched
        one = Speech().meter(plan, event_stream=False, counters=lambda _: Words())
        one.feed(b"\x00" * 100_000, end=True)
        assert one.reading().output_tokens == 200

    def test_a_stream_of_events_reports(self) -> None:
        plan = Speech().plan(self.encode(stream_format="sse"))
        assert not plan.unwatched
        one = Speech().meter(plan, event_stream=True, counters=lambda _: Words())
        one.feed(b'data: {"type":"speech.audio.delta","audio":"QUJD"}\n\n', end=False)
        assert one.reading().output_tokens == 200
        done = {"type": "speech.audio.done", "usage": {"input_tokens": 3, "output_tokens": 101}}
        one.feed(b"data: " + json.dumps(done).encode() + b"\n\n", end=True)
        assert one.reading().reported == TokenUsage(3, 101, audio_output_tokens=101)

    @pytest.mark.parametrize("text", [None, "", 5, ["x"]])
    def test_no_text(self, text: object) -> None:
        with pytest.raises(InvalidRequest):
            Speech().plan(self.encode(input=text))


class TestRecordings:
    def test_a_small_form_is_read_before_the_decision(self) -> None:
        assert TRANSCRIPTIONS.plan_head(SMALL) is None
        plan = TRANSCRIPTIONS.plan(form(wav(32_000, 64_000)), SMALL)
        assert (plan.model, plan.input_tokens, plan.output_cap) == ("whisper-1", 20, None)

    def test_a_large_one_is_decided_on_by_size_and_told_apart_while_it_flows(self) -> None:
        head = Head(LARGE.target, FORM, 4_000_000)
        plan = TRANSCRIPTIONS.plan_head(head)
        assert plan is not None
        assert plan.upload is not None
        assert (plan.model, plan.input_tokens) == ("", 10_000)
        body = form(wav(32_000, 3_200_000))
        plan.upload.feed(body[:1000])
        assert TRANSCRIPTIONS.refined(plan).model == "whisper-1"
        assert TRANSCRIPTIONS.refined(plan).input_tokens == 10_000
        plan.upload.feed(body[1000:])
        assert TRANSCRIPTIONS.refined(plan).input_tokens == 1_000

    @pytest.mark.parametrize(
        "body", [b"junk", form(b"x", "m" * 300), form(b"x", "a\x01b"), form(b"x")[:60]]
    )
    def test_a_large_one_that_is_odd_keeps_its_estimate(self, body: bytes) -> None:
        plan = TRANSCRIPTIONS.plan_head(LARGE)
        assert plan is not None
        assert plan.upload is not None
        plan.upload.feed(body)
        assert TRANSCRIPTIONS.refined(plan).model == ""

    def test_without_a_length_it_is_refused(self) -> None:
        with pytest.raises(LengthRequired) as caught:
            TRANSCRIPTIONS.plan_head(Head("/", FORM, None))
        assert caught.value.status == 411

    @pytest.mark.parametrize("kind", ["application/json", "", "multipart/form-data"])
    def test_what_is_no_form_is_refused(self, kind: str) -> None:
        with pytest.raises(InvalidRequest):
            TRANSCRIPTIONS.plan_head(Head("/", kind, 10))

    @pytest.mark.parametrize("body", [form(b"x", None), form(b"x", " "), form(b"x", name="other")])
    def test_missing_fields(self, body: bytes) -> None:
        with pytest.raises(InvalidRequest):
            TRANSCRIPTIONS.plan(body, SMALL)


class TestTranscript:
    def test_tokens(self) -> None:
        usage = {"input_tokens": 14, "input_token_details": {"audio_tokens": 9}, "output_tokens": 5}
        whole = read_transcript({"text": "one two", "usage": usage | {"type": "tokens"}})
        assert whole.reported == TokenUsage(14, 5, audio_input_tokens=9)

    @pytest.mark.parametrize(
        "answer",
        [
            {"usage": {"type": "duration", "seconds": 4}},
            {"duration": 3.95},
            {"duration": "3.95"},
        ],
    )
    def test_seconds(self, answer: dict[str, object]) -> None:
        one = meter()
        one.feed(json.dumps({"text": "one two"} | answer).encode(), end=True)
        reading = one.reading()
        assert reading.reported is None
        assert reading.so_far == TokenUsage(40, 0, audio_input_tokens=40)
        assert (reading.output_tokens, reading.exact) == (2, True)

    @pytest.mark.parametrize(
        "answer",
        [
            {},
            {"duration": -1},
            {"duration": 1e300},
            {"duration": True},
            {"usage": {"seconds": "x"}},
        ],
    )
    def test_no_usable_length(self, answer: dict[str, object]) -> None:
        assert read_transcript(answer).so_far is None

    def test_subtitles_are_taken_by_size(self) -> None:
        one = meter()
        one.feed(b"1\n00:00:00,000 --> 00:00:03,000\nHello\n", end=True)
        assert one.reading().output_tokens == 10
        assert not one.reading().exact

    def test_a_stream(self) -> None:
        one = meter(streamed=True)
        one.feed(b'data: {"type":"transcript.text.delta","delta":"one two"}\n\n', end=False)
        assert (one.reading().output_tokens, one.reading().exact, one.volume) == (2, True, 7)
        done = {"type": "transcript.text.done", "usage": {"input_tokens": 14, "output_tokens": 5}}
        one.feed(b"data: " + json.dumps(done).encode() + b"\n\n", end=True)
        assert one.reading().reported == TokenUsage(14, 5)
