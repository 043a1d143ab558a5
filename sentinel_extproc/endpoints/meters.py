"""Meters for answers: whole JSON, event streams, and bytes that can't be read. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from sentinel_extproc.endpoints.contract import CounterFactory, Reading
from sentinel_extproc.endpoints.provider_usage import decode, read_usage
from sentinel_extproc.sse import Event, Scanner
from sentinel_extproc.tokens.model import OutputCounter
from sentinel_extproc.usage.record import TokenUsage

MAX_JSON_BYTES = 16 << 20
"""An unstreamed answer is read whole up to here; image answers in base64 fit."""

BYTES_PER_TOKEN = 4
"""English text in UTF-8, for answers that can't be read; such usage is marked as estimated."""

_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,')
_MAX_CHOICES = 256


def tokens_by_size(size: int) -> int:
    """Tokens in ``size`` bytes of text, rounded up."""
    return math.ceil(size / BYTES_PER_TOKEN)


class OpaqueMeter:
    """Only counts bytes: compressed or otherwise unreadable answers."""

    rewrites = False
    volume = 0
    partial = 0

    def __init__(self) -> None:
        self._size = 0

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:  # noqa: ARG002
        self._size += len(chunk)
        return None

    @property
    def held(self) -> bytes:
        return b""

    def reading(self) -> Reading:
        return Reading(output_tokens=tokens_by_size(self._size))


class JsonMeter:
    """Keeps one JSON answer up to a bound and reads it when asked."""

    rewrites = False
    volume = 0
    partial = 0

    def __init__(
        self, model: str, counters: CounterFactory, *, max_bytes: int = MAX_JSON_BYTES
    ) -> None:
        self._model = model
        self._counters = counters
        self._max = max_bytes
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:  # noqa: ARG002
        self._size += len(chunk)
        if self._size <= self._max:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()
        return None

    @property
    def held(self) -> bytes:
        return b""

    def reading(self) -> Reading:
        answer = decode(b"".join(self._chunks)) if self._size <= self._max else None
        if not isinstance(answer, dict):
            return Reading(output_tokens=tokens_by_size(self._size))
        reported = read_usage(answer.get("usage"))
        texts = {} if reported else _collect(_generated(answer, "message"))
        return Reading(
            reported=reported,
            output_tokens=sum(_count(self._counters, self._model, t) for t in texts.values()),
            exact=bool(texts),
            model_served=_text(answer.get("model")) or None,
            failed=isinstance(answer.get("error"), dict),
        )


class StreamMeter:
    """Reads an event stream of chat chunks while it flows.

    Args:
        hide_usage: take out the usage chunk, and the null ``usage`` of all other chunks, which
            are there only because we asked for them.
    """

    def __init__(self, model: str, counters: CounterFactory, *, hide_usage: bool) -> None:
        self.rewrites = hide_usage
        self._model = model
        self._counters = counters
        self._scanner = Scanner()
        self._texts: dict[str, OutputCounter] = {}
        self._reported: TokenUsage | None = None
        self._served: str | None = None
        self._failed = False
        self._unread_bytes = 0
        self.volume = 0

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:
        events = self._scanner.feed(chunk)
        if end:
            events += self._scanner.close()
        if not self.rewrites:
            for event in events:
                self._read(event)
            return None
        return b"".join(self._shown(event) for event in events)

    @property
    def held(self) -> bytes:
        return self._scanner.held if self.rewrites else b""

    @property
    def partial(self) -> int:
        return 0 if self.rewrites else len(self._scanner.held)

    def reading(self) -> Reading:
        return Reading(
            reported=self._reported,
            output_tokens=sum(counter.total() for counter in self._texts.values())
            + tokens_by_size(self._unread_bytes),
            exact=not self._unread_bytes,
            model_served=self._served,
            failed=self._failed,
        )

    def _shown(self, event: Event) -> bytes:
        chunk = self._read(event)
        if chunk is None or "usage" not in chunk or event.data is None:
            return event.raw
        if isinstance(chunk["usage"], dict):
            if not chunk.get("choices"):
                return b""
            return _without_usage(chunk)
        if chunk["usage"] is None:
            stripped, found = _NULL_USAGE.subn(b"", event.raw)
            # More than one match can't be told apart cheaply: write the chunk anew instead.
            return stripped if found == 1 else _without_usage(chunk)
        return event.raw

    def _read(self, event: Event) -> dict[str, Any] | None:
        if event.oversized:
            self._unread_bytes += len(event.raw)
        if event.data is None or event.data == b"[DONE]":
            return None
        chunk = decode(event.data)
        if not isinstance(chunk, dict):
            return None
        usage = chunk.get("usage")
        if usage is not None:
            self._reported = read_usage(usage) or self._reported
        if self._served is None:
            self._served = _text(chunk.get("model")) or None
        if isinstance(chunk.get("error"), dict):
            self._failed = True
        for key, text in _generated(chunk, "delta"):
            counter = self._texts.get(key)
            if counter is None:
                if len(self._texts) >= _MAX_CHOICES:
                    self._unread_bytes += len(text)
                    continue
                counter = self._texts[key] = self._counters(self._model)
            counter.feed(text)
            self.volume += len(text)
        return chunk


def _without_usage(chunk: dict[str, Any]) -> bytes:
    rest = {name: value for name, value in chunk.items() if name != "usage"}
    return b"data: " + msgspec.json.encode(rest) + b"\n\n"


def _generated(answer: dict[str, Any], part: str) -> Iterator[tuple[str, str]]:
    """All generated text as (which text, piece); ``part`` is ``message`` or ``delta``."""
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return
    for place, choice in enumerate(choices):
        if not isinstance(choice, dict):
            continue
        index = choice.get("index", place)
        if text := _text(choice.get("text")):
            yield f"{index}", text
        body = choice.get(part)
        if not isinstance(body, dict):
            continue
        for name in ("content", "refusal", "reasoning_content"):
            if text := _text(body.get(name)):
                yield f"{index}.{name}", text
        if isinstance(legacy := body.get("function_call"), dict):
            yield from _call(f"{index}.f", legacy)
        calls = body.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict) and isinstance(function := call.get("function"), dict):
                yield from _call(f"{index}.{call.get('index', position)}", function)


def _call(key: str, function: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("name", "arguments"):
        if text := _text(function.get(name)):
            yield f"{key}.{name}", text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _collect(pieces: Iterator[tuple[str, str]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for key, text in pieces:
        texts[key] = texts.get(key, "") + text
    return texts


def _count(counters: CounterFactory, model: str, text: str) -> int:
    counter = counters(model)
    counter.feed(text)
    return counter.total()
