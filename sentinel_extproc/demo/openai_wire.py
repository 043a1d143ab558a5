"""OpenAI's chat completions as they look on the wire: one JSON answer, or chunks of a stream. Pure.

Shapes follow the API reference and recorded streams: a chunk with the role first, one chunk per
delta, one with the finish reason, then, if usage was asked for, one without choices that carries
it, and ``usage: null`` on all before it.
"""

from __future__ import annotations

import codecs
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

JsonObject = dict[str, Any]

DATED_MODELS = {
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
}
"""What the provider answers as ``model`` when asked for the short name."""

DONE = b"data: [DONE]\n\n"

_FINGERPRINT = "fp_standin00"
_MESSAGE_TOKENS = 4
_NAME_TOKENS = 1
_REQUEST_TOKENS = 3
_OLD_ENCODING = re.compile(r"gpt-(4(?!o|\.)|3\.5)|text-embedding-")


class TextTokenizer(Protocol):
    """Splits text as the provider's tokenizer would."""

    def pieces(self, model: str, text: str) -> list[bytes]:
        """The tokens of ``text``, as bytes; a character may be spread over several."""
        ...


class ShippedTokenizer:
    """tiktoken on the ranks that come with this package."""

    def pieces(self, model: str, text: str) -> list[bytes]:
        """See `TextTokenizer.pieces`."""
        from sentinel_extproc.tokens.encodings import encoding

        built = encoding("cl100k_base" if _OLD_ENCODING.match(model) else "o200k_base")
        return built.decode_tokens_bytes(built.encode_ordinary(text))


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer before it is written down.

    Attributes:
        deltas: the text, cut where a stream's chunks are cut.
        tokens: how many tokens each delta stands for; a delta always ends at a whole character,
            so it can be more than one.
    """

    id: str
    created: int
    model: str
    choices: int
    deltas: tuple[str, ...]
    tokens: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int

    @property
    def done(self) -> bytes:
        """What ends a stream, after its last event."""
        return DONE

    def used(self, *, deltas_sent: int | None = None) -> tuple[int, int]:
        """Tokens given and generated, for all of the answer or its first ``deltas_sent`` deltas."""
        return self.prompt_tokens, self.choices * sum(self.tokens[:deltas_sent])

    def usage(self, *, deltas_sent: int | None = None) -> JsonObject:
        """OpenAI's usage object, for all of the answer or its first ``deltas_sent`` deltas."""
        given, generated = self.used(deltas_sent=deltas_sent)
        return {
            "prompt_tokens": given,
            "completion_tokens": generated,
            "total_tokens": given + generated,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def as_json(self, *, with_usage: bool = True) -> JsonObject:
        """The answer to a request that didn't ask for a stream."""
        answer: JsonObject = {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [
                {
                    "index": index,
                    "message": {
                        "role": "assistant",
                        "content": "".join(self.deltas),
                        "refusal": None,
                        "annotations": [],
                    },
                    "logprobs": None,
                    "finish_reason": self.finish_reason,
                }
                for index in range(self.choices)
            ],
        }
        if with_usage:
            answer["usage"] = self.usage()
        return answer | {"service_tier": "default", "system_fingerprint": _FINGERPRINT}

    def chunks(self, *, include_usage: bool) -> Iterator[tuple[bytes, int]]:
        """The stream's events without the final ``[DONE]``, each with the deltas sent by then."""
        opening = {"role": "assistant", "content": "", "refusal": None}
        for index in range(self.choices):
            yield self._event(index, opening, None, include_usage), 0
        for sent, text in enumerate(self.deltas, start=1):
            for index in range(self.choices):
                yield self._event(index, {"content": text}, None, include_usage), sent
        for index in range(self.choices):
            yield self._event(index, {}, self.finish_reason, include_usage), len(self.deltas)
        if include_usage:
            yield (
                sse_event(self._chunk() | {"choices": [], "usage": self.usage()}),
                len(self.deltas),
            )

    def _event(
        self, index: int, delta: JsonObject, finish_reason: str | None, include_usage: bool
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = self._chunk() | {"choices": [choice]}
        if include_usage:
            chunk["usage"] = None
        # The real API pads deltas so that their sizes on the wire say nothing about their text.
        padding = 16 - len(str(delta.get("content", ""))) % 16
        return sse_event(chunk | {"obfuscation": "x" * padding})

    def _chunk(self) -> JsonObject:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": _FINGERPRINT,
        }


def sse_event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event with compact JSON."""
    return (
        b"data: " + json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
    )


def error_body(
    message: str, *, type_: str, code: str | None, param: str | None = None
) -> JsonObject:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def message_texts(message: JsonObject) -> list[str]:
    """Every text in one chat message's content."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    parts = (part.get("text") for part in content if isinstance(part, dict))
    return [text for text in parts if isinstance(text, str)]


def prompt_tokens(tokenizer: TextTokenizer, model: str, messages: Sequence[JsonObject]) -> int:
    """``usage.prompt_tokens`` of plain chat messages on gpt-4o and its like, from recordings."""
    total = _REQUEST_TOKENS
    for message in messages:
        total += _MESSAGE_TOKENS
        total += sum(len(tokenizer.pieces(model, text)) for text in message_texts(message))
        if isinstance(name := message.get("name"), str):
            total += _NAME_TOKENS + len(tokenizer.pieces(model, name))
    return total


def cut_into_deltas(pieces: Sequence[bytes]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Token bytes to texts that end at whole characters, and the tokens behind each text.

    Tokens that a cap has cut off within a character come out as one replacement character, as
    they do from the real API.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    deltas: list[str] = []
    tokens: list[int] = []
    pending = 0
    for position, piece in enumerate(pieces, start=1):
        text = decoder.decode(piece, position == len(pieces))
        pending += 1
        if text:
            deltas.append(text)
            tokens.append(pending)
            pending = 0
    return tuple(deltas), tuple(tokens)


def answer_text(messages: Sequence[JsonObject]) -> str:
    """What the stand-in says to a conversation."""
    asked = " ".join(message_texts(messages[-1])) if messages else ""
    return (
        f"You asked: “{asked[:400]}”. I am a stand-in, so all I can offer is well-formed text: "
        "naïve café, 北京, Ελλάδα, 👩🏽‍🚀 — every token of it counted."
    )


def answer_headers() -> dict[str, str]:
    """Headers that the real API puts on every answer, its own limits included."""
    return {
        "openai-organization": "standin",
        "openai-processing-ms": "7",
        "openai-version": "2020-10-01",
        "x-request-id": f"req_{uuid.uuid4().hex}",
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
    }
