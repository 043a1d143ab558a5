"""Replies put together byte by byte. Pure.

Building a message from protobuf's objects costs three to five times as much as this, and a reply is
made for every message. The field numbers are those of proto/, and a test compares the bytes with
protobuf's own.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

_DOUBLE = struct.Struct("<d")
_SHORT = 100
"""Of what is up to here the lengths, its own and those around it, take one byte each."""

# A field's tag is its number times eight, and two for "a length follows".
_FIRST, _SECOND, _THIRD = 0x0A, 0x12, 0x1A

HEADER_MUTATION = _SECOND
TRAILER_MUTATION = _FIRST
BODY_MUTATION = _THIRD
CLEAR_ROUTE_CACHE = b"\x28\x01"
_CLEAR_BODY = b"\x10\x01"
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
    key, size = _name(name), len(value)
    if len(key) + size < _SHORT:
        return b"\x0a%c%b\x1a%c%b\x18\x02" % (len(key) + 2 + size, key, size, value)
    return sized(_FIRST, key + sized(_THIRD, value)) + _OVERWRITE_OR_ADD


@lru_cache(256)
def _name(name: str) -> bytes:
    return sized(_FIRST, name.encode("latin-1"))


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
    inner = b"".join([_entry(name, value) for name, value in facts.items()])
    return sized(_FIRST, _key(namespace) + sized(_SECOND, sized(0x2A, inner)))


def _entry(name: str, value: str | float) -> bytes:
    """An entry of a map to values."""
    key = _key(name)
    if not isinstance(value, str):
        return sized(_FIRST, b"%b\x12\x09\x11%b" % (key, _DOUBLE.pack(value)))
    text = value.encode("utf-8", "replace")
    size = len(text)
    if len(key) + size < _SHORT:
        return b"\x0a%c%b\x12%c\x1a%c%b" % (len(key) + 4 + size, key, size + 2, size, text)
    return sized(_FIRST, key + sized(_SECOND, sized(_THIRD, text)))


@lru_cache(256)
def _key(name: str) -> bytes:
    return sized(_FIRST, name.encode())
