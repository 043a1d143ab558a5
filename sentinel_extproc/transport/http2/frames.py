"""HTTP/2 frames: their layout, and those that we send. Pure. RFC 9113, sections 4 and 6."""

from __future__ import annotations

import struct
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client begins with (section 3.4)."""

FRAME_HEAD_BYTES = 9
DEFAULT_FRAME_BYTES = 16_384
"""Largest payload before settings say otherwise (section 4.2)."""

DEFAULT_WINDOW = 65_535
"""Flow-control windows before settings say otherwise (section 6.9.2)."""

MAX_WINDOW = 2**31 - 1

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

SETTING_MAX_CONCURRENT_STREAMS = 0x3
SETTING_INITIAL_WINDOW_SIZE = 0x4
SETTING_MAX_FRAME_SIZE = 0x5
SETTING_MAX_HEADER_LIST_SIZE = 0x6


class ErrorCode(IntEnum):
    """Why a stream or connection ends early (section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ConnectionFault(Exception):
    """The peer broke the protocol: the whole connection ends."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


read_head = struct.Struct(">IBI").unpack_from
"""Of the nine bytes before a payload: its length and, as the last byte of that number, the frame's
kind; the flags; the stream with a reserved bit before it."""

_SETTING = struct.Struct(">HI")
_WORD = struct.Struct(">I")
_PAIR = struct.Struct(">II")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One whole frame."""
    return (len(payload) << 48 | kind << 40 | flags << 32 | stream).to_bytes(9) + payload


def head(kind: int, flags: int, stream: int, size: int) -> bytes:
    """The nine bytes before a payload of ``size``."""
    return (size << 48 | kind << 40 | flags << 32 | stream).to_bytes(FRAME_HEAD_BYTES)


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(_SETTING.pack(name, value) for name, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


SETTINGS_ACK = frame(SETTINGS, ACK, 0, b"")


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """The pairs of a SETTINGS payload.

    Raises:
        ConnectionFault: no whole number of pairs.
    """
    if len(payload) % _SETTING.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of an odd length")
    return list(_SETTING.iter_unpack(payload))


def reset(stream: int, code: ErrorCode) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, _WORD.pack(code))


def window_update(stream: int, credit: int) -> bytes:
    """A WINDOW_UPDATE frame; ``stream`` 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, _WORD.pack(credit))


def goaway(last_stream: int, code: ErrorCode, reason: str = "") -> bytes:
    """A GOAWAY frame: streams above ``last_stream`` were not and won't be served."""
    return frame(GOAWAY, 0, 0, _PAIR.pack(last_stream, code) + reason.encode())


def ping(opaque: bytes, *, ack: bool) -> bytes:
    """A PING frame with its eight bytes."""
    return frame(PING, ACK if ack else 0, 0, opaque)


def read_word(payload: bytes) -> int:
    """The 31-bit number that is a whole payload (RST_STREAM's code, WINDOW_UPDATE's credit).

    Raises:
        ConnectionFault: another length.
    """
    if len(payload) != _WORD.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a payload that should be four bytes")
    return int(_WORD.unpack(payload)[0]) & 0x7FFF_FFFF


def unpadded(flags: int, payload: bytes) -> bytes:
    """What padding and priority leave of a DATA or HEADERS payload.

    Raises:
        ConnectionFault: more padding than payload.
    """
    end = len(payload)
    start = 0
    if flags & PADDED:
        if not payload or payload[0] >= end:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
        end -= payload[0]
        start = 1
    if flags & HAS_PRIORITY:
        start += 5
        if start > end:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority")
    return payload[start:end]
