"""What counting a hostile body costs grows with its size, never with its square.

Measured in characters given to the tokenizer and in calls of Python functions, which are the same
on every machine and at every load; `bench/` measures time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from sentinel_extproc.tokens import encodings
from sentinel_extproc.tokens.estimator import TokenEstimator

ESTIMATOR = TokenEstimator()
Json = dict[str, Any]


def user(content: Any) -> Json:
    return {"messages": [{"role": "user", "content": content}]}


def tool(parameters: Any, **more: Any) -> Json:
    function = {"name": "f", "parameters": parameters} | more
    return {"messages": [], "tools": [{"type": "function", "function": function}]}


def called(name: str) -> Json:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": ""}}


def nested(key: str, inner: Any, levels: int) -> Any:
    for _ in range(levels):
        inner = {"type": "array", "items": inner} if key == "items" else {key: [inner, {}]}
    return inner


SHAPES: dict[str, tuple[str, Callable[[int], Json]]] = {
    "a long name and many results": (
        "chat",
        lambda n: {
            "messages": [{"role": "assistant", "tool_calls": [called("n" * n)]}]
            + [{"role": "tool", "tool_call_id": "c"}] * (n // 20)
        },
    ),
    "the same in responses": (
        "responses",
        lambda n: {
            "input": [{"type": "function_call", "call_id": "c", "name": "n" * n}]
            + [{"type": "function_call_output", "call_id": "c"}] * (n // 20)
        },
    ),
    "many calls of one message": (
        "chat",
        lambda n: {"messages": [{"role": "assistant", "tool_calls": [called("f")] * n}]},
    ),
    "a long enum": ("chat", lambda n: tool({"properties": {"a": {"enum": ["x"] * n}}})),
    "many properties, all required": (
        "chat",
        lambda n: tool({"properties": {str(i): {} for i in range(n)}, "required": ["x"] * n}),
    ),
    "a long enum inside arrays": (
        "chat",
        lambda n: tool({"properties": {"a": nested("items", {"enum": ["x"] * n}, 20)}}),
    ),
    "unions inside unions": (
        "chat",
        lambda n: tool({"properties": {"a": nested("anyOf", {"enum": ["x"] * n}, 20)}}),
    ),
    "a union of everything, twenty deep": (
        "chat",
        lambda n: tool(
            {"properties": {"a": {"type": ["object", "array", "string"] * n, "items": {}}}}
        ),
    ),
    "references to each other": (
        "chat",
        lambda n: tool(
            {
                "properties": {str(i): {"$ref": f"#/$defs/{i}"} for i in range(n)},
                "$defs": {str(i): {"$ref": f"#/$defs/{i - 1}"} for i in range(n)},
            }
        ),
    ),
    "a long default": ("chat", lambda n: tool({"properties": {"a": {"default": [{}] * n}}})),
    "many lines of description": ("chat", lambda n: tool({}, description="\n" * n)),
    "many tools": ("chat", lambda n: {"functions": [{"name": "f"}] * n}),
    "many unknown tools": ("responses", lambda n: {"tools": [{"type": "new"}] * n}),
    "a schema of many parts": (
        "chat",
        lambda n: (
            user("x")
            | {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"anyOf": [{}] * n}},
                }
            }
        ),
    ),
    "arguments of many numbers": (
        "responses",
        lambda n: {
            "input": [{"type": "function_call", "name": "f", "arguments": "[" + "1," * n + "1]"}]
        },
    ),
    "many messages": ("chat", lambda n: {"messages": [{"role": "system", "content": "x"}] * n}),
    "many parts": ("chat", lambda n: user([{"type": "text", "text": "x"}] * n)),
    "many parts that nobody knows": ("chat", lambda n: user([{"type": "new"}] * n)),
    "text and pictures in turn": (
        "chat",
        lambda n: user([{"type": "text", "text": "x"}, {"type": "image_url"}] * n),
    ),
    "many prompts": ("completions", lambda n: {"prompt": ["x"] * n}),
    "many inputs": ("embeddings", lambda n: {"input": [[1], "x"] * n}),
    "blocks inside results": (
        "messages",
        lambda n: {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "content": [{"type": "tool_use"}] * n}],
                }
            ]
        },
    ),
} | {
    f"{text!r} and nothing else": ("chat", lambda n, text=text: user(text * n))
    for text in ["a", " ", "\n", "\ud800", "\u200b", "\u0301", "<|endoftext|>", "a\u0301", "\x00"]
}


def work(kind: str, body: Json, patch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Characters tokenized and Python calls made to estimate ``body``."""
    characters = calls = 0
    count_piece = encodings._count_piece

    def counted(built: Any, text: str) -> int:
        nonlocal characters
        characters += len(text)
        return count_piece(built, text)

    def called(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    patch.setattr(encodings, "_count_piece", counted)
    before = sys.getprofile()
    sys.setprofile(called)
    try:
        ESTIMATOR.estimate(kind, {"model": "gpt-4o", **body})
    finally:
        sys.setprofile(before)
        patch.undo()
    return characters, calls


@pytest.mark.parametrize("shape", SHAPES)
def test_cost_grows_with_the_size(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, make = SHAPES[shape]
    small, large = make(1000), make(8000)
    characters, calls = work(kind, small, monkeypatch)
    more_characters, more_calls = work(kind, large, monkeypatch)
    assert more_characters <= 10 * characters + 1000
    assert more_calls <= 10 * calls + 1000
    # Nothing is counted more than a few times over.
    assert more_characters <= 4 * len(json.dumps(large))


@pytest.mark.parametrize(
    "body",
    [
        tool({1: 2, None: 3, ("a", "b"): {}}),
        tool({"properties": {1: {"enum": [{("a",): 1}]}}}),
        tool({"properties": {"a": {"const": float("nan"), "default": {1.5: {}}}}}),
        tool({"properties": {"a": {"enum": [b"bytes", {1, 2}, object()]}}}),
        user([{"type": "text", 7: 8}, {("type",): "text"}, {"type": ["text"]}]),
        {"messages": [{None: None}], "tools": {"a": 1}, "tool_choice": [1], "functions": "f"},
        user({"type": "image_url", "image_url": {"url": 5, "detail": {}}}),
    ],
)
def test_what_json_cannot_even_say_is_counted_all_the_same(body: Json) -> None:
    for kind in ("chat", "responses", "messages", "completions", "embeddings"):
        flat = body | {"input": body.get("messages"), "prompt": body.get("messages")}
        assert ESTIMATOR.estimate(kind, {"model": "gpt-5"} | flat).input_tokens >= 0


def test_references_in_a_circle_are_not_followed() -> None:
    circle: Json = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    circle["properties"]["itself"] = circle  # no JSON, but nothing may hang on it
    estimate = ESTIMATOR.estimate("chat", {"model": "gpt-4o", **tool(circle)})
    assert 0 < estimate.input_tokens < 1000


SEAMS = ["<|endoftext|>", "\ud83d\ude00", "😀", "\r\n", "\n\n  ", "\u200b\u200d", "don't", "12345"]


@pytest.mark.parametrize("seam", SEAMS)
@pytest.mark.parametrize("name", sorted(encodings.SHIPPED))
def test_nothing_is_lost_where_long_text_is_cut(name: str, seam: str) -> None:
    """Whatever stands where a piece ends, the pieces count as the whole does."""
    built = encodings.encoding(name)
    for shift in range(-len(seam) - 2, 3):
        text = "word " * 4000
        text = text[: encodings.MAX_PIECE_CHARS + shift] + seam + text
        whole = len(built.encode_ordinary(encodings._without_surrogates(text)))
        assert encodings.count(name, text) == whole
