"""Images: constants by size and quality, forms and streams."""

from __future__ import annotations

import json

import pytest

from sentinel_extproc.endpoints import image_tokens
from sentinel_extproc.endpoints.contract import Head
from sentinel_extproc.endpoints.form import MAX_KEPT_BYTES
from sentinel_extproc.endpoints.images import Images
from sentinel_extproc.errors import InvalidRequest, LengthRequired
from sentinel_extproc.sse import MAX_EVENT_BYTES
from sentinel_extproc.tokens.model import OutputCounter
from sentinel_extproc.usage.record import TokenUsage

GENERATIONS = Images("images.generations", given=False)
EDITS = Images("images.edits", given=True)
FORM = "multipart/form-data; boundary=XX"
USAGE = {
    "input_tokens": 432,
    "input_tokens_details": {"image_tokens": 388, "text_tokens": 44},
    "output_tokens": 4160,
    "output_tokens_details": {"image_tokens": 4160},
}
REPORTED = TokenUsage(432, 4160, image_input_tokens=388, image_output_tokens=4160)


def no_text(model: str) -> OutputCounter:
    raise AssertionError(f"a counter for {model} was asked for")


def encode(**fields: object) -> bytes:
    return json.dumps({"model": "gpt-image-1", "prompt": "a cat"} | fields).encode()


def form(images: int = 1, **fields: str) -> bytes:
    parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts += [('name="image[]"; filename="a.png"', b"\x89PNG")] * images
    return (
        b"".join(
            f"--XX\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"
            for head, value in parts
        )
        + b"--XX--\r\n"
    )


@pytest.mark.parametrize(
    ("size", "quality", "tokens"),
    [
        ("1024x1024", "low", 272),
        ("1024x1024", "medium", 1056),
        ("1024x1024", "high", 4160),
        ("1024x1536", "low", 408),
        ("1024x1536", "high", 6240),
        ("auto", "auto", 6240),
        ("", "", 6240),
        ("0x5", "high", 6240),
        ("99999x99999", "high", 66_560),
        ("256x256", "medium", 66),
    ],
)
def test_constants(size: str, quality: str, tokens: int) -> None:
    assert image_tokens.made(size, quality) == tokens


def test_given_images() -> None:
    assert image_tokens.given("high") > image_tokens.given("low") >= 194


class TestRequest:
    @pytest.mark.parametrize(
        ("fields", "cap"),
        [
            ({"size": "1024x1024", "quality": "high"}, 4160),
            ({"size": "1024x1024", "quality": "low", "n": 4}, 4 * 272),
            ({"size": "1024x1024", "quality": "low", "partial_images": 2, "stream": True}, 472),
            ({}, 6240),
        ],
    )
    def test_every_image_is_reserved(self, fields: dict[str, object], cap: int) -> None:
        plan = GENERATIONS.plan(encode(**fields))
        assert plan.output_cap == cap
        assert plan.count is not None
        assert plan.count.body["input"] == "a cat"
        assert plan.input_tokens == image_tokens.PROMPT

    @pytest.mark.parametrize(
        "fields", [{"n": 11}, {"n": "2"}, {"prompt": 5}, {"model": ""}, {"partial_images": 4}]
    )
    def test_bad_requests(self, fields: dict[str, object]) -> None:
        with pytest.raises(InvalidRequest):
            GENERATIONS.plan(encode(**fields))

    def test_generations_come_as_json_only_and_are_read_whole(self) -> None:
        assert GENERATIONS.plan_head(Head("/", "application/json", 10**9)) is None
        with pytest.raises(InvalidRequest):
            GENERATIONS.plan(form(), Head("/", FORM, 100))

    def test_a_small_form(self) -> None:
        head = Head("/", FORM, 1000)
        assert EDITS.plan_head(head) is None
        body = form(2, model="gpt-image-1", prompt="x", n="2", size="1024x1024", quality="low")
        plan = EDITS.plan(body, head)
        assert (plan.model, plan.output_cap) == ("gpt-image-1", 544)
        assert plan.input_tokens == image_tokens.PROMPT + 2 * image_tokens.given("")
        assert EDITS.plan(form(prompt="x"), head).model == "dall-e-2"

    def test_an_edit_as_json(self) -> None:
        assert EDITS.plan_head(Head("/", "application/json", 10**6)) is None
        plan = EDITS.plan(encode(images=[{"file_id": "a"}, {"file_id": "b"}]), Head("/", "", 10))
        assert plan.input_tokens == image_tokens.PROMPT + 2 * image_tokens.given("")

    @pytest.mark.parametrize("n", ["0", "11", "x", "-1", "1.5", "9" * 5000, "²"])
    def test_bad_numbers_in_a_form(self, n: str) -> None:
        with pytest.raises(InvalidRequest):
            EDITS.plan(form(prompt="x", n=n), Head("/", FORM, 1000))

    def test_a_large_form_is_decided_on_at_once_and_told_apart_while_it_flows(self) -> None:
        plan = EDITS.plan_head(Head("/", FORM, MAX_KEPT_BYTES + 1))
        assert plan is not None
        assert plan.upload is not None
        assert plan.output_cap == 6240
        plan.upload.feed(form(3, model="gpt-image-1", n="2", quality="low", size="1024x1024"))
        refined = EDITS.refined(plan)
        assert (refined.model, refined.output_cap) == ("gpt-image-1", 544)
        assert refined.input_tokens == image_tokens.PROMPT + 3 * image_tokens.given("")

    def test_a_large_form_with_bad_numbers_still_has_an_estimate(self) -> None:
        plan = EDITS.plan_head(Head("/", FORM, MAX_KEPT_BYTES + 1))
        assert plan is not None
        assert plan.upload is not None
        plan.upload.feed(form(n="junk", size="1024x1024", quality="low"))
        assert EDITS.refined(plan).output_cap == 272

    def test_a_form_without_a_length(self) -> None:
        with pytest.raises(LengthRequired):
            EDITS.plan_head(Head("/", FORM, None))


class TestAnswer:
    def test_usage_behind_megabytes_of_pixels(self) -> None:
        meter = GENERATIONS.meter(GENERATIONS.plan(encode()), event_stream=False, counters=no_text)
        answer = json.dumps({"data": [{"b64_json": "A" * 3_000_000}], "usage": USAGE}).encode()
        for start in range(0, len(answer), 16_384):
            meter.feed(answer[start : start + 16_384], end=False)
        assert meter.reading().reported == REPORTED

    def test_models_that_report_nothing_cost_what_was_reserved(self) -> None:
        plan = GENERATIONS.plan(encode(model="dall-e-3", quality="hd", size="1024x1024", n=1))
        meter = GENERATIONS.meter(plan, event_stream=False, counters=no_text)
        meter.feed(b'{"created":1,"data":[{"url":"https://x"}]}', end=True)
        assert (meter.reading().reported, meter.reading().output_tokens) == (None, 4160)

    @pytest.mark.parametrize("pixels", [1000, MAX_EVENT_BYTES + 5000])
    def test_a_stream(self, pixels: int) -> None:
        plan = GENERATIONS.plan(encode(stream=True, partial_images=1))
        meter = GENERATIONS.meter(plan, event_stream=True, counters=no_text)
        partial = {"type": "image_generation.partial_image", "b64_json": "A" * pixels}
        done = {"type": "image_generation.completed", "b64_json": "A" * pixels, "usage": USAGE}
        meter.feed(b"data: " + json.dumps(partial).encode() + b"\n\n", end=False)
        assert meter.reading().output_tokens == plan.output_cap
        stream = b"data: " + json.dumps(done).encode() + b"\n\n"
        for start in range(0, len(stream), 65_536):
            assert meter.feed(stream[start : start + 65_536], end=False) is None
        assert meter.reading().reported == REPORTED

    def test_a_failed_stream_is_free(self) -> None:
        plan = GENERATIONS.plan(encode(stream=True))
        meter = GENERATIONS.meter(plan, event_stream=True, counters=no_text)
        meter.feed(b'data: {"type":"error","error":{"message":"no"}}\n\n', end=True)
        assert meter.reading().failed
        assert meter.reading().output_tokens == 0
