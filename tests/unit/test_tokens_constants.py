"""Every measured constant, pinned twice: by requests of our own, and by recorded calls.

A recording pins a constant if one more or one less makes fewer recorded calls come out right.
"""

from __future__ import annotations

import functools
import struct
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sentinel_extproc.tokens import encodings
from sentinel_extproc.tokens.estimator import TokenEstimator
from sentinel_extproc.tokens.models import Model, ModelTable

ESTIMATOR = TokenEstimator()

HI = {"role": "user", "content": "hi"}  # 1 token
ECHO = {"name": "echo", "description": "Say it.", "parameters": {"type": "object"}}
CALL = {"function_call": {"name": "echo", "arguments": "{}"}}


def calls(number: int) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "echo", "arguments": "{}"}}
    return {"role": "assistant", "content": None, "tool_calls": [call] * number}


def image(width: int, height: int) -> dict[str, Any]:
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)
    url = "data:image/png;base64," + b64encode(head).decode()
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}


def counted(model: str, kind: str = "chat", **body: Any) -> int:
    return ESTIMATOR.estimate(kind, {"model": model, **body}).input_tokens


# What one thing more costs: two bodies that differ in it, and the tokens between them.
MORE: list[tuple[str, str, dict[str, Any], dict[str, Any], int]] = [
    ("gpt-4", "chat", {}, {"messages": []}, 3),
    ("gpt-4o", "chat", {}, {"messages": []}, 3),
    ("o3", "chat", {}, {"messages": []}, 2),
    ("o4-mini", "chat", {}, {"messages": []}, 2),
    ("gpt-5.1", "chat", {}, {"messages": []}, 2),
    ("gpt-oss-20b", "chat", {}, {"messages": []}, 67),
    ("gpt-4o", "chat", {"messages": []}, {"messages": [HI]}, 4 + 1),
    ("gpt-5", "chat", {"messages": []}, {"messages": [HI]}, 4 + 1),
    ("gpt-4o", "chat", {"messages": [HI]}, {"messages": [HI | {"name": "hi"}]}, 1 + 1),
    ("gpt-4o", "chat", {"messages": []}, {"messages": [HI | {"role": "assistant"}]}, 4 + 1),
    ("gpt-5", "chat", {"messages": []}, {"messages": [HI | {"role": "assistant"}]}, 4 + 1 + 2),
    ("gpt-5.4", "chat", {"messages": []}, {"messages": [HI | {"role": "assistant"}]}, 4 + 1 + 2),
    # one call of the history, several of one message
    ("gpt-4o", "chat", {}, {"messages": [calls(1)]}, 3 + 4 + 2 + 5),
    ("gpt-5", "chat", {}, {"messages": [calls(1)]}, 2 + 4 + 2 + 2 + 9),
    ("gpt-4o", "chat", {}, {"messages": [calls(3)]}, 3 + 4 + 13 + 3 * (2 + 7)),
    ("gpt-5", "chat", {}, {"messages": [calls(3)]}, 2 + 3 * (4 + 2 + 2 + 9)),
    # functions of 2023: a call 3, a result 1 less than its frame
    ("gpt-4", "chat", {}, {"messages": [{"role": "assistant", **CALL}]}, 3 + 4 + 2 + 3),
    ("gpt-4", "chat", {}, {"messages": [HI | {"role": "function", "name": "hi"}]}, 3 + 4 + 2 - 1),
    # choosing
    ("gpt-4", "chat", {}, {"function_call": {"name": "echo"}}, 1 + 4),
    ("gpt-4", "chat", {}, {"function_call": "none"}, 1),
    ("gpt-4o", "chat", {}, {"tool_choice": "none"}, 1),
    ("gpt-4o", "chat", {}, {"tool_choice": {"function": {"name": "echo"}}}, 1 + 7),
    ("gpt-4o", "responses", {}, {"tool_choice": {"name": "echo"}}, 1 + 7),
    ("gpt-4o", "responses", {}, {"tool_choice": "required"}, 1 + 7),
    ("gpt-5", "chat", {}, {"function_call": {"name": "echo"}}, 0),
    ("gpt-5", "chat", {}, {"tool_choice": "none"}, 0),
    ("gpt-5", "responses", {}, {"tool_choice": {"name": "echo"}}, 0),
    # a format without a schema is free
    ("gpt-4o", "chat", {"messages": []}, {"response_format": {"type": "json_object"}}, 0),
    ("gpt-5", "responses", {"input": []}, {"text": {"format": {"type": "text"}}}, 0),
    # pictures: tiles, and patches with and without the cap
    ("gpt-4o", "chat", {}, {"messages": [image(512, 512)]}, 3 + 4 + 85 + 170),
    ("gpt-4o-mini", "chat", {}, {"messages": [image(512, 512)]}, 3 + 4 + 2833 + 5667),
    ("gpt-5", "chat", {}, {"messages": [image(512, 512)]}, 2 + 4 + 70 + 140),
    ("o1", "chat", {}, {"messages": [image(512, 512)]}, 3 + 4 + 75 + 150),
    ("gpt-4.1-mini", "chat", {}, {"messages": [image(320, 320)]}, 3 + 4 + 162 + 2),
    ("gpt-4.1-nano", "chat", {}, {"messages": [image(320, 320)]}, 3 + 4 + 246 + 1),
    ("o4-mini", "chat", {}, {"messages": [image(320, 320)]}, 2 + 4 + 172 + 1),
    ("gpt-5-mini", "chat", {}, {"messages": [image(320, 320)]}, 2 + 4 + 120 + 1),
    ("gpt-5-nano", "chat", {}, {"messages": [image(320, 320)]}, 2 + 4 + 150 + 1),
    ("gpt-5-nano", "chat", {}, {"messages": [image(4096, 4096)]}, 2 + 4 + 1521 * 3 // 2 + 2),
    ("text-embedding-3-large", "embeddings", {}, {"input": ""}, 1),
    ("text-embedding-3-large", "embeddings", {}, {"input": ["", "", "hi"]}, 3),
]


@pytest.mark.parametrize(("model", "kind", "less", "more", "tokens"), MORE)
def test_one_thing_more_costs_what_was_measured(
    model: str, kind: str, less: dict[str, Any], more: dict[str, Any], tokens: int
) -> None:
    if "tool_choice" in more or "function_call" in more:
        nested = {"tools": [{"type": "function", "function": ECHO}]}
        tools = nested if kind == "chat" else {"tools": [{"type": "function", **ECHO}]}
        less, more = less | tools, more | tools
    base = counted(model, kind, **less) if less else 0
    assert counted(model, kind, **more) - base == tokens


# How many tokens stand around the declaration of one tool, without and with a system message
# (4 and its 2 tokens, whose full stop swallows the blank line), and in responses.
@pytest.mark.parametrize(
    ("model", "alone", "after_system", "responses"),
    [
        ("gpt-4", 9, 5, 3),
        ("gpt-4o", 9, 5, 3),
        ("gpt-4.1", 9, 5, 3),
        ("o3", 10, 5, 3),
        ("gpt-5", 91, 90, 9),
        ("gpt-5.4", 91, 90, 9),
    ],
)
def test_headers_of_tools(model: str, alone: int, after_system: int, responses: int) -> None:
    text = "namespace functions {\n\n// Say it.\ntype echo = () => any;\n\n} // namespace functions"
    declared = encodings.count(ModelTable().resolve(model).rules.encoding, text)
    nested = [{"type": "function", "function": ECHO}]
    system = {"role": "system", "content": "Go."}
    assert counted(model, messages=[HI], tools=nested) - counted(model, messages=[HI]) == (
        declared + alone
    )
    assert counted(model, messages=[system, HI], tools=nested) - counted(
        model, messages=[system, HI]
    ) == (declared + after_system)
    flat = [{"type": "function", **ECHO}]
    assert counted(model, "responses", input="hi", tools=flat) - counted(
        model, "responses", input="hi"
    ) == (declared + responses)


PINNED = {
    "gpt-3.5": (
        "message name request assistant function_call function_message tools tools_after_system"
        " choice_legacy choice_none"
    ),
    "gpt-4": "message request tools",
    "gpt-4-turbo": "message request tool_call tools_after_system",
    "gpt-4o": (
        "message request assistant tool_call responses_call open_turn tools tools_after_system"
        " tools_responses undescribed_tool choice_function schema schema_after_system"
        " schema_in_system audio audio_per_second"
    ),
    "o-series": "message request assistant tool_call tools",
    "gpt-5": (
        "message request assistant tool_call responses_call open_turn tools tools_after_system"
        " tools_responses undescribed_tool choice_function choice_none schema schema_after_system"
        " schema_in_system schema_answer grammar"
    ),
}


@dataclass
class Recorded:
    """One recorded call whose input is computable."""

    kind: str
    body: dict[str, Any]
    reported: int
    model: Model
    right: bool


@pytest.fixture(scope="module")
def recorded(accuracy: Any, recordings: list[Any]) -> Iterator[list[Recorded]]:
    found = []
    for call in recordings:
        kind = accuracy.KINDS.get(call["endpoint"])
        if kind is None or accuracy.unseen(call["request"]):
            continue
        body = accuracy.restored(call)
        reported = call["usage"].get("prompt_tokens", call["usage"].get("input_tokens"))
        model = ModelTable().resolve(body["model"])
        right = ESTIMATOR.estimate(kind, body).input_tokens == reported
        found.append(Recorded(kind, body, reported, model, right))
    with pytest.MonkeyPatch.context() as patch:
        # The same texts are counted a hundred times over.
        patch.setattr(encodings, "count", functools.cache(encodings.count))
        yield found


@pytest.mark.parametrize(
    ("family", "constant"),
    [(family, constant) for family, names in PINNED.items() for constant in names.split()],
)
def test_recordings_pin_the_constant(recorded: list[Recorded], family: str, constant: str) -> None:
    value = getattr(ModelTable().families[family], constant)
    for other in (value - 1, value + 1):
        table = ModelTable(overrides={family: {constant: other}})
        estimator = TokenEstimator(table)
        touched = [
            call for call in recorded if table.resolve(call.body["model"]).rules != call.model.rules
        ]
        right = sum(
            estimator.estimate(call.kind, call.body).input_tokens == call.reported
            for call in touched
        )
        assert right < sum(call.right for call in touched)
