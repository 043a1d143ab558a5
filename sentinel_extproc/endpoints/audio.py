"""``POST /v1/audio/speech``, ``/transcriptions`` and ``/translations``. Pure.

Speech: the text is counted; its sound is reserved, and settled, by the text's length. Recordings:
10 tokens a second, the seconds by size and rate until the answer tells them or the tokens.
"""

from __future__ import annotations

import math
from typing import Any

from msgspec import structs

from sentinel_extproc.endpoints import json_body
from sentinel_extproc.endpoints.audio_length import OUT_PER_SECOND, input_tokens, seconds_of
from sentinel_extproc.endpoints.base import OpenAIEndpoint
from sentinel_extproc.endpoints.contract import (
    NO_HEAD,
    CounterFactory,
    CountRequest,
    Head,
    Meter,
    Plan,
    Reading,
)
from sentinel_extproc.endpoints.events import ConstantReader, EventMeter
from sentinel_extproc.endpoints.form import FormEndpoint, form_model, read_form
from sentinel_extproc.endpoints.meters import FixedMeter, JsonMeter, Whole, text_of
from sentinel_extproc.endpoints.multipart import FormScanner
from sentinel_extproc.endpoints.provider_usage import read_sound_usage, read_usage
from sentinel_extproc.endpoints.texts import Texts
from sentinel_extproc.errors import InvalidRequest
from sentinel_extproc.usage.record import TokenUsage

_CHARS_PER_SECOND = 15
"""English read aloud at 150 to 160 words a minute."""

_SLOWEST = 0.25
"""OpenAI's least ``speed``."""

_MAX_SECONDS = 1e7  # more than any recording; keeps a bill sane whatever the provider says


class Speech(OpenAIEndpoint):
    """Rules for speech."""

    name = "audio.speech"

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:  # noqa: ARG002
        request = json_body.parse_object(body)
        assert body is not None  # noqa: S101 - parse_object refuses an absent body
        model = json_body.model_name(request)
        text = request.get("input")
        if not isinstance(text, str) or not text:
            raise InvalidRequest("'input' must be a non-empty string.", param="input")
        instructions = text_of(request.get("instructions"))
        texts = [text, instructions] if instructions else [text]
        seconds = len(text) / _CHARS_PER_SECOND / _speed(request.get("speed"))
        return Plan(
            endpoint=self.name,
            model=model,
            count=CountRequest("embeddings", {"model": model, "input": texts}, len(body)),
            output_cap=math.ceil(seconds * OUT_PER_SECOND),
            unwatched=request.get("stream_format") != "sse",
        )

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:  # noqa: ARG002
        if event_stream:
            return EventMeter(ConstantReader(plan.output_cap or 0, read_sound_usage), by_size=False)
        return FixedMeter(plan.output_cap or 0)


class Recordings(FormEndpoint):
    """Rules for what takes a recording and answers text."""

    def __init__(self, name: str) -> None:
        self.name = name

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:
        scanned = read_form(body, head)
        model = json_body.model_name(scanned.fields)
        recordings = [file for file in scanned.files if file.name == "file"]
        if len(recordings) != 1:
            raise InvalidRequest("'file' must be one recording.", param="file")
        seconds = seconds_of(recordings[0].head, recordings[0].size)
        return Plan(endpoint=self.name, model=model, input_tokens=input_tokens(seconds))

    def unseen(self, size: int, upload: FormScanner) -> Plan:
        return Plan(
            endpoint=self.name,
            model="",
            input_tokens=input_tokens(seconds_of(b"", size)),
            upload=upload,
        )

    def refined(self, plan: Plan) -> Plan:
        if not isinstance(plan.upload, FormScanner):
            return plan
        form = plan.upload.form
        plan = structs.replace(plan, model=form_model(form))
        if form.unclear or not form.complete or len(form.files) != 1:
            return plan
        seconds = seconds_of(form.files[0].head, form.files[0].size)
        return structs.replace(plan, input_tokens=input_tokens(seconds))

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:
        if event_stream:
            return EventMeter(_TranscriptReader(plan.model, counters))
        return JsonMeter(plan.model, counters, read_transcript)


def read_transcript(answer: dict[str, Any]) -> Whole:
    """Read a whole transcript or translation."""
    reported, so_far = _sound_usage(answer)
    text = text_of(answer.get("text"))
    return Whole(reported, [("text", text)] if text else [], so_far=so_far)


class _TranscriptReader:
    def __init__(self, model: str, counters: CounterFactory) -> None:
        self._texts = Texts(model, counters)
        self._reported: TokenUsage | None = None
        self._so_far: TokenUsage | None = None
        self._failed = False

    @property
    def volume(self) -> int:
        return self._texts.volume

    @property
    def waiting(self) -> int:
        return self._texts.waiting

    def read(self, event: dict[str, Any]) -> None:
        if text := text_of(event.get("delta")):
            self._texts.add("text", text)
        if "usage" in event:
            self._reported, self._so_far = _sound_usage(event)
        self._failed = self._failed or isinstance(event.get("error"), dict)

    def reading(self) -> Reading:
        return Reading(
            reported=self._reported,
            so_far=self._so_far,
            output_tokens=self._texts.total(),
            exact=self._texts.exact,
            failed=self._failed,
        )


def _sound_usage(answer: dict[str, Any]) -> tuple[TokenUsage | None, TokenUsage | None]:
    """The tokens that an answer reports, or else what its seconds make."""
    usage = answer.get("usage")
    if (reported := read_usage(usage)) is not None:
        return reported, None
    seconds = usage.get("seconds") if isinstance(usage, dict) else answer.get("duration")
    if isinstance(seconds, str):  # as verbose_json had it once
        try:
            seconds = float(seconds)
        except ValueError:
            return None, None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None, None
    if not 0 <= seconds <= _MAX_SECONDS:
        return None, None
    tokens = input_tokens(seconds)
    return None, TokenUsage(input_tokens=tokens, audio_input_tokens=tokens)


def _speed(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 1.0
    return min(1.0, max(_SLOWEST, value))
