"""Answers of chat completions and of completions, whole or streamed. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from sentinel_extproc.endpoints.chat_chunk import Chunk, generated, usual_chunk
from sentinel_extproc.endpoints.contract import CounterFactory, Reading
from sentinel_extproc.endpoints.meters import Tail, Whole, text_of, tokens_by_size
from sentinel_extproc.endpoints.provider_usage import decode, find_member, read_usage
from sentinel_extproc.endpoints.texts import Texts
from sentinel_extproc.sse import Event, Scanner
from sentinel_extproc.usage.record import TokenUsage

MAX_REWRITTEN_BYTES = 64 << 10
"""Events are held until they are complete where they are rewritten. The usage chunk is far smaller,
and so is every chunk of a chat but the oddest; over it an event passes unread."""

_DONE = re.compile(rb"data: ?\[DONE\]")
_USUAL_NULL_USAGE = (b',"usage":null', b', "usage": null')
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,')


def read_whole(answer: dict[str, Any]) -> Whole:
    """Read an unstreamed answer."""
    return Whole(read_usage(answer.get("usage")), _generated(answer, "message"))


class StreamMeter:
    """Reads an event stream of chunks while it flows.

    Args:
        hide_usage: take out the usage chunk, and the null ``usage`` of all other chunks, which
            are there only because we asked for them.
        all_seen: whether what is generated is just what is streamed.
    """

    def __init__(
        self, model: str, counters: CounterFactory, *, hide_usage: bool, all_seen: bool = True
    ) -> None:
        self.rewrites = hide_usage
        self._all_seen = all_seen
        self._scanner = Scanner(MAX_REWRITTEN_BYTES) if hide_usage else Scanner()
        self._texts = Texts(model, counters)
        self._reported: TokenUsage | None = None
        self._served: str | None = None
        self._texts_since_usage = False
        self._failed = False
        self._unread_bytes = 0
        self._tail = Tail()
        self.finished = False

    def feed(self, chunk: bytes, *, end: bool) -> bytes | None:
        events = self._scanner.feed(chunk)
        if end:
            events += self._scanner.close()
        if not self.rewrites:
            for event in events:
                self._read(event)
            return None
        pieces = []
        for event in events:
            try:
                pieces.append(self._shown(event))
            except Exception:  # noqa: BLE001 - one event's oddity must not cost the bytes of others
                pieces.append(event.raw)
        shown = b"".join(pieces)
        if self._scanner.pending and _DONE.match(self._scanner.held):
            # The end, without its blank line: nothing comes after it that could complete it.
            shown += b"".join(event.raw for event in self._scanner.close())
            self.finished = True
        return shown

    @property
    def held(self) -> bytes:
        return self._scanner.held if self.rewrites else b""

    @property
    def partial(self) -> int:
        return 0 if self.rewrites else self._scanner.pending

    @property
    def volume(self) -> int:
        return self._texts.volume

    @property
    def waiting(self) -> int:
        return self._texts.waiting

    def reading(self) -> Reading:
        reported = self._reported
        if reported is None and self._unread_bytes:
            reported = read_usage(find_member(self._tail.bytes(), "usage"))
        later = self._reported is not None and self._texts_since_usage
        return Reading(
            reported=None if later else reported,
            so_far=reported if later else None,
            output_tokens=self._texts.total() + tokens_by_size(self._unread_bytes),
            exact=self._all_seen and self._texts.exact and not self._unread_bytes,
            model_served=self._served,
            failed=self._failed,
        )

    def _shown(self, event: Event) -> bytes:
        chunk = self._read(event)
        if chunk is None or event.data is None:
            return event.raw
        usage = chunk.usage
        if usage is None:
            return _without_null_usage(event.raw) or _without_usage(event.data)
        if isinstance(usage, dict):
            return _without_usage(event.data) if chunk.choices else b""
        return event.raw

    def _read(self, event: Event) -> Chunk | None:
        data = event.data
        if data is None:
            if event.oversized:
                self._unread_bytes += len(event.raw)
                self._tail.add(event.raw)
            return None
        if data == b"[DONE]":
            self.finished = True
            return None
        try:
            chunk = usual_chunk(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._read_unusual(data)
        self._take(chunk, generated(chunk))
        return chunk

    def _read_unusual(self, data: bytes) -> Chunk | None:
        plain = decode(data)
        if not isinstance(plain, dict):
            return None
        # Only what ``_shown`` asks of it need be of the types that a chunk has.
        chunk = Chunk(
            choices=plain.get("choices") or [],
            usage=plain.get("usage", UNSET),
            model=text_of(plain.get("model")),
            object=text_of(plain.get("object")),
            error=plain.get("error"),
        )
        self._take(chunk, _generated(plain, "delta"))
        return chunk

    def _take(self, chunk: Chunk, texts: Iterable[tuple[str, str]]) -> None:
        if self._served is None:
            self._served = chunk.model or None
        if chunk.error or chunk.object == "error":
            self._failed = True
        for key, text in texts:
            self._texts.add(key, text)
            self._texts_since_usage = True
        if chunk.usage and (usage := read_usage(chunk.usage)) is not None:
            # Some send sums in every chunk, or only the prompt's in the first: of an answer that is
            # cut, what came after the last sums is counted.
            self._reported = usage
            self._texts.clear()
            self._texts_since_usage = False


def _without_null_usage(raw: bytes) -> bytes:
    """An event without its null usage; empty where there is more than one, which can't be told
    apart cheaply."""
    if raw.count(b'"usage"') == 1:  # in a text its quotes would be escaped
        for usual in _USUAL_NULL_USAGE:
            if usual in raw:
                return raw.replace(usual, b"")
    stripped, found = _NULL_USAGE.subn(b"", raw)
    return stripped if found == 1 else b""


def _without_usage(data: bytes) -> bytes:
    rest = {name: value for name, value in decode(data).items() if name != "usage"}
    try:
        text = msgspec.json.encode(rest)
    except UnicodeEncodeError:  # a lone surrogate, which only escapes can carry
        text = json.dumps(rest, separators=(",", ":")).encode()
    return b"data: " + text + b"\n\n"


def _generated(answer: dict[str, Any], part: str) -> Iterator[tuple[str, str]]:
    """All generated text as (which text, piece); ``part`` is ``message`` or ``delta``."""
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return
    for place, choice in enumerate(choices):
        if not isinstance(choice, dict):
            continue
        index = choice.get("index", place)
        if text := text_of(choice.get("text")):
            yield f"{index}", text
        body = choice.get(part)
        if not isinstance(body, dict):
            continue
        for name in ("content", "refusal", "reasoning_content"):
            if text := text_of(body.get(name)):
                yield f"{index}.{name}", text
        if isinstance(legacy := body.get("function_call"), dict):
            yield from _call(f"{index}.f", legacy)
        calls = body.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict) and isinstance(function := call.get("function"), dict):
                yield from _call(f"{index}.{call.get('index', position)}", function)


def _call(key: str, function: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("name", "arguments"):
        if text := text_of(function.get(name)):
            yield f"{key}.{name}", text
