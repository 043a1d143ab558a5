"""What an answer is, seen by its client: first token, gaps, tokens, and whether it is whole. Pure.

Streams are read as OpenAI's chat, text completions and responses, or Anthropic's messages; which of
them shows by itself.
"""

from __future__ import annotations

import msgspec

from sentinel_extproc.sse import Scanner

from .histogram import Histogram

MAX_JSON_BYTES = 16 << 20
"""Of a larger answer the rest is taken off the wire, but its usage isn't read."""

_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "message_stop"})


_NOTHING = msgspec.Raw()
_EMPTY = (b"", b'""', b"null", b"[]")


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None
    output_tokens: int | None = None


class _Delta(msgspec.Struct):
    content: msgspec.Raw = _NOTHING
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: msgspec.Raw = _NOTHING


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None


class _Response(msgspec.Struct):
    usage: _Usage | None = None


class _Error(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None


class _Said(msgspec.Struct):
    type: str | None = None
    choices: list[_Choice] = []
    usage: _Usage | None = None
    response: _Response | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Said).decode


class Answer:
    """Takes an answer's bytes as they come.

    Attributes:
        first_at: when the first event with text came; None: not yet, or no stream.
        gaps: between such events.
        events: how many of them there were.
        error: what an error event of the stream says.
    """

    __slots__ = (
        "_body",
        "_ended",
        "_last_at",
        "_scanner",
        "_tokens",
        "error",
        "events",
        "first_at",
        "gaps",
    )

    def __init__(self, *, stream: bool) -> None:
        self._scanner = Scanner() if stream else None
        self._body = bytearray()
        self._ended = False
        self._last_at = 0.0
        self.first_at: float | None = None
        self.gaps = Histogram()
        self.events = 0
        self.error: str | None = None
        self._tokens: int | None = None

    def feed(self, data: bytes, now: float) -> None:
        """The next bytes, which came at ``now`` (seconds)."""
        if self._scanner is None:
            if len(self._body) < MAX_JSON_BYTES:
                self._body += data
            return
        for event in self._scanner.feed(data):
            if event.data is not None:
                self._take(event.data, now)

    @property
    def complete(self) -> bool:
        """Whether a stream's end has been seen; what isn't a stream has no sign of its own."""
        return self._scanner is None or self._ended

    def output_tokens(self) -> tuple[int, bool]:
        """How many, and whether the provider said so; else it's the number of events with text."""
        if self._scanner is None:
            try:
                said = _decode(self._body)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return 0, False
            self._read_usage(said)
        return (self.events, False) if self._tokens is None else (self._tokens, True)

    def _take(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            self._ended = True
            return
        try:
            said = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        self._read_usage(said)
        if said.type in _ENDS:
            self._ended = True
        if said.error is not None:
            self.error = str(said.error.code or said.error.type or "error")
        if not _has_text(said):
            return
        if self.first_at is None:
            self.first_at = now
        else:
            self.gaps.add(now - self._last_at)
        self._last_at = now
        self.events += 1

    def _read_usage(self, said: _Said) -> None:
        usage = said.usage or (said.response.usage if said.response else None)
        if usage is not None:
            found = usage.completion_tokens
            self._tokens = (usage.output_tokens or 0) if found is None else found


def _has_text(said: _Said) -> bool:
    if said.type is not None and said.type.endswith((".delta", "_delta")):
        return said.type != "message_delta"
    return any(choice.text or (choice.delta and _tells(choice.delta)) for choice in said.choices)


def _tells(delta: _Delta) -> bool:
    said = delta.reasoning_content or delta.refusal
    return bool(said) or any(bytes(raw) not in _EMPTY for raw in (delta.content, delta.tool_calls))
