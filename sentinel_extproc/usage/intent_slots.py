"""How an intent lies in a slot of the intents file. Pure.

A slot is ``SLOT_BYTES`` long: CRC-32 of the payload and its length, four bytes each, little
endian, then the payload, a MessagePack array of the intent's fields. A length of 0 means that the
slot is free. The length is written last, so that a slot is free or whole whenever the process dies;
after the loss of power it may be torn, which the CRC tells.
"""

from __future__ import annotations

import struct
import zlib

import msgspec
from msgspec.structs import astuple

from sentinel_extproc.usage.record import Intent
from sentinel_extproc.usage.rows import MAX_INTEGER, amount, storable

SLOT_BYTES = 1024

HEAD = struct.Struct("<II")
CAPACITY = SLOT_BYTES - HEAD.size

_ID, _USER, _ENDPOINT, _MODEL = 64, 256, 64, 128
"""Bytes kept of texts that don't all fit; together with numbers and lengths these always do."""

_encode = msgspec.msgpack.Encoder().encode
_Fields = tuple[str, int, str, str, str, str, str | None, int, int]
_decode = msgspec.msgpack.Decoder(_Fields).decode


class TornSlotError(Exception):
    """The slot was in use, and its content can't be read."""


def encode(intent: Intent) -> bytes:
    """The payload of an intent, at most ``CAPACITY`` bytes: long texts are cut."""
    texts = f"{intent.id}{intent.external_id}{intent.email}{intent.endpoint}{intent.model}"
    texts = f"{texts}{intent.request_id}"
    if (
        texts.isascii()
        and "\0" not in texts
        and 0 <= intent.predicted_input_tokens <= MAX_INTEGER
        and 0 <= intent.reserved_output_tokens <= MAX_INTEGER
    ):
        payload = _encode(astuple(intent))
        if len(payload) <= CAPACITY:  # as it nearly always is
            return payload
    request_id = intent.request_id
    return _encode(
        (
            _cut(intent.id, _ID),
            intent.occurred_at_ms,
            _cut(intent.external_id, _USER),
            _cut(intent.email, _USER),
            _cut(intent.endpoint, _ENDPOINT),
            _cut(intent.model, _MODEL),
            None if request_id is None else _cut(request_id, _MODEL),
            amount(intent.predicted_input_tokens),
            amount(intent.reserved_output_tokens),
        )
    )


def head(payload: bytes) -> bytes:
    """What goes in front of a payload."""
    return HEAD.pack(zlib.crc32(payload), len(payload))


def decode(slot: bytes | memoryview) -> Intent | None:
    """The intent in a slot; None if the slot is free.

    Raises:
        TornSlotError: the content isn't what was written.
    """
    crc, length = HEAD.unpack_from(slot)
    if not length:
        return None
    payload = bytes(slot[HEAD.size : HEAD.size + length])
    if length > CAPACITY or zlib.crc32(payload) != crc:
        raise TornSlotError
    try:
        return Intent(*_decode(payload))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TornSlotError from error


def _cut(text: str, most: int) -> str:
    text = storable(text)
    if len(text) <= most and text.isascii():
        return text
    return text.encode()[:most].decode(errors="ignore")
