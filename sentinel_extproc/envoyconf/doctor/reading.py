"""Looking into a configuration that may be anything. Pure; what isn't as expected isn't there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

Tree = dict[str, Any]
"""A message as protobuf JSON, with field names as in Envoy's documentation."""

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)s")
_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_EXTENSION_KIND = re.compile(r"\.filters\.(?:http|network)\.([a-z0-9_]+)\.")
_EXTENSION_NAME = re.compile(r"envoy\.filters\.(?:http|network)\.([a-z0-9_]+)")

_NESTED_REPEAT = re.compile(r"[*+}][^()]*\)[*+{]")

_FREE_KEYS = frozenset(
    {"typed_per_filter_config", "typed_extension_protocol_options", "filter_metadata"}
)
"""Maps whose keys are the user's, not field names."""

_OPAQUE = frozenset({"static_layer", "json_format", "inline_code"})
_TYPED_STRUCTS = (".TypedStruct",)
MAX_REPEATS = 8
MAX_DEPTH = 200
"""Nesting that no configuration needs."""


class Unreadable(Exception):
    """What was given is not a configuration of Envoy's; the message says what it is instead."""


def normal(value: Any) -> Any:
    """A copy with snake_case field names and TypedStructs unwrapped, as Envoy itself reads them.

    What is shared by YAML anchors stays shared, so a small file can't become a large tree.

    Raises:
        Unreadable: nested deeper than ``MAX_DEPTH``.
    """
    return _normal(value, {}, 0)


def _normal(value: Any, done: dict[int, Any], depth: int) -> Any:
    if not isinstance(value, dict | list):
        return value
    if id(value) in done:
        return done[id(value)]
    if depth > MAX_DEPTH:
        raise Unreadable(f"it is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list):
        copied: list[Any] = []
        done[id(value)] = copied
        copied.extend(_normal(item, done, depth + 1) for item in value)
        return copied
    tree: Tree = {}
    done[id(value)] = tree
    inner = value.get("value")
    if str(value.get("@type", "")).endswith(_TYPED_STRUCTS) and isinstance(inner, dict):
        tree["@type"] = value.get("type_url", value.get("typeUrl", ""))
        value = inner
    for key, item in value.items():
        name = _field(str(key))
        if name in _OPAQUE:
            tree[name] = item
        elif name in _FREE_KEYS and isinstance(item, dict):
            tree[name] = {str(k): _normal(v, done, depth + 2) for k, v in item.items()}
        else:
            tree[name] = _normal(item, done, depth + 1)
    return tree


@lru_cache(maxsize=4096)
def _field(name: str) -> str:
    if not name.isidentifier():
        return name
    return _CAMEL.sub(r"_\1", name).lower()


def found(tree: Any, path: str) -> Any:
    """What is at a dotted path of field names; None where any step is missing."""
    for name in path.split("."):
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(name)
    return tree


def section(tree: Any, path: str) -> Tree:
    """The message at a path; an empty one if there is none."""
    value = found(tree, path)
    return value if isinstance(value, dict) else {}


def entries(tree: Any, path: str) -> list[Tree]:
    """The messages of the list at a path."""
    value = found(tree, path)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def texts(tree: Any, path: str) -> list[str]:
    """The strings of the list at a path."""
    value = found(tree, path)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def text(tree: Any, path: str) -> str:
    """The string at a path, or an empty one."""
    value = found(tree, path)
    return value if isinstance(value, str) else ""


def flag(tree: Any, path: str) -> bool:
    """Whether the field at a path is true; unset fields are false."""
    value = found(tree, path)
    return value is True or (isinstance(value, str) and value.lower() == "true")


def integer(tree: Any, path: str) -> int | None:
    """The whole number at a path; 64-bit ones are strings in protobuf JSON."""
    value = found(tree, path)
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return None


def seconds(tree: Any, path: str) -> float | None:
    """The duration at a path, in seconds; None if there is none."""
    value = found(tree, path)
    if not isinstance(value, str):
        return None
    match = _DURATION.fullmatch(value)
    return float(match[1]) if match else None


def cut_at(limit_s: float | None) -> bool:
    """Whether a bound is there at all: Envoy takes 0 for none."""
    return limit_s is not None and limit_s > 0


def covers(regex: str, value: str) -> bool | None:
    """Whether a pattern of the configuration matches all of ``value``; None if it can't be told.

    RE2's syntax and Python's are the same where paths and header names are concerned. Python's
    can take very long where RE2's can't, so what repeats repetitions, or much, isn't tried.
    """
    repeats = sum(regex.count(char) for char in "*+{")
    if len(regex) > 1000 or repeats > MAX_REPEATS or _NESTED_REPEAT.search(regex):
        return None
    try:
        return re.fullmatch(regex, value) is not None
    except (re.error, RecursionError, OverflowError):
        return None


def kind(extension: Tree) -> str:
    """Which extension a filter is, such as ``ext_proc``: by its type, else by its name.

    A name is free text where a type is given, so the type decides.
    """
    type_url = text(extension, "typed_config.@type")
    if type_url:
        match = _EXTENSION_KIND.search(type_url)
        return match[1] if match else type_url.rpartition(".")[2]
    named = _EXTENSION_NAME.match(text(extension, "name"))
    return named[1] if named else text(extension, "name")
