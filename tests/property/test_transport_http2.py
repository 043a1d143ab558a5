"""Any bytes, cut anywhere: the same events, or a named fault, and bounded memory."""

from __future__ import annotations

from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel_extproc.transport.http2 import frames
from sentinel_extproc.transport.http2.calls import Assembler, CallFault
from sentinel_extproc.transport.http2.connection import Connection
from sentinel_extproc.transport.http2.events import Event, MessageReceived
from sentinel_extproc.transport.http2.frames import ConnectionFault

HEAD = [(":method", "POST"), (":path", "/p"), ("content-type", "application/grpc")]
GREETING = frames.PREFACE + frames.settings({4: 100_000})

messages = st.lists(st.binary(max_size=300), max_size=8)
cuts = st.lists(st.integers(1, 40), max_size=60)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    out = []
    for size in sizes:
        out.append(data[:size])
        data = data[size:]
    return [piece for piece in (*out, data) if piece]


def session(calls: list[list[bytes]], sizes: list[int]) -> bytes:
    encoder = Encoder()
    out = GREETING
    for n, sent in enumerate(calls):
        stream = 2 * n + 1
        out += frames.frame(frames.HEADERS, frames.END_HEADERS, stream, encoder.encode(HEAD))
        body = b"".join(b"\0" + len(m).to_bytes(4) + m for m in sent)
        for piece in pieces(body, sizes):
            out += frames.frame(frames.DATA, 0, stream, piece)
        out += frames.frame(frames.DATA, frames.END_STREAM, stream, b"")
    return out


def server() -> Connection:
    return Connection(max_streams=5, max_message_bytes=10_000)


def read(connection: Connection, parts: list[bytes]) -> list[Event]:
    return [event for part in parts for event in connection.receive(part)]


@settings(max_examples=200, deadline=None)
@given(st.lists(messages, max_size=4), cuts, cuts)
def test_the_cut_does_not_matter(
    calls: list[list[bytes]], frame_sizes: list[int], cut: list[int]
) -> None:
    data = session(calls, frame_sizes)
    whole = read(server(), [data])
    assert read(server(), pieces(data, cut)) == whole
    assert read(server(), [data[n : n + 1] for n in range(len(data))]) == whole
    got = [event.data for event in whole if isinstance(event, MessageReceived)]
    assert got == [message for sent in calls for message in sent]


@settings(max_examples=300, deadline=None)
@given(st.lists(messages, max_size=3), cuts, st.data())
def test_mutated_sessions_end_in_events_or_a_named_fault(
    calls: list[list[bytes]], frame_sizes: list[int], data: st.DataObject
) -> None:
    sent = bytearray(session(calls, frame_sizes))
    for _ in range(data.draw(st.integers(1, 5))):
        sent[data.draw(st.integers(len(frames.PREFACE), len(sent) - 1))] = data.draw(
            st.integers(0, 255)
        )
    connection = server()
    try:
        connection.receive(bytes(sent))
    except ConnectionFault:
        assert connection.has_output, "the peer is told why"
    assert connection.calls <= 5


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000))
def test_bytes_that_follow_a_greeting(noise: bytes) -> None:
    connection = server()
    try:
        connection.receive(GREETING + noise)
    except ConnectionFault:
        assert connection.has_output


@settings(max_examples=300, deadline=None)
@given(messages, cuts)
def test_messages_come_whole_out_of_any_pieces(sent: list[bytes], cut: list[int]) -> None:
    body = b"".join(b"\0" + len(m).to_bytes(4) + m for m in sent)
    assembler = Assembler(300)
    assert [m for piece in pieces(body, cut) for m in assembler.feed(piece)] == sent
    assert assembler.held == 0


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_an_assembler_never_holds_more_than_a_message(noise: list[bytes]) -> None:
    assembler = Assembler(1000)
    try:
        for piece in noise:
            assembler.feed(piece)
            assert assembler.held < 1005
    except CallFault:
        pass
