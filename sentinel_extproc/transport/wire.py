"""Replies put together byte by byte. Pure.

Building a message from protobuf's objects costs three to five times as much as this, and a reply is
made for every message. What stands in front of a value depends on its name and its length alone, of
which there are few, so that is kept. The field numbers are those of proto/, and a test compares the
bytes with protobuf's own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache

_DOUBLE = struct.Struct("<d")

# A field's tag is its number times eight, and two for "a length follows".
_FIRST, _SECOND, _THIRD, _FIFTH = 0x0A, 0x12, 0x1A, 0x2A

HEADER_MUTATION = _SECOND
TRAILER_MUTATION = _FIRST
BODY_MUTATION = _THIRD
BODY = _FIRST
CLEAR_ROUTE_CACHE = b"\x28\x01"
_CLEAR_BODY = b"\x10\x01"
_OVERWRITE_OR_ADD = b"\x18\x02"


@lru_cache(1024)
def _opening(tag: int, size: int) -> bytes:
    """What stands in front of a field of ``size`` bytes; tags up to 15 * 8 + 2."""
    out = bytearray((tag,))
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


@lru_cache(1024)
def before(tags: tuple[int, ...], size: int) -> bytes:
    """What stands in front of ``size`` bytes that lie within these fields, outermost first."""
    front = b""
    for tag in reversed(tags):
        front = _opening(tag, len(front) + size) + front
    return front


def sized(tag: int, payload: bytes) -> bytes:
    """A field whose length follows its tag."""
    return _opening(tag, len(payload)) + payload


def wrapped(tag: int, parts: list[bytes]) -> list[bytes]:
    """As ``sized``, of what ``parts`` are together: a large body is copied once, when joined."""
    return [_opening(tag, sum(map(len, parts))), *parts]


def header_mutation(set_headers: Iterable[tuple[str, bytes]], remove: Iterable[str] = ()) -> bytes:
    """A ``HeaderMutation`` that replaces headers or adds them, and removes others."""
    return b"".join(
        [_before_value(name, len(value)) + value for name, value in set_headers]
        + [sized(_SECOND, name.encode("latin-1")) for name in remove]
    )


@lru_cache(1024)
def _before_value(name: str, size: int) -> bytes:
    """What stands in front of a header's value: a ``HeaderValueOption`` up to there."""
    key = sized(_FIRST, name.encode("latin-1"))
    value = _opening(_THIRD, size)
    # What to do with it comes first, though it has a higher number, so that the value ends it.
    line = _OVERWRITE_OR_ADD + _opening(_FIRST, len(key) + len(value) + size) + key + value
    return _opening(_FIRST, len(line) + size) + line


def body_mutation(body: bytes) -> list[bytes]:
    """A ``BodyMutation``. An empty body is told as "clear", since empty means "unchanged"."""
    return wrapped(BODY, [body]) if body else [_CLEAR_BODY]


def metadata(namespace: str, facts: Mapping[str, str | int | float]) -> bytes:
    """A ``Struct`` that has ``facts`` under ``namespace``."""
    inner = b"".join(
        [
            _before_text(name, len(text := value.encode("utf-8", "replace"))) + text
            if isinstance(value, str)
            else _before_number(name) + _DOUBLE.pack(value)
            for name, value in facts.items()
        ]
    )
    return _before_facts(namespace, len(inner)) + inner


@lru_cache(1024)
def _before_text(name: str, size: int) -> bytes:
    """What stands in front of a text: an entry of a map to values, up to there."""
    return _before_entry(name, before((_SECOND, _THIRD), size), size)


@lru_cache(256)
def _before_number(name: str) -> bytes:
    """What stands in front of a number, as ``_before_text``."""
    number = b"\x11"
    front = _opening(_SECOND, len(number) + _DOUBLE.size) + number
    return _before_entry(name, front, _DOUBLE.size)


@lru_cache(1024)
def _before_facts(namespace: str, size: int) -> bytes:
    """What stands in front of the facts: a ``Struct``'s one entry, which is a ``Struct``."""
    return _before_entry(namespace, before((_SECOND, _FIFTH), size), size)


def _before_entry(name: str, front: bytes, size: int) -> bytes:
    """An entry of a map to values, and ``front``: its value, both up to the last ``size`` bytes."""
    key = sized(_FIRST, name.encode())
    return _opening(_FIRST, len(key) + len(front) + size) + key + front
