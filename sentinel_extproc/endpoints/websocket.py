"""WebSocket frames, from bytes in any split, in bounded memory. Pure.

The grammar is RFC 6455, section 5. Messages come out whole, fragments joined and unmasked; one over
the bound comes out without its content.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAX_MESSAGE_BYTES = 1 << 20
"""Messages kept to be read. Sound comes in pieces of some 10 KiB; larger ones are only counted."""

TEXT, BINARY, CLOSE = 0x1, 0x2, 0x8
_CONTINUATION = 0x0
_MAX_HEADER = 14
_MAX_CONTROL = 125
_POLICY_VIOLATION = 1008


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        size: bytes of its content.
        content: None when it was over the bound.
    """

    opcode: int
    size: int
    content: bytes | None


class FrameScanner:
    """Cuts one direction of a connection into messages. Never raises.

    Attributes:
        broken: it is no WebSocket, or has an extension in it; nothing more can be told.
        unread: bytes that came after it broke.
        partial: bytes at the end that are of a message not yet complete.
    """

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.broken = False
        self.unread = 0
        self.partial = 0
        self._max = max_message_bytes
        self._header = b""
        self._in_frame = False
        self._left = 0
        self._mask = b""
        self._mask_at = 0
        self._final = True
        self._control: int | None = None
        self._message: int | None = None
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[Message]:
        """Take the next bytes; give the messages that they complete."""
        messages: list[Message] = []
        at = 0
        while at < len(chunk) and not self.broken:
            start = at
            at = self._payload(chunk, at) if self._in_frame else self._head(chunk, at)
            self.partial += at - start
            if self._in_frame and not self._left:
                self._in_frame = False
                self._end_frame(messages)
        if self.broken:
            self.unread += len(chunk) - at
        return messages

    def _head(self, chunk: bytes, at: int) -> int:
        taken = chunk[at : at + _MAX_HEADER - len(self._header)]
        header = self._header + taken
        need = 2
        if len(header) >= 2:
            short = header[1] & 0x7F
            need += {126: 2, 127: 8}.get(short, 0) + (4 if header[1] & 0x80 else 0)
        if len(header) < need:
            self._header = header
            return at + len(taken)
        used = need - len(self._header)
        self._header = b""
        self._start_frame(header[:need])
        return at + used

    def _start_frame(self, header: bytes) -> None:
        opcode = header[0] & 0x0F
        self._final = bool(header[0] & 0x80)
        length = header[1] & 0x7F
        rest = header[2:]
        if length == 126:
            length, rest = int.from_bytes(rest[:2], "big"), rest[2:]
        elif length == 127:
            length, rest = int.from_bytes(rest[:8], "big"), rest[8:]
        self._mask, self._mask_at = rest, 0
        self._left = length
        self._in_frame = True
        control = opcode >= CLOSE
        begins = opcode in (TEXT, BINARY)
        self.broken = (
            bool(header[0] & 0x70)
            or (control and (length > _MAX_CONTROL or not self._final))
            or (not control and not begins and opcode != _CONTINUATION)
            or (begins and self._message is not None)
            or (opcode == _CONTINUATION and self._message is None)
        )
        self._control = opcode if control else None
        if begins:
            self._message = opcode
            self._pieces, self._size = [], 0

    def _payload(self, chunk: bytes, at: int) -> int:
        piece = chunk[at : at + self._left]
        self._left -= len(piece)
        if self._control is None:
            self._size += len(piece)
            if self._size <= self._max:
                self._pieces.append(self._unmasked(piece))
            else:
                self._pieces.clear()
        return at + len(piece)

    def _unmasked(self, piece: bytes) -> bytes:
        if not self._mask:
            return piece
        turn = self._mask_at % 4
        mask = (self._mask[turn:] + self._mask[:turn]) * (len(piece) // 4 + 1)
        self._mask_at += len(piece)
        number = int.from_bytes(piece, "big") ^ int.from_bytes(mask[: len(piece)], "big")
        return number.to_bytes(len(piece), "big")

    def _end_frame(self, messages: list[Message]) -> None:
        if self._control is not None:
            messages.append(Message(self._control, 0, b""))
        elif self._final and self._message is not None:
            content = b"".join(self._pieces) if self._size <= self._max else None
            messages.append(Message(self._message, self._size, content))
            self._message, self._pieces = None, []
        if self._message is None:
            self.partial = 0


def text_frame(content: bytes) -> bytes:
    """An unmasked text message in one frame."""
    return _frame(TEXT, content)


def close_frame(reason: str) -> bytes:
    """An unmasked close with the status for a policy violation (RFC 6455, section 7.4.1)."""
    content = struct.pack(">H", _POLICY_VIOLATION) + reason.encode()
    return _frame(CLOSE, content[:_MAX_CONTROL])


def _frame(opcode: int, content: bytes) -> bytes:
    size = len(content)
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 127, size)
    return head + content
