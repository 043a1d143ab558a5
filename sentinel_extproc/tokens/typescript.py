"""Function tools as the provider shows them to the model: a TypeScript namespace.

The layout was found by comparing reported counts; the constants around it (headers, message
frames) are the family's. Rules: a title, a blank comment and the description's non-blank lines as
comments above a property; a default as a trailing comment; an object without any comment on one
line; types by ``enum``, ``const``, ``anyOf``, ``type``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

_MAX_DEPTH: Final = 32
"""Deeper schemas are written as ``any``: no provider accepts them (OpenAI's bound is 5 to 10
levels), and recursion stays short."""

_SPACED: Final = json.JSONEncoder(ensure_ascii=False)
_UNION: Final = json.JSONEncoder(ensure_ascii=False, separators=(" | ", ": "))

Schema = Mapping[str, Any]


def namespace(functions: Iterable[Schema], *, legacy: bool = False) -> str:
    """The text that declares ``functions``, each ``{name, description?, parameters?}``.

    Args:
        functions: as in a request; parts of a wrong type are taken as absent.
        legacy: as models of 2023 see it: objects always over several lines, comments only on
            top-level properties.
    """
    render = _Renderer(legacy)
    declared = "\n\n".join(render.function(function) for function in functions)
    return f"namespace functions {{\n\n{declared}\n\n}} // namespace functions"


class _Renderer:
    def __init__(self, legacy: bool) -> None:
        self._legacy = legacy

    def function(self, function: Schema) -> str:
        lines = _comment(_text(function.get("description")).strip())
        if function.get("type") == "custom":
            # Only the grammar's length is known to count; its frame is the caller's constant.
            lines += _comment("\n".join(line.strip() for line in _grammar(function).split("\n")))
            return "\n".join([*lines, f"type {_text(function.get('name'))} = (FREEFORM) => any;"])
        parameters = function.get("parameters")
        argument = self._argument(parameters) if isinstance(parameters, dict) else ""
        lines.append(f"type {_text(function.get('name'))} = ({argument}) => any;")
        return "\n".join(lines)

    def _argument(self, parameters: Schema) -> str:
        if not _properties(parameters):
            return ""
        above = [] if self._legacy else self._comments(parameters, 0)
        return "_: " + "".join(line + "\n" for line in above) + self._object(parameters, 0)

    def _comments(self, schema: Schema, depth: int) -> list[str]:
        if self._legacy:
            return _comment(_text(schema.get("description"))) if depth == 0 else []
        title = _comment(_text(schema.get("title")))
        description = _comment(_text(schema.get("description")))
        return [*title, "//", *description] if title and description else title + description

    def _object(self, schema: Schema, depth: int) -> str:
        required = schema.get("required")
        listed = required if isinstance(required, list) else []
        needed = {name for name in listed if isinstance(name, str)}
        lines: list[str] = []
        commented = False
        for name, given in _properties(schema).items():
            value = given if isinstance(given, dict) else {}
            above = self._comments(value, depth)
            after = f" // default: {_literal(value['default'])}" if "default" in value else ""
            mark = "" if name in needed else "?"
            line = f"{name}{mark}: {self._type(value, depth + 1)},{after}"
            commented = commented or bool(above) or bool(after) or "\n" in line
            lines += above
            lines.append(line)
        if self._legacy:
            indent = "  " * depth
            return "{\n" + "\n".join(indent + line for line in lines) + "\n}"
        if commented:
            return "{\n" + "\n".join(lines) + "\n}"
        return "{ " + " ".join(lines).removesuffix(",") + " }"

    def _type(self, schema: Any, depth: int) -> str:
        if not isinstance(schema, dict) or depth > _MAX_DEPTH:
            return "any"
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return _UNION.encode(schema["enum"])[1:-1]
        if "const" in schema and not self._legacy:
            return _literal(schema["const"])
        for combination in ("anyOf", "oneOf"):
            variants = schema.get(combination)
            if isinstance(variants, list) and variants:
                return " | ".join(self._type(variant, depth) for variant in variants)
        kind = schema.get("type")
        if isinstance(kind, list):
            # Each once: repeated at every level, they would multiply.
            kinds = dict.fromkeys(one for one in kind if isinstance(one, str))
            return " | ".join(self._plain(schema, one, depth) for one in kinds) or "any"
        return self._plain(schema, kind, depth)

    def _plain(self, schema: Schema, kind: Any, depth: int) -> str:
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema, depth) if _properties(schema) else "object"
        if kind == "array":
            if not isinstance(schema.get("items"), dict):
                return "any[]"
            inner = self._type(schema["items"], depth + 1)
            return f"({inner})[]" if " | " in inner and not inner.startswith("{") else f"{inner}[]"
        if kind in ("integer", "number"):
            return "number"
        return kind if kind in ("string", "boolean", "null") else "any"


def _grammar(tool: Schema) -> str:
    form = tool.get("format")
    form = form if isinstance(form, dict) else {}
    inner = form.get("grammar")
    return _text((inner if isinstance(inner, dict) else form).get("definition"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _comment(text: str) -> list[str]:
    return [f"// {line}" for line in text.split("\n") if line.strip()]


def _properties(schema: Schema) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _literal(value: Any) -> str:
    return _SPACED.encode(value)
