"""Header blocks: what a call asks for, and how it ends. Pure. RFC 7541 and gRPC's PROTOCOL-HTTP2.

What we send is encoded without a table, as bytes that are the same every time. A block that doesn't
change the table, which is what a client sends from its second call on, means the same when it comes
again, so it is remembered. Where Envoy traces, each names another trace, so it is decoded here, in
less than half of the time that the ``hpack`` library takes; its table and Huffman code are used.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from urllib.parse import quote

from hpack import HPACKDecodingError, HPACKError, InvalidTableSizeError, OversizedHeaderListError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from sentinel_extproc.transport.http2.frames import ConnectionFault, ErrorCode

MAX_HEAD_BYTES = 32 * 1024
"""Of one header list, decoded. Envoy's own calls have some hundred bytes."""

_FIELD_BYTES = 32
"""What each counts for besides its name and value (RFC 7541, section 4.1)."""

_INTEGER_BYTES = 5
"""Behind a number's first: enough for 32 bits."""

_SHORT_BYTES = 128
"""Of a string whose Huffman code is worth remembering, such as the method's path."""

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
        self._table = HeaderTable()
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
            fields = self._decode(block)
        except HPACKError as fault:
            raise ConnectionFault(
                ErrorCode.COMPRESSION_ERROR, f"an undecodable header block: {fault}"
            ) from None
        if keeps_table(block):
            if len(self._known) < _REMEMBERED and len(block) <= _REMEMBERED_BYTES:
                self._known[block] = fields
        else:
            # The block may have changed the table that the others refer to.
            self._known.clear()
        return fields

    def _decode(self, block: bytes) -> Fields:
        table = self._table
        fields: list[tuple[bytes, bytes]] = []
        at = size = 0
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _checked_integer(block, at, 0x7F)
                field = table.get_by_index(index)
            elif first & 0xE0 == 0x20:
                if fields:
                    raise HPACKDecodingError("Table size update not at the start of the block")
                most, at = _checked_integer(block, at, 0x1F)
                if most > HeaderTable.DEFAULT_SIZE:  # our settings name no other
                    raise InvalidTableSizeError("Encoder exceeded max allowable table size")
                table.maxsize = most
                continue
            else:
                index, at = _checked_integer(block, at, 0x3F if first & 0x40 else 0x0F)
                if index:
                    name = table.get_by_index(index)[0]
                else:
                    name, at = _text(block, at)
                value, at = _text(block, at)
                field = (name, value)
                if first & 0x40:
                    table.add(name, value)
            fields.append(field)
            size += len(field[0]) + len(field[1]) + _FIELD_BYTES
            if size > MAX_HEAD_BYTES:
                raise OversizedHeaderListError(
                    f"A header list larger than {MAX_HEAD_BYTES} has been received"
                )
        return tuple(fields)


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


def _checked_integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """As ``_integer``, for any block.

    Raises:
        HPACKDecodingError: the block ends before it, or it is longer than any that means something.
    """
    value = block[at] & prefix if at < len(block) else prefix
    if value < prefix:
        return value, at + 1
    tail = block[at + 1 : at + 1 + _INTEGER_BYTES]
    if all(byte & 0x80 for byte in tail):
        raise HPACKDecodingError("Unable to decode HPACK integer representation")
    return _integer(block, at, prefix)


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    """A string, and where it ends (section 5.2).

    Raises:
        HPACKDecodingError: there is none.
    """
    size, begin = _checked_integer(block, at, 0x7F)
    end = begin + size
    text = block[begin:end]
    if len(text) != size:
        raise HPACKDecodingError("Truncated header block")
    if not block[at] & 0x80:
        return text, end
    return _unpacked(text) if size <= _SHORT_BYTES else decode_huffman(text), end


@lru_cache(maxsize=256)
def _unpacked(text: bytes) -> bytes:
    return bytes(decode_huffman(text))


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
