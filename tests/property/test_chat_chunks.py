"""A chunk read into structs says what it says when it is read as any JSON."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.endpoints.chat_answer import _generated
from sentinel_extproc.endpoints.chat_chunk import generated, usual_chunk

TEXT = st.one_of(st.none(), st.text(max_size=5))
INDEX = st.integers(0, 3)


def having(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with any of these members, now and then with one of another kind."""
    odd = st.dictionaries(
        st.sampled_from([*members, "other"]),
        st.sampled_from([None, True, 0, "", "x", 1.5, [], {}, [1], {"a": 1}]),
        max_size=1,
    )
    usual = st.fixed_dictionaries({}, optional=members)
    return st.one_of(usual, usual, usual, st.builds(lambda one, other: one | other, usual, odd))


FUNCTION = having(name=TEXT, arguments=TEXT)
CALL = having(index=INDEX, function=FUNCTION, id=TEXT)
DELTA = having(
    role=TEXT,
    content=TEXT,
    refusal=TEXT,
    reasoning_content=TEXT,
    function_call=FUNCTION,
    tool_calls=st.lists(CALL, max_size=3),
)
CHOICE = having(index=INDEX, text=TEXT, delta=DELTA, finish_reason=TEXT)
CHUNK = having(model=TEXT, choices=st.lists(CHOICE, max_size=3), usage=having(prompt_tokens=INDEX))


@given(CHUNK)
def test_both_ways_of_reading_find_the_same(chunk: dict[str, Any]) -> None:
    try:
        read = usual_chunk(json.dumps(chunk).encode())
    except msgspec.DecodeError:
        return  # read as any JSON
    assert generated(read) == list(_generated(chunk, "delta"))
    assert read.usage == chunk.get("usage", msgspec.UNSET)
    assert bool(read.choices) == bool(chunk.get("choices"))
    assert (read.model, read.error) == (chunk.get("model"), chunk.get("error"))


def test_what_providers_write_needs_no_second_reading() -> None:
    calls = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]
    for delta in ({"role": "assistant", "content": ""}, {"content": None}, {"tool_calls": calls}):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        for usage in ({}, {"usage": None}, {"usage": {"prompt_tokens": 1}}):
            chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
            usual_chunk(json.dumps(chunk | {"choices": [choice]} | usage).encode())
