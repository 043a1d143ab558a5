"""Header blocks: what a call asks for, and how it ends. Pure. RFC 7541 and gRPC's PROTOCOL-HTTP2.

What we send is encoded without a table, as bytes that are the same every time. What we receive is
decoded by the ``hpack`` library. A block that doesn't change the table, which is what a client
sends from its second call on, means the same when it comes again, so it is remembered.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from urllib.parse import quote

from hpack import Decoder, HPACKError

from sentinel_extproc.transport.http2.frames import ConnectionFault, ErrorCode

MAX_HEAD_BYTES = 32 * 1024
"""Of one header list, decoded. Envoy's own calls have some hundred bytes."""

_REMEMBERED = 64
_REMEMBERED_BYTES = 1024
"""Of one block: those that Envoy repeats are far shorter, and no budget covers what is kept."""


class Status(IntEnum):
    """How a gRPC call ends; the few that we use."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


Fields = tuple[tuple[bytes, bytes], ...]


class HeadReader:
    """Decodes the header blocks of one connection, in the order they came."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=MAX_HEAD_BYTES)
        self._known: dict[bytes, Fields] = {}

    def read(self, block: bytes) -> Fields:
        """The fields of a block.

        Raises:
            ConnectionFault: undecodable, so the table can't be trusted from here on; or too large.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            decoded = self._decoder.decode(block, raw=True)
        except HPACKError as fault:
            raise ConnectionFault(
                ErrorCode.COMPRESSION_ERROR, f"an undecodable header block: {fault}"
            ) from None
        fields = tuple((bytes(name), bytes(value)) for name, value in decoded)
        if keeps_table(block):
            if len(self._known) < _REMEMBERED and len(block) <= _REMEMBERED_BYTES:
                self._known[block] = fields
        else:
            # The block may have changed the table that the others refer to.
            self._known.clear()
        return fields


def keeps_table(block: bytes) -> bool:
    """Whether decoding a block leaves the table as it is; for blocks that could be decoded.

    So it is when each field is a reference, or a literal that is not to be indexed (RFC 7541,
    sections 6.1, 6.2.2 and 6.2.3).
    """
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            _, at = _integer(block, at, 0x7F)
            continue
        if first & 0x60:  # to be indexed, or a new size of the table
            return False
        name, at = _integer(block, at, 0x0F)
        for _ in range(1 if name else 2):
            size, at = _integer(block, at, 0x7F)
            at += size
    return True


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """A number whose first byte's low bits are ``prefix``, and where it ends (section 5.1)."""
    value = block[at] & prefix
    at += 1
    if value < prefix:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


@lru_cache(maxsize=8)  # a client's calls begin alike
def method_of(fields: Fields) -> bytes | None:
    """The path of a gRPC call; None when it isn't one."""
    path = None
    grpc = posted = False
    for name, value in fields:
        if name == b":path":
            path = value
        elif name == b":method":
            posted = value == b"POST"
        elif name == b"content-type":
            grpc = value.startswith(b"application/grpc")
    return path if grpc and posted else None


def _literal(name: bytes, value: bytes) -> bytes:
    """A field that enters no table, uncompressed (RFC 7541, section 6.2.2)."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    if len(text) < 0x7F:
        return bytes((len(text),)) + text
    rest = len(text) - 0x7F
    out = bytearray((0x7F,))
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out) + text


STATUS_200 = b"\x88"
"""``:status: 200`` of the static table."""

_CONTENT_TYPE = _literal(b"content-type", b"application/grpc")

OPENING = STATUS_200 + _CONTENT_TYPE
"""The block that begins an answer."""

NOT_GRPC = _literal(b":status", b"415")
"""The whole answer to what is no gRPC call."""

_MAX_REASON = 1024
_PLAIN = " !#$&'()*+,/:;=?@[]"


def trailers(status: Status, reason: str = "", *, alone: bool = False) -> bytes:
    """The block that ends an answer.

    Args:
        reason: for the peer's log; cut at a thousand characters.
        alone: it is all of the answer, so it says what an opening would have.
    """
    block = _literal(b"grpc-status", b"%d" % status)
    if reason:
        block += _literal(
            b"grpc-message", quote(reason[:_MAX_REASON], safe=_PLAIN, errors="replace").encode()
        )
    return OPENING + block if alone else block


OK_TRAILERS = trailers(Status.OK)
