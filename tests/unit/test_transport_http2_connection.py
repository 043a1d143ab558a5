"""Our side of HTTP/2: against the ``h2`` library as client, and bytes that it would not send."""

from __future__ import annotations

from collections.abc import Iterable

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from hpack import Encoder

from sentinel_extproc.transport.http2 import frames
from sentinel_extproc.transport.http2.budget import Budget
from sentinel_extproc.transport.http2.connection import Connection
from sentinel_extproc.transport.http2.events import (
    Alive,
    CallEnded,
    CallLost,
    CallOpened,
    CaughtUp,
    Event,
    MessageReceived,
)
from sentinel_extproc.transport.http2.frames import ConnectionFault, ErrorCode
from sentinel_extproc.transport.http2.head import Status

PATH = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
HEAD = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "sidecar"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4) + message


def split(data: bytes) -> Iterable[tuple[int, int, bytes]]:
    """Kind, stream and payload of each frame."""
    while data:
        end = 9 + int.from_bytes(data[:3])
        yield data[3], int.from_bytes(data[5:9]), data[9:end]
        data = data[end:]


OPEN = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, Encoder().encode(HEAD))


class Client:
    """The ``h2`` library on the other end of a wire without delay."""

    def __init__(self) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []

    def exchange(self, server: Connection) -> list[Event]:
        """Carry bytes both ways until nobody has more to say; what the server saw."""
        seen: list[Event] = []
        while True:
            moved = self.h2.data_to_send()
            if moved:
                seen += server.receive(moved)
            if server.has_output:
                self.events += self.h2.receive_data(server.take())
            elif not moved:
                return seen

    def open(
        self, *messages: bytes, end: bool = False, head: Iterable[tuple[str, str]] = HEAD
    ) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, head, end_stream=end and not messages)
        for n, message in enumerate(messages):
            self.h2.send_data(stream, framed(message), end_stream=end and n == len(messages) - 1)
        return stream

    def answer(self, stream: int) -> bytes:
        return b"".join(
            e.data or b""
            for e in self.events
            if isinstance(e, h2.events.DataReceived) and e.stream_id == stream
        )

    def trailers(self, stream: int) -> dict[str, str]:
        for event in self.events:
            if isinstance(event, h2.events.TrailersReceived) and event.stream_id == stream:
                return {bytes(k).decode(): bytes(v).decode() for k, v in event.headers or ()}
        return {}


def connection(
    *,
    max_streams: int = 10,
    max_message_bytes: int = 1 << 20,
    stream_window: int = 1 << 20,
    connection_window: int = 16 << 20,
    budget: Budget | None = None,
) -> Connection:
    return Connection(
        max_streams=max_streams,
        max_message_bytes=max_message_bytes,
        stream_window=stream_window,
        connection_window=connection_window,
        budget=budget,
    )


def test_a_call_from_its_head_to_its_trailers() -> None:
    client, server = Client(), connection()
    stream = client.open(b"one", b"two", end=True)
    assert client.exchange(server) == [
        CallOpened(stream, PATH.encode()),
        MessageReceived(stream, b"one", 8),
        MessageReceived(stream, b"two", 8),
        CallEnded(stream),
    ]
    server.send_message(stream, b"three")
    server.send_message(stream, b"")
    server.end(stream)
    client.exchange(server)
    assert client.answer(stream) == framed(b"three") + framed(b"")
    assert client.trailers(stream) == {"grpc-status": "0"}
    assert server.calls == 0


def test_the_second_call_reads_as_the_first() -> None:
    # Its head is references to the table alone, which takes a short cut.
    client, server = Client(), connection()
    for _ in range(4):
        stream = client.open(b"m")
        seen = client.exchange(server)
        assert seen[0] == CallOpened(stream, PATH.encode())
        server.end(stream)
    other = client.open(head=[*HEAD[:2], (":path", "/other"), *HEAD[3:]])
    assert client.exchange(server) == [CallOpened(other, b"/other")]
    again = client.open()
    assert client.exchange(server) == [CallOpened(again, PATH.encode())]


def test_an_early_end_tells_status_and_reason() -> None:
    client, server = Client(), connection()
    stream = client.open(b"m")
    client.exchange(server)
    server.end(stream, Status.INTERNAL, "it broke: 100 %\n\ud800")
    client.exchange(server)
    heads = [e for e in client.events if isinstance(e, h2.events.ResponseReceived)]
    fields = {bytes(k): bytes(v) for k, v in heads[0].headers or ()}
    assert fields[b"grpc-status"] == b"13"
    assert fields[b"grpc-message"] == b"it broke: 100 %25%0A?"
    ended = [e for e in client.events if isinstance(e, h2.events.StreamEnded)]
    reset = [e for e in client.events if isinstance(e, h2.events.StreamReset)]
    assert (len(ended), [e.error_code for e in reset]) == (1, [0]), "half open, so it is let go of"


def test_large_messages_cross_both_windows() -> None:
    client, server = Client(), connection(max_message_bytes=10 << 20)
    big = bytes(range(256)) * (3 << 12)  # 3 MiB
    stream = client.open()
    client.exchange(server)
    todo, got = framed(big), []
    while todo:
        room = min(client.h2.local_flow_control_window(stream), client.h2.max_outbound_frame_size)
        assert room > 0, "an unfinished message must not use its window up"
        client.h2.send_data(stream, todo[:room])
        todo = todo[room:]
        got += client.exchange(server)
    assert [e.data for e in got if isinstance(e, MessageReceived)] == [big]

    assert not server.send_message(stream, big), "more than the client's window"
    assert server.waits(stream)
    server.end(stream)
    while server.waits(stream):
        client.exchange(server)
        for event in client.events:
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                client.h2.acknowledge_received_data(event.flow_controlled_length, stream)
                event.flow_controlled_length = 0
    client.exchange(server)
    assert client.answer(stream) == framed(big)
    assert client.trailers(stream) == {"grpc-status": "0"}


def test_what_nobody_takes_closes_the_window() -> None:
    client, server = Client(), connection(stream_window=70_000)
    stream = client.open()
    client.exchange(server)
    credits_: list[int] = []
    while client.h2.local_flow_control_window(stream) >= 1000:
        client.h2.send_data(stream, framed(bytes(995)))
        credits_ += [e.credit for e in client.exchange(server) if isinstance(e, MessageReceived)]
    assert sum(credits_) > 69_000
    for credit in credits_:
        server.taken(stream, credit)
    client.exchange(server)
    assert client.h2.local_flow_control_window(stream) > 35_000


def test_large_messages_that_nobody_takes_close_it_too() -> None:
    client, server = Client(), connection(stream_window=1 << 16)
    stream = client.open()
    client.exchange(server)
    got = 0
    waiting: list[int] = []
    for _ in range(10):
        left = framed(bytes(200_000))
        while left:
            room = min(client.h2.local_flow_control_window(stream), 16_384)
            if room:
                client.h2.send_data(stream, left[:room])
                left = left[room:]
            else:
                server.taken(stream, waiting.pop(0))
            seen = [e for e in client.exchange(server) if isinstance(e, MessageReceived)]
            got += len(seen)
            waiting += [e.credit for e in seen]
            assert len(waiting) <= 1, "a second one doesn't fit behind one that waits"
    assert got == 10, "taking them opens it again"


def test_a_dropped_call_gives_its_share_of_the_connection_back() -> None:
    client = Client()
    server = connection(connection_window=70_000, stream_window=70_000)
    for _ in range(20):
        stream = client.open()
        client.exchange(server)
        client.h2.send_data(stream, framed(bytes(15_000)))
        client.exchange(server)
        client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        assert client.exchange(server) == [CallLost(stream)]
    assert server.calls == 0


def test_what_comes_behind_the_end_of_an_answer_that_waits_has_the_connections_window_back() -> (
    None
):
    budget = Budget(1 << 30)
    server = connection(stream_window=2_000, connection_window=70_000, budget=budget)
    server.receive(frames.PREFACE + frames.settings({4: 10}) + OPEN)
    message = frames.frame(frames.DATA, 0, 1, framed(bytes(400)))
    (first,) = server.receive(message)
    assert isinstance(first, MessageReceived)
    assert not server.send_message(1, bytes(100))
    server.end(1)
    server.take()
    assert server.receive(message * 3) == []
    server.taken(1, first.credit)
    assert not server.has_output, "nobody reads that call any more: its own window stays as it is"
    with pytest.raises(ConnectionFault, match="more than the window"):
        server.receive(message)
    server.drop()
    assert budget.held == 0


def test_settings_of_the_client_apply_to_open_calls() -> None:
    server = connection()
    server.receive(frames.PREFACE + frames.settings({4: 10}) + OPEN)
    server.take()
    assert not server.send_message(1, bytes(100))
    sent = [payload for kind, _, payload in split(server.take()) if kind == frames.DATA]
    assert sent == [framed(bytes(100))[:10]]
    server.receive(frames.settings({4: 5}))
    assert server.take() == frames.SETTINGS_ACK, "the window is below zero now"
    server.receive(frames.settings({4: 1000}))
    sent += [payload for kind, _, payload in split(server.take()) if kind == frames.DATA]
    assert b"".join(sent) == framed(bytes(100))


def test_too_many_calls_are_refused_and_the_others_go_on() -> None:
    client, server = Client(), connection(max_streams=1)
    first = client.open()
    client.exchange(server)
    raw = frames.frame(frames.HEADERS, frames.END_HEADERS, first + 2, Encoder().encode(HEAD))
    assert server.receive(raw) == []
    assert server.take() == frames.reset(first + 2, ErrorCode.REFUSED_STREAM)
    client.h2.send_data(first, framed(b"still here"))
    assert client.exchange(server) == [MessageReceived(first, b"still here", 15)]


def test_a_message_over_the_bound_ends_its_call_only() -> None:
    client, server = Client(), connection(max_message_bytes=1000)
    other, stream = client.open(), client.open()
    client.exchange(server)
    client.h2.send_data(stream, (b"\0" + (1001).to_bytes(4)))
    assert client.exchange(server) == [CallLost(stream)]
    heads = [e for e in client.events if isinstance(e, h2.events.ResponseReceived)]
    assert (b"grpc-status", b"8") in [(bytes(k), bytes(v)) for k, v in heads[0].headers or ()]
    client.h2.send_data(other, framed(bytes(1000)))
    assert client.exchange(server) == [MessageReceived(other, bytes(1000), 1005)]


def test_a_compressed_message_ends_its_call() -> None:
    client, server = Client(), connection()
    stream = client.open()
    client.h2.send_data(stream, b"\1\0\0\0\1x")
    assert client.exchange(server)[-1] == CallLost(stream)
    heads = [e for e in client.events if isinstance(e, h2.events.ResponseReceived)]
    assert (b"grpc-status", b"12") in [(bytes(k), bytes(v)) for k, v in heads[0].headers or ()]


def test_unfinished_messages_are_bounded_together() -> None:
    budget = Budget(100_000)
    client, server = Client(), connection(budget=budget)
    lost: list[Event] = []
    for _ in range(9):
        stream = client.open()
        client.h2.send_data(stream, framed(bytes(1 << 19))[:15_000])
        lost += [e for e in client.exchange(server) if isinstance(e, CallLost)]
    assert len(lost) == 3, "six fit, and each that is lost makes room"
    server.drop()
    assert budget.held == 0


def test_what_is_no_grpc_call_is_told_so() -> None:
    client, server = Client(), connection()
    stream = client.open(head=[*HEAD[:4], ("content-type", "text/plain")])
    assert client.exchange(server) == []
    heads = [e for e in client.events if isinstance(e, h2.events.ResponseReceived)]
    assert [bytes(v) for k, v in heads[0].headers or ()] == [b"415"]
    assert server.calls == 0
    assert stream


def test_leaving_serves_what_was_on_its_way() -> None:
    client, server = Client(), connection()
    first = client.open()
    client.exchange(server)
    late = client.open()  # on its way when the server says that it leaves
    server.shut_down()
    said = [(kind, payload[:4]) for kind, _, payload in split(server.take())]
    assert said == [(frames.GOAWAY, b"\x7f\xff\xff\xff"), (frames.PING, b"sent")]
    assert server.receive(client.h2.data_to_send()) == [CallOpened(late, PATH.encode())]
    pong = frames.ping(b"sentinel", ack=True)
    server.receive(pong)
    assert frames.goaway(late, ErrorCode.NO_ERROR) in server.take()
    raw = frames.frame(frames.HEADERS, frames.END_HEADERS, late + 2, Encoder().encode(HEAD))
    assert server.receive(raw) == []
    assert server.take() == frames.reset(late + 2, ErrorCode.REFUSED_STREAM)
    assert server.calls == 2
    assert first != late


def test_pings_both_ways() -> None:
    client, server = Client(), connection()
    client.exchange(server)
    server.ask_alive()
    assert client.exchange(server) == [Alive()]
    client.h2.ping(b"12345678")
    client.exchange(server)
    assert any(isinstance(e, h2.events.PingAckReceived) for e in client.events)


def test_the_answer_to_where_the_queue_stands_comes_behind_what_was_sent() -> None:
    client, server = Client(), connection()
    client.exchange(server)
    stream = client.open(b"before")
    server.ask_queue()
    seen = client.exchange(server)
    assert [type(event) for event in seen] == [CallOpened, MessageReceived, CaughtUp]
    assert stream


def test_padding_and_priority_are_taken_off() -> None:
    client, server = Client(), connection()
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, HEAD, priority_weight=10, priority_depends_on=0)
    client.h2.send_data(stream, framed(b"padded"), pad_length=7)
    assert client.exchange(server) == [
        CallOpened(stream, PATH.encode()),
        MessageReceived(stream, b"padded", len(framed(b"padded")) + 8),
    ]


def test_a_head_in_many_pieces() -> None:
    server = connection()
    server.receive(frames.PREFACE + frames.settings({}))
    block = Encoder().encode([*HEAD, ("x", "y" * 5000)])
    assert server.receive(frames.frame(frames.HEADERS, 0, 1, block[:10])) == []
    assert server.receive(frames.frame(frames.CONTINUATION, 0, 1, block[10:4000])) == []
    end = frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[4000:])
    assert server.receive(end) == [CallOpened(1, PATH.encode())]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(frames.frame(frames.DATA, 0, 1, b"x"), "PROTOCOL_ERROR", id="idle stream"),
        pytest.param(frames.frame(frames.DATA, 0, 0, b"x"), "PROTOCOL_ERROR", id="stream 0"),
        pytest.param(
            frames.frame(frames.HEADERS, frames.END_HEADERS, 2, b"\x83"),
            "PROTOCOL_ERROR",
            id="even stream",
        ),
        pytest.param(frames.reset(9, ErrorCode.CANCEL), "PROTOCOL_ERROR", id="reset of nothing"),
        pytest.param(frames.window_update(9, 1), "PROTOCOL_ERROR", id="room for nothing"),
        pytest.param(frames.window_update(0, 0), "FLOW_CONTROL_ERROR", id="no room"),
        pytest.param(
            frames.window_update(0, frames.MAX_WINDOW), "FLOW_CONTROL_ERROR", id="too much room"
        ),
        pytest.param(
            frames.frame(frames.CONTINUATION, 0, 1, b""), "PROTOCOL_ERROR", id="stray continuation"
        ),
        pytest.param(
            frames.frame(frames.HEADERS, 0, 1, b"\x83") + frames.ping(b"12345678", ack=False),
            "PROTOCOL_ERROR",
            id="interrupted head",
        ),
        pytest.param(
            frames.frame(frames.HEADERS, 0, 1, b"\x83")
            + frames.frame(frames.CONTINUATION, 0, 1, b"") * 2,
            "ENHANCE_YOUR_CALM",
            id="empty continuations",
        ),
        pytest.param(
            frames.frame(frames.HEADERS, 0, 1, b"\x83")
            + frames.frame(frames.CONTINUATION, 0, 1, b"\x83" * 16_000) * 3,
            "ENHANCE_YOUR_CALM",
            id="endless head",
        ),
        pytest.param(
            frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
            "COMPRESSION_ERROR",
            id="undecodable head",
        ),
        pytest.param(
            frames.frame(
                frames.HEADERS,
                frames.END_HEADERS,
                1,
                Encoder().encode([("a", "b" * 3000)]) + b"\xbe" * 1000,
            ),
            "COMPRESSION_ERROR",
            id="a small head that unfolds",
        ),
        pytest.param(
            frames.frame(frames.PUSH_PROMISE, 0, 1, b"\0\0\0\2"), "PROTOCOL_ERROR", id="push"
        ),
        pytest.param(frames.head(frames.DATA, 0, 1, 1 << 20), "FRAME_SIZE_ERROR", id="huge frame"),
        pytest.param(frames.frame(frames.PING, 0, 0, b"short"), "FRAME_SIZE_ERROR", id="ping"),
        pytest.param(
            frames.frame(frames.SETTINGS, 0, 0, b"12345"), "FRAME_SIZE_ERROR", id="settings"
        ),
        pytest.param(
            frames.frame(frames.SETTINGS, 0, 3, b""), "PROTOCOL_ERROR", id="settings of a stream"
        ),
        pytest.param(frames.settings({4: 1 << 31}), "FLOW_CONTROL_ERROR", id="window setting"),
        pytest.param(frames.settings({5: 1}), "PROTOCOL_ERROR", id="frame size setting"),
        pytest.param(OPEN + OPEN.replace(b"\0\0\0\1", b"\0\0\0\1"), "PROTOCOL_ERROR", id="2 heads"),
        pytest.param(
            OPEN
            + frames.frame(frames.DATA, frames.END_STREAM, 1, b"")
            + frames.frame(frames.DATA, 0, 1, b"x"),
            "STREAM_CLOSED",
            id="more after the end",
        ),
        pytest.param(
            OPEN + frames.frame(frames.DATA, frames.PADDED, 1, b"\x09x"),
            "PROTOCOL_ERROR",
            id="padding",
        ),
        pytest.param(
            OPEN + frames.frame(frames.DATA, 0, 1, bytes(50_000)) * 30,
            "FLOW_CONTROL_ERROR",
            id="over the window",
        ),
    ],
)
def test_a_broken_protocol_ends_the_connection_with_its_code(sent: bytes, code: str) -> None:
    # A message as large as the bound, so that what comes waits; nobody takes the small ones.
    server = connection(stream_window=1 << 20)
    server.receive(frames.PREFACE + frames.settings({}))
    server.take()
    with pytest.raises(ConnectionFault) as fault:
        server.receive(sent)
    assert fault.value.code is ErrorCode[code]
    kind, _, payload = list(split(server.take()))[-1]
    assert (kind, int.from_bytes(payload[4:8])) == (frames.GOAWAY, ErrorCode[code])


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"P", b"PRI * HTTP/1.1"])
def test_what_is_not_http2_is_noticed_at_once(first: bytes) -> None:
    server = connection()
    if frames.PREFACE.startswith(first):
        assert server.receive(first) == []
        return
    with pytest.raises(ConnectionFault, match="not HTTP/2"):
        server.receive(first)
