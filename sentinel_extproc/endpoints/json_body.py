"""Request bodies as strict JSON objects: what we count must be what the provider reads. Pure.

RFC 8259 leaves duplicate names, huge numbers and nesting to the implementation, and two
implementations that differ there disagree on what a request says. All of it is refused.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from sentinel_extproc.endpoints.governing import (
    GOVERNING_ITEM,
    GOVERNING_MEDIA,
    MEDIA,
    refuse_misspelt,
)
from sentinel_extproc.errors import InvalidRequest, PayloadTooLarge

MAX_DEPTH = 128
"""Nesting of arrays and objects; OpenAI allows JSON schemas 10 deep inside a tool."""

MAX_VALUES = 250_000
"""Values in one body: a prompt of a million tokens as token ids has more, but is sent as text. A
body of 16 MiB could hold five million empty arrays, which take seconds to decode."""

MAX_CONTAINERS = 50_000
"""Arrays and objects in one body: they cost most to decode, to walk and to collect. Ten thousand
messages with parts have 30,000."""

_LARGE_BYTES = 64 << 10
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)

MAX_MODEL_CHARS = 256
"""Fine-tuned names run to about 100 characters; a name also becomes a key and a metric's label."""

MAX_COUNT = 2**31 - 1
"""Bound for caps and counts: beyond any context window, and sums of them stay below 2^53."""

_ITEMS = ("messages", "input", "system")
"""Members that hold items with governing names of their own."""

AMBIGUOUS = frozenset({"duplicate_key", "misspelt_name"})
"""Codes of refusals of bodies that say different things to different readers."""


def parse_object(body: bytes | None) -> dict[str, Any]:
    """Decode a request body.

    Raises:
        InvalidRequest: missing, not UTF-8, not JSON, not an object, duplicate names, numbers that
            no float can hold, nested deeper than ``MAX_DEPTH``, or names that another parser could
            take for a governing one.
    """
    if not body:
        raise InvalidRequest("The request has no body; a JSON object is needed.", code="empty_body")
    large = len(body) > _LARGE_BYTES
    if large:
        _check_values(body)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise InvalidRequest(
            f"The request body is not valid UTF-8 (byte {fault.start}).", code="invalid_utf8"
        ) from None
    try:
        value = (_LARGE if large else _USUAL).decode(text)
    except InvalidRequest:
        raise
    except json.JSONDecodeError as fault:
        said = _BYTE_ORDER_MARK if text.startswith("\ufeff") else fault.msg
        raise InvalidRequest(
            f"The request body is not valid JSON: {said} at line {fault.lineno}, "
            f"column {fault.colno}.",
            code="invalid_json",
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # Python refuses integers of more than 4300 digits
        raise _number_too_large() from None
    if not isinstance(value, dict):
        raise InvalidRequest("The request body must be a JSON object.", code="invalid_json")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    _check_names(value)
    return value


def model_name(body: dict[str, Any]) -> str:
    """The request's model.

    Raises:
        InvalidRequest: absent, not a string, empty, too long or with control characters.
    """
    model = body.get("model")
    if model is None:
        raise InvalidRequest("You must provide a model parameter.", param="model")
    if not isinstance(model, str) or not model.strip():
        raise InvalidRequest("'model' must be a non-empty string.", param="model")
    if len(model) > MAX_MODEL_CHARS or not model.isprintable():
        raise InvalidRequest(
            f"'model' must be at most {MAX_MODEL_CHARS} printable characters.", param="model"
        )
    return model


def optional_bool(body: dict[str, Any], name: str) -> bool:
    """A boolean that may be absent or null (False).

    Raises:
        InvalidRequest: any other type. A string ``"true"`` is refused: providers differ on it.
    """
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidRequest(f"'{name}' must be true or false.", param=name)
    return value


def optional_count(body: dict[str, Any], name: str, *, least: int, most: int) -> int | None:
    """A whole number that may be absent or null (None).

    Raises:
        InvalidRequest: another type, or outside ``least`` to ``most``.
    """
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"'{name}' must be an integer.", param=name)
    if not least <= value <= most:
        raise InvalidRequest(f"'{name}' must be between {least} and {most}.", param=name)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                shown = ascii(name[:64])
                raise InvalidRequest(
                    f"The request body has the name {shown} twice in one object.",
                    code="duplicate_key",
                )
            seen.add(name)
    return value


def _check_names(value: dict[str, Any]) -> None:
    refuse_misspelt(value)
    left = [value[name] for name in _ITEMS if name in value]
    while left:
        items = left.pop()
        if not isinstance(items, list):
            continue
        for item in items:
            if not isinstance(item, dict):
                continue
            if not item.keys() <= GOVERNING_ITEM:
                refuse_misspelt(item, GOVERNING_ITEM)
            if isinstance(content := item.get("content"), list):
                left.append(content)
            if "type" in item:
                _check_media(item)


def _check_media(part: dict[str, Any]) -> None:
    for name in MEDIA:
        if isinstance(said := part.get(name), dict):
            refuse_misspelt(said, GOVERNING_MEDIA)


def _integer(text: str) -> int:
    # In Python, so that a long array lets go of the interpreter's lock now and then.
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _number_too_large()
    return value


def _no_constant(text: str) -> NoReturn:
    raise InvalidRequest(f"The request body is not valid JSON: {text}.", code="invalid_json")


def _number_too_large() -> InvalidRequest:
    return InvalidRequest(
        "The request body holds a number that is too large.", code="number_too_large"
    )


def _too_deep() -> InvalidRequest:
    return InvalidRequest(
        f"The request body is nested deeper than {MAX_DEPTH} levels.", code="nested_too_deep"
    )


_USUAL = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_finite, parse_constant=_no_constant
)
_LARGE = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_finite,
    parse_constant=_no_constant,
)
_BYTE_ORDER_MARK = "Unexpected UTF-8 BOM (decode using utf-8-sig)"
"""What ``json.loads`` says of one."""


def _check_values(body: bytes) -> None:
    if not _too_many(*_separators(body)):  # text that is no separator is counted too, cheaply
        return
    commas = containers = start = 0
    # One string at a time, since a substitution in all of it would hold the interpreter's lock.
    for string in _STRING.finditer(body):
        found = _separators(body[start : string.start()])
        commas, containers, start = commas + found[0], containers + found[1], string.end()
        if _too_many(commas, containers):
            break
    found = _separators(body[start:])
    if _too_many(commas + found[0], containers + found[1]):
        raise PayloadTooLarge(
            f"The request body has more than {MAX_VALUES} values, or more than {MAX_CONTAINERS} "
            "arrays and objects.",
            code="too_many_values",
        )


def _separators(body: bytes) -> tuple[int, int]:
    """Commas, and beginnings of arrays and objects."""
    return body.count(b","), body.count(b"[") + body.count(b"{")


def _too_many(commas: int, containers: int) -> bool:
    # Each value is the first of its container, or follows a comma.
    return containers > MAX_CONTAINERS or commas + containers > MAX_VALUES


def _check_depth(value: dict[str, Any]) -> None:
    # Level by level rather than by recursion: the input decides how deep it goes.
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()
