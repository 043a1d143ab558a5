"""How an intent lies in a slot: the payload is a MessagePack array of its fields. Pure."""

from __future__ import annotations

import msgspec
from msgspec.structs import astuple

from sentinel_extproc.usage.record import Intent
from sentinel_extproc.usage.rows import MAX_INTEGER, amount, storable
from sentinel_extproc.usage.slots import CAPACITY, value

_ID, _USER, _ENDPOINT, _MODEL = 64, 256, 64, 128
"""Bytes kept of texts that don't all fit; together with numbers and lengths these always do."""

_encode = msgspec.msgpack.Encoder().encode
_Fields = tuple[str, int, str, str, str, str, str | None, int, int]
_decode = msgspec.msgpack.Decoder(_Fields).decode


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
        whole = _encode(astuple(intent))
        if len(whole) <= CAPACITY:  # as it nearly always is
            return whole
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


def decode(slot: bytes | memoryview) -> Intent | None:
    """The intent in a slot; None if the slot is free.

    Raises:
        TornSlotError: the content isn't what was written.
    """
    return value(slot, lambda payload: Intent(*_decode(payload)))


def _cut(text: str, most: int) -> str:
    text = storable(text)
    if len(text) <= most and text.isascii():
        return text
    return text.encode()[:most].decode(errors="ignore")
