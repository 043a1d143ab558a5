"""The stand-in's wire shapes, held to what the ``openai`` client's own types accept."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sentinel_extproc.demo.openai_wire import Completion, cut_into_deltas, prompt_tokens


class BytePerToken:
    """One token per byte: cuts every wide character apart."""

    def pieces(self, model: str, text: str) -> list[bytes]:
        return [bytes([byte]) for byte in text.encode()]


def completion(text: str = "Grüße 🚀", *, choices: int = 1) -> Completion:
    deltas, tokens = cut_into_deltas(BytePerToken().pieces("m", text))
    return Completion(
        id="chatcmpl-1",
        created=1,
        model="gpt-4o-mini-2024-07-18",
        choices=choices,
        deltas=deltas,
        tokens=tokens,
        finish_reason="stop",
        prompt_tokens=11,
    )


def events(done: Completion, *, include_usage: bool) -> list[dict[str, object]]:
    chunks = [chunk for chunk, _ in done.chunks(include_usage=include_usage)]
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in chunks)
    return [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]


def test_the_json_answer_validates_and_carries_all_of_the_usage() -> None:
    answer = ChatCompletion.model_validate(completion(choices=2).as_json())
    assert [choice.message.content for choice in answer.choices] == ["Grüße 🚀"] * 2
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 11
    assert answer.usage.completion_tokens == 2 * len("Grüße 🚀".encode())
    assert answer.usage.total_tokens == 11 + 2 * len("Grüße 🚀".encode())


def test_a_stream_has_role_deltas_finish_and_then_usage_without_choices() -> None:
    raw = events(completion(), include_usage=True)
    chunks = [ChatCompletionChunk.model_validate(event) for event in raw]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "Grüße 🚀"
    assert [c.choices[0].finish_reason for c in chunks[-3:-1]] == [None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len("Grüße 🚀".encode())
    assert all(event["usage"] is None for event in raw[:-1])


def test_a_stream_without_the_option_never_says_usage() -> None:
    raw = events(completion(), include_usage=False)
    assert all("usage" not in event and event["choices"] for event in raw)


def test_usage_of_a_part_counts_what_was_sent() -> None:
    done = completion("aé")
    assert done.tokens == (1, 2)
    assert done.usage(deltas_sent=1)["completion_tokens"] == 1
    assert done.usage(deltas_sent=0)["completion_tokens"] == 0
    assert done.usage()["completion_tokens"] == 3


@given(st.text(), st.data())
def test_deltas_are_whole_characters_whatever_the_tokens(text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(encoded) - 1)))))
    edges = [0, *(cut for cut in cuts if cut < len(encoded)), len(encoded)]
    pieces = [encoded[a:b] for a, b in itertools.pairwise(edges) if a < b]
    deltas, tokens = cut_into_deltas(pieces)
    assert "".join(deltas) == text
    assert sum(tokens) == len(pieces)


def test_tokens_cut_within_a_character_are_still_counted() -> None:
    deltas, tokens = cut_into_deltas([b"a", "é".encode()[:1]])
    assert deltas == ("a", "�")
    assert tokens == (1, 1)


def test_prompt_tokens_follow_the_recorded_constants() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "abc", "name": "xy"},
        {"role": "user", "content": [{"type": "text", "text": "de"}, {"type": "image_url"}]},
        {"role": "user", "content": None},
    ]
    expected = 3 + (4 + 3 + 1 + 2) + (4 + 2) + 4
    assert prompt_tokens(BytePerToken(), "gpt-4o", messages) == expected
