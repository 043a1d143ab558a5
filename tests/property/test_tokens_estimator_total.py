"""Estimating never fails, whatever JSON a body holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel_extproc.tokens.estimator import RULES, TokenEstimator
from sentinel_extproc.tokens.model import Confidence, Estimate
from sentinel_extproc.tokens.models import ModelTable
from sentinel_extproc.tokens.tally import Tally

TABLE = ModelTable()
ESTIMATOR = TokenEstimator(TABLE)

KEYS = st.sampled_from(
    [
        "role",
        "content",
        "type",
        "text",
        "name",
        "tool_calls",
        "function",
        "arguments",
        "id",
        "tool_call_id",
        "call_id",
        "input",
        "output",
        "parameters",
        "properties",
        "items",
        "enum",
        "const",
        "anyOf",
        "required",
        "description",
        "default",
        "title",
        "image_url",
        "url",
        "detail",
        "input_audio",
        "data",
        "format",
        "file",
        "file_data",
        "source",
        "refusal",
        "function_call",
        "messages",
        "tools",
        "functions",
        "tool_choice",
        "response_format",
        "json_schema",
        "schema",
        "instructions",
        "prompt",
        "suffix",
        "system",
        "input_schema",
        "model",
        "image",
        "json_schema",
        "previous_response_id",
    ]
)
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            "user assistant system tool function developer",
            *[
                "user",
                "assistant",
                "system",
                "tool",
                "function",
                "developer",
                "object",
                "array",
                "string",
                "none",
            ],
            *[
                "text",
                "input_text",
                "image_url",
                "input_image",
                "input_audio",
                "file",
                "tool_use",
                "tool_result",
            ],
            *[
                "message",
                "function_call",
                "function_call_output",
                "reasoning",
                "json_schema",
                "required",
            ],
            "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAAAAAAA",
            "data:image/jpeg;base64,/9j/4AAQ",
            "<|endoftext|>",
            "\ud800",
        ]
    ),
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), TEXTS)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
BODIES = st.dictionaries(KEYS, JSON, max_size=8)


def sound(estimate: Estimate) -> bool:
    return estimate.input_tokens >= 0 and estimate.characters >= 0


@pytest.mark.parametrize("kind", sorted(RULES))
@settings(max_examples=60, deadline=None)
@given(body=BODIES)
def test_any_body_is_counted(kind: str, body: dict[str, Any]) -> None:
    assert sound(ESTIMATOR.estimate(kind, body))


@pytest.mark.parametrize("kind", sorted(RULES))
@settings(max_examples=60, deadline=None)
@given(body=BODIES)
def test_the_rules_themselves_do_not_fail(kind: str, body: dict[str, Any]) -> None:
    """Without the safety net, which is for what nobody thought of."""
    RULES[kind](Tally(TABLE.resolve("gpt-5").rules), body)


@pytest.mark.parametrize("key", ["properties", "items", "content", "anyOf"])
@pytest.mark.parametrize("kind", sorted(RULES))
def test_deep_nesting_is_counted(kind: str, key: str) -> None:
    deep: Any = "x"
    for _ in range(3000):
        deep = {"type": "array" if key == "items" else "object", key: {"a": deep}}
        if key in ("content", "anyOf"):
            deep[key] = [deep[key]]
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": [deep]}],
        "input": [deep],
        "prompt": [deep],
        "tools": [{"type": "function", "name": "f", "parameters": deep}],
        "functions": [{"name": "f", "parameters": deep}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": deep}},
    }
    estimate = ESTIMATOR.estimate(kind, body)
    assert sound(estimate)
    assert estimate.confidence is Confidence.ROUGH
