"""Header blocks: what may be remembered, and what is said back."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder, HPACKError
from hpack.struct import NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.transport.http2.frames import ConnectionFault
from sentinel_extproc.transport.http2.head import (
    MAX_HEAD_BYTES,
    OK_TRAILERS,
    HeadReader,
    Status,
    keeps_table,
    method_of,
    trailers,
)

FIELDS = [(":method", "POST"), (":path", "/a"), ("content-type", "application/grpc")]

ENVOY = bytes.fromhex(
    "8304a560b5773fa5d05b3b98855cbe5315761c8bf7657c1e525b2a1d1aec390a841ec635d87215084186416a49aa2d1f"
)
"""The start of a head that Envoy sends: its path isn't indexed, its authority is."""


def test_envoys_path_alone_keeps_the_table() -> None:
    assert keeps_table(ENVOY[:39])
    assert not keeps_table(ENVOY)


@pytest.mark.parametrize(
    ("block", "keeps"),
    [
        (b"", True),
        (b"\x83\xbe", True),
        (b"\xff\x80\x01", True),
        (b"\x00\x01a\x01b", True),
        (b"\x10\x01a\x01b", True),
        (b"\x0f\x05\x01b", True),
        (b"\x40\x01a\x01b", False),
        (b"\x83\x41\x01b", False),
        (b"\x20", False),
        (b"\x3f\x01", False),
    ],
)
def test_what_keeps_the_table(block: bytes, keeps: bool) -> None:
    assert keeps_table(block) is keeps


texts = st.text("abcdefgh-", min_size=1, max_size=200)
fields = st.lists(st.tuples(texts, texts, st.booleans()), max_size=8)


@given(st.lists(fields, min_size=1, max_size=8))
def test_it_reads_what_the_library_reads_however_often_a_block_comes(
    heads: list[list[tuple[str, str, bool]]],
) -> None:
    encoder, reader, reference = Encoder(), HeadReader(), Decoder()
    for head in heads + heads:
        block = encoder.encode(
            [NeverIndexedHeaderTuple(n, v) if secret else (n, v) for n, v, secret in head]
        )
        expected = [(bytes(n), bytes(v)) for n, v in reference.decode(block, raw=True)]
        assert list(reader.read(block)) == expected
        if keeps_table(block):
            assert list(reader.read(block)) == expected


odd = st.sampled_from(
    [
        b"\x20",  # no table at all, and one as large as may be, or larger
        b"\x3f\xe1\x1f",
        b"\x3f\xe2\x1f",
        b"\x80",
        b"\xff\x80\x80\x80\x80\x00",  # as long as a number may be, or longer
        b"\xff\x80\x80\x80\x80\x80\x00",
        b"\xff\xff",
        b"\x40\x01a",
        b"\x00\x81\xff\x01b",
        b"\x40\x01a\x7f\x81\x1e" + b"b" * 4000,
        b"\xbe" * 50,
    ]
)


@given(st.lists(st.tuples(fields, odd, st.integers(0, 40), st.booleans()), min_size=1, max_size=6))
def test_it_refuses_what_the_library_refuses_and_keeps_the_same_table(
    heads: list[tuple[list[tuple[str, str, bool]], bytes, int, bool]],
) -> None:
    encoder, reader = Encoder(), HeadReader()
    reference = Decoder(max_header_list_size=MAX_HEAD_BYTES)
    for head, piece, at, whole in heads:
        block = encoder.encode([(n, v) for n, v, _ in head])
        block = block if whole else block[:at] + piece + block[at:]
        try:
            expected = [(bytes(n), bytes(v)) for n, v in reference.decode(block, raw=True)]
        except HPACKError:
            with pytest.raises(ConnectionFault, match="undecodable"):
                reader.read(block)
            return
        assert list(reader.read(block)) == expected


@pytest.mark.parametrize(
    "head",
    [
        [(":method", "GET"), *FIELDS[1:]],
        FIELDS[:2],
        [*FIELDS[:2], ("content-type", "application/json")],
        [FIELDS[0], FIELDS[2]],
    ],
)
def test_what_is_no_grpc_call(head: list[tuple[str, str]]) -> None:
    reader = HeadReader()
    assert method_of(reader.read(Encoder().encode(FIELDS))) == b"/a"
    assert method_of(reader.read(Encoder().encode(head))) is None


def test_trailers_read_back() -> None:
    decoder = Decoder()
    assert list(decoder.decode(OK_TRAILERS, raw=True)) == [(b"grpc-status", b"0")]
    alone = trailers(Status.CANCELLED, "é" * 2000, alone=True)
    read = dict(decoder.decode(alone, raw=True))
    assert read[b":status"] == b"200"
    assert read[b"grpc-message"] == b"%C3%A9" * 1024, "long enough for a length of two bytes"
