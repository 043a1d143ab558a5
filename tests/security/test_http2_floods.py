"""What a peer of the ext_proc port can make us do and hold: bounded, connection by connection."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from hpack import Encoder

from sentinel_extproc.transport.codec import METHOD
from sentinel_extproc.transport.http2 import frames as h2
from sentinel_extproc.transport.http2 import server as http2_server
from sentinel_extproc.transport.http2.budget import Budget
from sentinel_extproc.transport.http2.connection import Connection
from sentinel_extproc.transport.http2.events import CallLost, MessageReceived
from sentinel_extproc.transport.http2.frames import ConnectionFault, ErrorCode
from sentinel_extproc.transport.http2.server import Http2Server
from sentinel_extproc.transport.served import Stream

PATH = f"/{METHOD[0]}/{METHOD[1]}"
HEAD = Encoder().encode(
    [(":method", "POST"), (":path", PATH), ("content-type", "application/grpc")]
)
GREETING = h2.PREFACE + h2.settings({})


def connection(*, max_streams: int = 50, budget: Budget | None = None) -> Connection:
    made = Connection(max_streams=max_streams, max_message_bytes=1 << 20, budget=budget)
    made.receive(GREETING)
    made.take()
    return made


def opened(stream: int) -> bytes:
    return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, HEAD)


def calm(caught: pytest.ExceptionInfo[ConnectionFault]) -> bool:
    return caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


FLOODS = {
    "pings": h2.ping(b"12345678", ack=False),
    "settings": h2.settings({h2.SETTING_INITIAL_WINDOW_SIZE: 1}),
    "empty settings": h2.settings({}),
    "answers to settings": h2.SETTINGS_ACK,
    "answers that nobody asked for": h2.ping(b"queue   ", ack=True),
    "priorities": h2.frame(h2.PRIORITY, 0, 1, bytes(5)),
    "unknown frames": h2.frame(0xEE, 0, 0, b""),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_of_frames_to_no_purpose_ends_its_connection(flood: bytes) -> None:
    made = connection()
    for _ in range(1000):
        made.receive(flood)  # one at a time, however often, is a peer's good right
        made.take()
    with pytest.raises(ConnectionFault) as caught:
        made.receive(flood * 1000)
    assert calm(caught)


def test_answers_to_our_own_pings_are_no_flood_however_many_come_at_once() -> None:
    """Behind a backlog that lies in the socket, a peer's answers come one after the other."""
    made = connection()
    for _ in range(100):
        made.ask_queue()
    assert len(made.receive(h2.ping(b"queue   ", ack=True) * 100)) == 100
    with pytest.raises(ConnectionFault) as caught:
        made.receive(h2.ping(b"queue   ", ack=True) * 1000)
    assert calm(caught)


def test_settings_cost_one_look_at_each_call_however_often_they_say_it() -> None:
    made = connection()
    for n in range(50):
        made.receive(opened(2 * n + 1))
        made.send_message(2 * n + 1, b"")
    looks = 0
    real = Connection._flush

    def counting(self: Connection, call: object) -> None:
        nonlocal looks
        looks += 1
        real(self, call)  # type: ignore[arg-type]

    pairs = b"".join(b"\0\4" + (n % 2).to_bytes(4) for n in range(10_000))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Connection, "_flush", counting)
        made.receive(h2.frame(h2.SETTINGS, 0, 0, pairs))
    assert looks <= 50


def test_room_for_one_byte_costs_one_call_and_not_all_that_wait() -> None:
    made = connection()
    for n in range(50):
        made.receive(opened(2 * n + 1))
        made.send_message(2 * n + 1, bytes(60_000))  # the connection's window is full at the second
    looks = 0
    real = Connection._flush

    def counting(self: Connection, call: object) -> None:
        nonlocal looks
        looks += 1
        real(self, call)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Connection, "_flush", counting)
        made.receive(h2.window_update(0, 1) * 100)
    assert looks <= 200


def test_calls_that_are_opened_and_given_up_end_their_connection() -> None:
    """HTTP/2 rapid reset, CVE-2023-44487."""
    made = connection(max_streams=50)
    resets = [opened(n) + h2.reset(n, ErrorCode.CANCEL) for n in range(1, 4000, 2)]
    with pytest.raises(ConnectionFault) as caught:
        made.receive(b"".join(resets))
    assert calm(caught)


def test_clients_that_leave_while_others_are_served_end_nothing() -> None:
    made = connection(max_streams=50)
    for n in range(4000):
        stream = 2 * n + 1
        made.receive(opened(stream))
        if n % 2:
            made.send_message(stream, b"answer")
            made.take()
        made.receive(h2.reset(stream, ErrorCode.CANCEL))
    assert made.calls == 0


def test_continuations_are_bounded() -> None:
    """CVE-2024-27316 and its kin: a head that never ends."""
    made = connection()
    begun = h2.frame(h2.HEADERS, 0, 1, b"")
    for piece in (b"", b"\0" * 1000):
        made = connection()
        with pytest.raises(ConnectionFault) as caught:
            made.receive(begun + h2.frame(h2.CONTINUATION, 0, 1, piece) * 1000)
        assert calm(caught)


def test_a_head_that_unpacks_to_megabytes_is_refused() -> None:
    big = b"\x40\x01a" + b"\x7f\x81\x1e" + b"b" * 4000  # one entry of the table, 4,000 bytes long
    made = connection()
    with pytest.raises(ConnectionFault) as caught:
        made.receive(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, big + b"\xbe" * 50_000))
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


def test_connections_share_one_bound_on_what_waits() -> None:
    budget = Budget(100_000)
    ends = [connection(budget=budget) for _ in range(4)]
    lost = 0
    for one in ends:
        events = one.receive(opened(1) + h2.frame(h2.DATA, 0, 1, b"\0\0\1\0\0" + bytes(30_000)))
        lost += sum(isinstance(event, CallLost) for event in events)
    assert lost == 1, "three fit"
    for one in ends:
        one.drop()
    assert budget.held == 0


def test_messages_that_nobody_takes_count_too() -> None:
    budget = Budget(50_000)
    one, other = connection(budget=budget), connection(budget=budget)
    whole = h2.frame(h2.DATA, 0, 1, b"\0" + (30_000).to_bytes(4) + bytes(30_000))
    (_, message) = one.receive(opened(1) + whole)
    assert isinstance(message, MessageReceived)
    assert not any(isinstance(e, CallLost) for e in other.receive(opened(1) + whole))
    assert any(isinstance(e, CallLost) for e in other.receive(whole))
    one.taken(1, message.credit)
    assert budget.held == 0


def test_tiny_messages_count_as_what_they_take_up() -> None:
    budget = Budget(1_000_000)
    one = connection(budget=budget)
    empty = h2.frame(h2.DATA, 0, 1, bytes(5) * 1000)
    events = one.receive(opened(1))
    while not any(isinstance(event, CallLost) for event in events):
        assert sum(isinstance(event, MessageReceived) for event in events) <= 6000
        events += one.receive(empty)
    assert budget.held == 0, "and give it back when they go"
    events = one.receive(opened(3) + h2.frame(h2.DATA, 0, 3, bytes(5) * 1000))
    for event in events:
        if isinstance(event, MessageReceived):
            one.taken(3, event.credit)
    assert budget.held == 0, "and when they are taken"


class Echo:
    """In place of the driver: gives every message back."""

    live = 0

    async def run(self, stream: Stream) -> None:
        while (data := await stream.read()) is not None:
            await stream.write(data)

    def is_hopeless(self, stream: Stream) -> bool:
        return False

    def hand_back(self) -> None:
        """Nothing lives that long here."""

    def logged(self, exchange_id: str, body_bytes: int) -> None:
        """Nobody asked for it."""


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sx-h2-") as folder:
        yield str(Path(folder) / "s.sock")


@asynccontextmanager
async def serving(path: str, **options: int) -> AsyncIterator[Http2Server]:
    server = Http2Server(Echo(), listen=f"unix:{path}", **options)  # type: ignore[arg-type]
    await server.start()
    try:
        yield server
    finally:
        await server.drain(grace_s=0, hand_back_s=0)


async def first_frame(reader: asyncio.StreamReader) -> int | None:
    """Its kind; None if the connection was closed instead."""
    try:
        return (await reader.readexactly(h2.FRAME_HEAD_BYTES))[3]
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None


async def test_connections_are_bounded_in_number(path: str) -> None:
    async with serving(path, max_connections=3):
        links = []
        for _ in range(3):
            links.append(await asyncio.open_unix_connection(path))
            assert await first_frame(links[-1][0]) == h2.SETTINGS
        for _ in range(20):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await first_frame(reader) is None
            writer.close()
        links.pop()[1].close()
        async with asyncio.timeout(30):
            while True:  # the one that left makes room, once the server has noticed
                links.append(await asyncio.open_unix_connection(path))
                if await first_frame(links[-1][0]) == h2.SETTINGS:
                    break
                links.pop()[1].close()
        for _, writer in links:
            writer.close()


async def test_who_waits_to_be_accepted_when_draining_begins_is_sent_elsewhere(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2_server, "_PARTING_S", 0.05)  # these peers answer nothing
    server = Http2Server(Echo(), listen=f"unix:{path}")
    await server.start()
    with ExitStack() as links:
        waiting = []
        for _ in range(20):  # connected as far as the kernel goes: the loop doesn't run meanwhile
            link = links.enter_context(socket.socket(socket.AF_UNIX))
            link.connect(path)
            link.sendall(GREETING)
            waiting.append(link)
        await server.drain(grace_s=20, hand_back_s=0)
        for link in waiting:
            link.settimeout(30)
            assert h2.GOAWAY in await asyncio.to_thread(kinds, link)


def kinds(link: socket.socket) -> list[int]:
    """Of all frames that come until the other side closes."""
    seen = b""
    while piece := link.recv(65536):
        seen += piece
    found = []
    while seen:
        found.append(seen[3])
        seen = seen[h2.FRAME_HEAD_BYTES + int.from_bytes(seen[:3]) :]
    return found
