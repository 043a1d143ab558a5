"""Replies put together byte by byte. Pure.

Building a message from protobuf's objects costs three to five times as much as this, and a reply is
made for every message. The field numbers are those of proto/, and a test compares the bytes with
protobuf's own.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_DOUBLE = struct.Struct("<d")

# A field's tag is its number times eight, and two for "a length follows".
_FIRST, _SECOND, _THIRD = 0x0A, 0x12, 0x1A

HEADER_MUTATION = _SECOND
TRAILER_MUTATION = _FIRST
BODY_MUTATION = _THIRD
CLEAR_ROUTE_CACHE = b"\x28\x01"
_CLEAR_BODY = b"\x10\x01"
_NUMBER = b"\x11"
_OVERWRITE_OR_ADD = b"\x18\x02"


def sized(tag: int, payload: bytes) -> bytes:
    """A field whose length follows its tag; tags up to 15 * 8 + 2."""
    size = len(payload)
    if size < 0x80:
        return bytes((tag, size)) + payload
    return bytes((tag,)) + _varint(size) + payload


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def wrapped(tag: int, parts: list[bytes]) -> list[bytes]:
    """As ``sized``, of what ``parts`` are together: a large body is copied once, when joined."""
    return [bytes((tag,)) + _varint(sum(map(len, parts))), *parts]


def set_header(name: str, value: bytes) -> bytes:
    """A ``HeaderValueOption`` that replaces a header or adds it."""
    header = sized(_FIRST, name.encode("latin-1")) + sized(_THIRD, value)
    return sized(_FIRST, header) + _OVERWRITE_OR_ADD


def header_mutation(set_headers: list[bytes], remove: tuple[str, ...]) -> bytes:
    """A ``HeaderMutation`` of what ``set_header`` made and names to remove."""
    return b"".join(
        [sized(_FIRST, one) for one in set_headers]
        + [sized(_SECOND, name.encode("latin-1")) for name in remove]
    )


def body_mutation(body: bytes) -> list[bytes]:
    """A ``BodyMutation``. An empty body is told as "clear", since empty means "unchanged"."""
    return wrapped(_FIRST, [body]) if body else [_CLEAR_BODY]


def metadata(namespace: str, facts: Mapping[str, str | int | float]) -> bytes:
    """A ``Struct`` that has ``facts`` under ``namespace``."""
    inner = b"".join([sized(_FIRST, _entry(name, _value(value))) for name, value in facts.items()])
    outer = _entry(namespace, sized(0x2A, inner))
    return sized(_FIRST, outer)


def _entry(key: str, value: bytes) -> bytes:
    return sized(_FIRST, key.encode()) + sized(_SECOND, value)


def _value(value: str | float) -> bytes:
    if isinstance(value, str):
        return sized(_THIRD, value.encode("utf-8", "replace"))
    return _NUMBER + _DOUBLE.pack(value)
