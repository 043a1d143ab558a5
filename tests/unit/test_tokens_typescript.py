"""Tools as the model is shown them."""

from __future__ import annotations

from typing import Any

import pytest

from sentinel_extproc.tokens import typescript


def declared(properties: Any, *, required: Any = None, legacy: bool = False, **more: Any) -> str:
    parameters = {"type": "object", "properties": properties, "required": required or [], **more}
    text = typescript.namespace([{"name": "f", "parameters": parameters}], legacy=legacy)
    head, tail = "namespace functions {\n\n", "\n\n} // namespace functions"
    assert text.startswith(head)
    assert text.endswith(tail)
    return text[len(head) : -len(tail)]


def test_an_object_without_comments_is_one_line() -> None:
    text = declared({"a": {"type": "integer"}, "b": {"type": "string"}}, required=["a"])
    assert text == "type f = (_: { a: number, b?: string }) => any;"


def test_comments_spread_it() -> None:
    text = declared(
        {
            "a": {"type": "number", "title": "A", "description": "First.\n\n Second."},
            "b": {"type": "boolean", "default": True},
            "c": {"type": "null", "title": "C"},
        }
    )
    assert text.split("\n") == [
        "type f = (_: {",
        "// A",
        "//",
        "// First.",
        "//  Second.",
        "a?: number,",
        "b?: boolean, // default: true",
        "// C",
        "c?: null,",
        "}) => any;",
    ]


def test_the_argument_carries_its_own_comment() -> None:
    text = declared({"a": {"type": "string"}}, description="All of it.", title="f_args")
    assert text.startswith("type f = (_: // f_args\n//\n// All of it.\n{ a?: string }")


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        ({"enum": ["x", 1, None]}, '"x" | 1 | null'),
        ({"const": "only", "type": "string"}, '"only"'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null"),
        ({"oneOf": [{"type": "integer"}, {"const": 2}]}, "number | 2"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"type": "array", "items": {"type": "string"}}, "string[]"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, '("a" | "b")[]'),
        ({"type": "array"}, "any[]"),
        ({"type": "object"}, "object"),
        ({"type": "object", "properties": {"x": {"type": "string"}}}, "{ x?: string }"),
        ({"$ref": "#/$defs/Other"}, "any"),
        ({"type": ["object", ["array"]]}, "object"),
        ({}, "any"),
        (True, "any"),
        ("string", "any"),
    ],
)
def test_types(schema: Any, shown: str) -> None:
    assert declared({"v": schema}) == f"type f = (_: {{ v?: {shown} }}) => any;"


def test_no_parameters_is_no_argument() -> None:
    for function in ({"name": "f"}, {"name": "f", "parameters": {"type": "object"}}):
        assert "type f = () => any;" in typescript.namespace([function])


def test_models_of_2023_see_only_top_level_comments_and_never_one_line() -> None:
    text = declared(
        {"a": {"type": "object", "properties": {"b": {"type": "string", "description": "Hidden"}}}},
        legacy=True,
    )
    assert text == "type f = (_: {\na?: {\n  b?: string,\n},\n}) => any;"


def test_a_grammar_is_shown_as_stripped_comments() -> None:
    tool = {
        "type": "custom",
        "name": "calc",
        "description": "Adds.",
        "format": {
            "type": "grammar",
            "syntax": "lark",
            "definition": "\n  start: INT\n\n  INT: /x/\n",
        },
    }
    assert "// Adds.\n// start: INT\n// INT: /x/\ntype calc = (FREEFORM)" in typescript.namespace(
        [tool]
    )


@pytest.mark.parametrize(
    "function",
    [
        {},
        {"name": 7, "description": ["x"], "parameters": "none"},
        {"name": "f", "parameters": {"properties": ["a"]}},
        {"name": "f", "parameters": {"properties": {"a": 1, "b": None}, "required": 3}},
        {"name": "f", "type": "custom", "format": {"grammar": {"definition": 5}}},
    ],
)
def test_wrong_types_are_taken_as_absent(function: dict[str, Any]) -> None:
    assert "=> any;" in typescript.namespace([function])
