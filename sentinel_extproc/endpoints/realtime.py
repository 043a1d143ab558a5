"""``GET /v1/realtime``: a WebSocket whose answers are counted as they pass. Pure.

Reserved: the default output, to begin with; the hold then follows what the session uses, and the
session is ended when it can't. Settled: the sum of every response's reported usage, and of every
transcription's. Compression is refused on the client's behalf, since it would hide the messages.
"""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import parse_qs

from sentinel_extproc.endpoints.audio_length import OUT_PER_SECOND, input_tokens
from sentinel_extproc.endpoints.base import OpenAIEndpoint
from sentinel_extproc.endpoints.contract import (
    NO_HEAD,
    CounterFactory,
    Head,
    Meter,
    Plan,
    Reading,
)
from sentinel_extproc.endpoints.cut import realtime_error
from sentinel_extproc.endpoints.json_body import model_name
from sentinel_extproc.endpoints.meters import text_of, tokens_by_size
from sentinel_extproc.endpoints.provider_usage import added, decode, read_usage
from sentinel_extproc.endpoints.texts import Texts
from sentinel_extproc.endpoints.websocket import CLOSE, TEXT, FrameScanner, close_frame, text_frame
from sentinel_extproc.errors import InvalidRequest
from sentinel_extproc.usage.record import TokenUsage

_PCM_BYTES_PER_SECOND = 48_000
"""16 bit at 24 kHz, the API's default; in base64 that is a third more."""

_DEFAULT_MODEL = "gpt-realtime"
"""For sessions whose model isn't in the URL; transcriptions name theirs in a message."""

_CHARS_PER_TOKEN = 4
_MAX_SECONDS = 1e5  # a day and more; sessions end after an hour


class Realtime(OpenAIEndpoint):
    """Rules for realtime sessions."""

    name = "realtime"
    upgrades = True
    key_header = "sec-websocket-protocol"
    drop_headers: tuple[str, ...] = ("sec-websocket-extensions",)

    def plan_head(self, head: Head) -> Plan:
        named = parse_qs(head.target.partition("?")[2]).get("model", [_DEFAULT_MODEL])
        if len(named) > 1:
            raise InvalidRequest("'model' is given twice.", param="model")
        return Plan(endpoint=self.name, model=model_name({"model": named[0]}), endless=True)

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:  # noqa: ARG002
        return self.plan_head(head)

    def cut(self, message: str) -> bytes:
        return text_frame(realtime_error(message)) + close_frame(message)

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:  # noqa: ARG002
        return SessionMeter(plan.model, counters)


class SessionMeter:
    """Reads the provider's messages of one session."""

    rewrites = False
    held = b""
    finished = False

    def __init__(self, model: str, counters: CounterFactory) -> None:
        self._scanner = FrameScanner()
        self._sum = TokenUsage()
        self._texts = Texts(model, counters)
        self._sound = 0
        self._unread = 0
        self._closed = False

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:  # noqa: ARG002
        for message in self._scanner.feed(chunk):
            if message.content is None:
                self._unread += message.size
            elif message.opcode == CLOSE:
                self._closed = True
            elif message.opcode == TEXT:
                event = decode(message.content)
                if isinstance(event, dict):
                    self._read(event)
        return None

    @property
    def partial(self) -> int:
        return self._scanner.partial

    @property
    def volume(self) -> int:
        known = self._sum.input_tokens + self._sum.output_tokens + self._sounding()
        return known * _CHARS_PER_TOKEN + self._texts.volume

    @property
    def waiting(self) -> int:
        return self._texts.waiting

    def reading(self) -> Reading:
        unread = self._unread + self._scanner.unread
        open_tokens = self._texts.total() + self._sounding() + tokens_by_size(unread)
        if not open_tokens:
            return Reading(reported=self._sum, complete=self._closed)
        return Reading(
            so_far=self._sum,
            output_tokens=open_tokens,
            exact=self._texts.exact and not self._sound and not unread,
            complete=self._closed,
        )

    def _sounding(self) -> int:
        return math.ceil(self._sound * 3 / 4 / _PCM_BYTES_PER_SECOND * OUT_PER_SECOND)

    def _read(self, event: dict[str, Any]) -> None:
        kind = text_of(event.get("type"))
        if kind == "response.done":
            response = event.get("response")
            usage = read_usage(response.get("usage")) if isinstance(response, dict) else None
            if usage is not None:
                self._sum = added(self._sum, usage)
                self._texts.clear()
                self._sound = 0
        elif kind == "conversation.item.input_audio_transcription.completed":
            self._sum = added(self._sum, _transcription(event.get("usage")))
        elif kind.startswith("response.") and kind.endswith(".delta"):
            delta = text_of(event.get("delta"))
            if kind.endswith("audio.delta"):
                self._sound += len(delta)
            elif delta:
                self._texts.add(f"{kind} {event.get('item_id')}", delta)


def _transcription(usage: Any) -> TokenUsage:
    if (reported := read_usage(usage)) is not None:
        return reported
    seconds = usage.get("seconds") if isinstance(usage, dict) else None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return TokenUsage()
    tokens = input_tokens(min(max(0, seconds), _MAX_SECONDS))
    return TokenUsage(input_tokens=tokens, audio_input_tokens=tokens)
