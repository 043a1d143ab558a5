"""Hand-made requests with counts worked out from the rules, term by term.

Texts: "How warm is Oslo?" is 5 tokens in both encodings, "You answer briefly." 4, "12 degrees" 2,
`{"city":"Oslo"}` 6, the declaration of TOOL 49 in cl100k and 47 in o200k.
"""

from __future__ import annotations

from typing import Any

import pytest

from sentinel_extproc.tokens.estimator import TokenEstimator
from sentinel_extproc.tokens.model import Confidence, OutputCounter, RequestEstimator
from sentinel_extproc.tokens.models import ModelTable

ESTIMATOR = TokenEstimator()

TOOL = {
    "name": "get_weather",
    "description": "Look up the weather.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city"},
            "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
        },
        "required": ["city"],
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"degrees": {"type": "number"}},
    "required": ["degrees"],
    "additionalProperties": False,
}
SYSTEM = {"role": "system", "content": "You answer briefly."}
USER = {"role": "user", "content": "How warm is Oslo?"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "12 degrees"}
TOOLS = [{"type": "function", "function": TOOL}]
FORMAT = {"type": "json_schema", "json_schema": {"name": "Warmth", "schema": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}

CHAT: list[tuple[str, dict[str, Any], int]] = [
    # 3 a request, 4 a message and its text
    ("gpt-4", {"messages": [USER]}, 3 + 4 + 5),
    ("gpt-4o", {"messages": [SYSTEM, USER]}, 3 + 4 + 4 + 4 + 5),
    ("gpt-5", {"messages": [SYSTEM, USER]}, 2 + 4 + 4 + 4 + 5),
    ("o3", {"messages": [USER]}, 2 + 4 + 5),
    ("gpt-4o", {"messages": [{**USER, "name": "Ada"}]}, 12 + 1 + 1),
    ("gpt-4o", {"messages": [{"role": "user", "content": None}]}, 3 + 4),
    ("gpt-4o", {"messages": []}, 3),
    # an answer in the history
    ("gpt-4o", {"messages": [USER, {"role": "assistant", "content": "12 degrees"}]}, 12 + 4 + 2),
    ("gpt-5", {"messages": [USER, {"role": "assistant", "content": "12 degrees"}]}, 11 + 4 + 2 + 2),
    # tools: a header, less after a system message whose end swallows the blank line
    ("gpt-4", {"messages": [USER], "tools": TOOLS}, 12 + 49 + 9),
    ("gpt-4o", {"messages": [USER], "tools": TOOLS}, 12 + 47 + 9),
    ("gpt-4o", {"messages": [USER], "functions": [TOOL]}, 12 + 47 + 9),
    ("gpt-4o", {"messages": [SYSTEM, USER], "tools": TOOLS}, 20 + 47 + 5),
    (
        "gpt-4o",
        {"messages": [{**SYSTEM, "content": "You answer briefly"}, USER], "tools": TOOLS},
        19 + 47 + 5 + 1,
    ),
    ("gpt-5", {"messages": [USER], "tools": TOOLS}, 11 + 47 + 91),
    ("gpt-4o", {"messages": [USER], "tools": TOOLS, "tool_choice": NAMED}, 68 + 7 + 2),
    ("gpt-4o", {"messages": [USER], "tools": TOOLS, "tool_choice": "none"}, 68 + 1),
    ("gpt-4o", {"messages": [USER], "tools": TOOLS, "tool_choice": "auto"}, 68),
    ("gpt-5", {"messages": [USER], "tools": TOOLS, "tool_choice": NAMED}, 149),
    # a call: frame, name, compact arguments and 5; its result: frame, text and the name again
    (
        "gpt-4o",
        {"messages": [USER, CALL, RESULT], "tools": TOOLS},
        68 + (4 + 2 + 6 + 5) + (4 + 2 + 2),
    ),
    (
        "gpt-5",
        {"messages": [USER, CALL, RESULT], "tools": TOOLS},
        149 + (4 + 2 + 2 + 6 + 9) + (4 + 2 + 2),
    ),
    # a schema of 22 tokens, header included, shown without required and additionalProperties
    ("gpt-4o", {"messages": [USER], "response_format": FORMAT}, 12 + 22 + 8),
    ("gpt-4o", {"messages": [SYSTEM, USER], "response_format": FORMAT}, 20 + 22 + 4),
    ("gpt-4o", {"messages": [USER], "tools": TOOLS, "response_format": FORMAT}, 68 + 22 + 1),
    ("gpt-4o", {"messages": [USER], "response_format": {"type": "json_object"}}, 12),
]

RESPONSES: list[tuple[str, dict[str, Any], int]] = [
    ("gpt-4o", {"input": "How warm is Oslo?"}, 12),
    ("gpt-4o", {"input": [USER]}, 12),
    ("gpt-4o", {"input": [USER], "instructions": "You answer briefly."}, 20),
    ("gpt-5", {"input": [USER], "instructions": ""}, 11),
    ("gpt-4o", {"input": [USER], "tools": [{"type": "function", **TOOL}]}, 12 + 47 + 3),
    ("gpt-5", {"input": [USER], "tools": [{"type": "function", **TOOL}]}, 11 + 47 + 9),
    (
        "gpt-4o",
        {"input": [USER], "tools": [{"type": "function", **TOOL}], "tool_choice": "required"},
        62 + 7 + 2,
    ),
    (
        "gpt-4o",
        {"input": [USER], "text": {"format": {"type": "json_schema", **FORMAT["json_schema"]}}},  # type: ignore[dict-item]
        12 + 22 + 1,
    ),
    # neighbouring texts are one text
    (
        "gpt-4o",
        {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "How warm "},
                        {"type": "input_text", "text": "is Oslo?"},
                    ],
                }
            ]
        },
        12,
    ),
    # reasoning before the current turn isn't shown again
    (
        "gpt-5",
        {"input": [{"type": "reasoning", "encrypted_content": "x" * 4000}, USER]},
        11,
    ),
]


@pytest.mark.parametrize(("model", "body", "expected"), CHAT)
def test_chat(model: str, body: dict[str, Any], expected: int) -> None:
    estimate = ESTIMATOR.estimate("chat", {"model": model, **body})
    assert (estimate.input_tokens, estimate.confidence) == (expected, Confidence.EXACT)


@pytest.mark.parametrize(("model", "body", "expected"), RESPONSES)
def test_responses(model: str, body: dict[str, Any], expected: int) -> None:
    estimate = ESTIMATOR.estimate("responses", {"model": model, **body})
    assert (estimate.input_tokens, estimate.confidence) == (expected, Confidence.EXACT)


def test_a_tool_loop_in_responses() -> None:
    items = [
        USER,
        {
            "type": "function_call",
            "call_id": "c1",
            "name": "get_weather",
            "arguments": '{"city":"Oslo"}',
        },
        {"type": "function_call_output", "call_id": "c1", "output": "12 degrees"},
    ]
    body = {"input": items, "tools": [{"type": "function", **TOOL}]}
    counted = [
        ESTIMATOR.estimate("responses", {"model": model, **body}).input_tokens
        for model in ("gpt-4o", "gpt-5")
    ]
    assert counted == [
        62 + (4 + 2 + 6 + 3) + (4 + 2 + 2),
        67 + (4 + 2 + 6 + 9) + (4 + 2 + 2) + 3,
    ]


@pytest.mark.parametrize(
    ("model", "expected"),
    [("gpt-4o", 12 + 4 + 2 * (2 + 6) + 13 + 2 * 7), ("gpt-5", 11 + 2 * (4 + 2 + 2 + 6 + 9))],
)
def test_parallel_calls_are_shown_as_one_or_one_by_one(model: str, expected: int) -> None:
    calls = CALL | {"tool_calls": CALL["tool_calls"] * 2}  # type: ignore[operator]
    estimate = ESTIMATOR.estimate("chat", {"model": model, "messages": [USER, calls]})
    assert (estimate.input_tokens, estimate.confidence) == (expected, Confidence.CLOSE)


def test_encrypted_reasoning_of_the_current_turn_is_weighed() -> None:
    item = {"type": "reasoning", "encrypted_content": "x" * 2800}
    estimate = ESTIMATOR.estimate("responses", {"model": "gpt-5", "input": [USER, item]})
    assert 250 < estimate.input_tokens < 320
    assert estimate.confidence is Confidence.ROUGH


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("How warm is Oslo?", 5),
        (["How warm is Oslo?", "12 degrees"], 7),
        ([1, 2, 3, 4], 4),
        ([[1, 2], [3]], 3),
        ("", 0),
        (None, 1),
    ],
)
def test_completions(prompt: object, expected: int) -> None:
    estimate = ESTIMATOR.estimate(
        "completions", {"model": "gpt-3.5-turbo-instruct", "prompt": prompt}
    )
    assert (estimate.input_tokens, estimate.confidence) == (expected, Confidence.EXACT)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("How warm is Oslo?", 5),
        (["How warm is Oslo?", "12 degrees"], 7),
        ("", 1),
        (["", "12 degrees"], 3),
        ([1, 2, 3], 3),
        ([[1, 2], [3]], 3),
    ],
)
def test_embeddings(given: object, expected: int) -> None:
    estimate = ESTIMATOR.estimate("embeddings", {"model": "text-embedding-3-small", "input": given})
    assert (estimate.input_tokens, estimate.confidence) == (expected, Confidence.EXACT)


def test_messages_are_scaled_and_never_exact() -> None:
    body = {
        "model": "claude-sonnet-4",
        "system": "You answer briefly.",
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me look."},
                    {
                        "type": "tool_use",
                        "id": "t",
                        "name": "get_weather",
                        "input": {"city": "Oslo"},
                    },
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t", "content": "12 degrees"}],
            },
        ],
    }
    bare = ESTIMATOR.estimate("messages", body)
    tooled = ESTIMATOR.estimate(
        "messages", body | {"tools": [{"name": "get_weather", "input_schema": SCHEMA}]}
    )
    words = 4 + 5 + 4 + 2 + 6 + 2
    assert words * 1.3 < bare.input_tokens < words * 1.3 + 60
    assert tooled.input_tokens > bare.input_tokens + 346
    assert bare.confidence is Confidence.ROUGH


@pytest.mark.parametrize(
    ("kind", "body", "confidence"),
    [
        ("chat", {"model": "my-deployment", "messages": [USER]}, Confidence.ROUGH),
        ("chat", {"model": "llama3", "messages": [USER]}, Confidence.ROUGH),
        ("chat", {"model": "gpt-4o", "messages": ["loose"]}, Confidence.ROUGH),
        ("chat", {"model": "gpt-4o", "messages": [USER | {"role": ["user"]}]}, Confidence.ROUGH),
        (
            "chat",
            {"model": "gpt-4o", "messages": [{"role": "user", "content": [{"type": "new"}]}]},
            Confidence.ROUGH,
        ),
        (
            "chat",
            {"model": "gpt-4o", "messages": [USER], "web_search_options": {}},
            Confidence.ROUGH,
        ),
        (
            "responses",
            {"model": "gpt-4o", "previous_response_id": "r", "input": "x"},
            Confidence.ROUGH,
        ),
        (
            "responses",
            {"model": "gpt-5", "input": "x", "tools": [{"type": "web_search"}]},
            Confidence.ROUGH,
        ),
        ("embeddings", {"model": "text-embedding-3-small", "input": [{"a": 1}]}, Confidence.ROUGH),
    ],
)
def test_what_cannot_be_known_lowers_the_confidence(
    kind: str, body: dict[str, Any], confidence: Confidence
) -> None:
    assert ESTIMATOR.estimate(kind, body).confidence is confidence


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="videos"):
        ESTIMATOR.estimate("videos", {})


def test_aliases_and_overrides_reach_the_count() -> None:
    table = ModelTable(aliases={"prod": "gpt-5"}, overrides={"gpt-5": {"request": 12}})
    estimate = TokenEstimator(table).estimate("chat", {"model": "prod", "messages": [USER]})
    assert (estimate.input_tokens, estimate.confidence) == (12 + 4 + 5, Confidence.EXACT)


def test_what_no_rule_foresaw_is_counted_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr("sentinel_extproc.tokens.estimator.RULES", {"chat": fail})
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x" * 500}]}
    estimate = ESTIMATOR.estimate("chat", body)
    assert estimate.input_tokens >= 500
    assert estimate.confidence is Confidence.ROUGH


def test_answers_have_a_frame_that_depends_on_the_endpoint() -> None:
    frames = [
        ESTIMATOR.answer_frame(kind, model)
        for kind in ("chat", "responses", "completions")
        for model in ("gpt-4o", "gpt-5")
    ]
    assert frames == [0, 3, 1, 4, 0, 0]


@pytest.mark.parametrize(("model", "tokens"), [("gpt-4o", 5), ("claude-opus-4", 6)])
def test_output_is_counted_without_a_frame_and_with_the_familys_factor(
    model: str, tokens: int
) -> None:
    counter = ESTIMATOR.output_counter(model)
    counter.feed("How warm is Oslo?")
    assert counter.total() == tokens


@pytest.mark.parametrize(
    ("call", "more", "confidence"),
    [
        ({}, {}, Confidence.EXACT),
        ({"id": "fc_1"}, {}, Confidence.CLOSE),
        ({"id": "fc_1"}, {"store": True}, Confidence.CLOSE),
        ({"id": "fc_1"}, {"store": False}, Confidence.EXACT),
        ({"id": None}, {}, Confidence.EXACT),
    ],
)
def test_a_call_that_the_provider_keeps_is_close(
    call: dict[str, Any], more: dict[str, Any], confidence: Confidence
) -> None:
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"} | call
    body = {"model": "gpt-4.1", "input": [USER, item]} | more
    assert ESTIMATOR.estimate("responses", body).confidence is confidence


def test_the_protocols_are_met() -> None:
    estimator: RequestEstimator = ESTIMATOR
    counter: OutputCounter = estimator.output_counter("gpt-4o")
    counter.feed("How warm ")
    counter.feed("is Oslo?")
    assert counter.total() == 5


NESTED: dict[str, Any] = {"type": "string"}
for _ in range(20):
    NESTED = {"type": ["object"] * 20, "properties": {"a": NESTED}}


@pytest.mark.parametrize(
    "parameters",
    [
        NESTED,
        {
            "type": "object",
            "properties": {str(number): {} for number in range(20_000)},
            "required": ["x"] * 20_000,
        },
    ],
)
def test_no_schema_multiplies(parameters: dict[str, Any]) -> None:
    """Rendered per repetition, or compared each with each, these would take years or minutes."""
    body = {
        "model": "gpt-4o",
        "messages": [],
        "functions": [{"name": "f", "parameters": parameters}],
    }
    assert 0 < ESTIMATOR.estimate("chat", body).input_tokens < 200_000
