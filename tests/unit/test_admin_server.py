"""The admin server on real sockets, in the test's own event loop."""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from sentinel_extproc.admin import server as admin_server
from sentinel_extproc.admin.server import AdminServer, Tls
from sentinel_extproc.transport.server import ServerError


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sx-admin-") as made:
        yield Path(made)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello from " + scope["path"].encode()})


@asynccontextmanager
async def serving(server: AdminServer) -> AsyncIterator[AdminServer]:
    await server.start()
    try:
        yield server
    finally:
        await server.aclose()


def client(**options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=10, **options)


async def test_over_tcp() -> None:
    await over_tcp()


async def over_tcp() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    async with serving(AdminServer(hello, listen="127.0.0.1:0")) as server, client() as http:
        answer = await http.get(f"http://127.0.0.1:{server.port}/x")
        assert (answer.status_code, answer.text) == (200, "hello from /x")
        assert "server" not in answer.headers
        assert signal.getsignal(signal.SIGTERM) is handler
    async with client() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"http://127.0.0.1:{server.port}/x")
    await server.aclose()


async def over_a_unix_socket(folder: Path) -> None:
    path = folder / "deep" / "admin.sock"
    async with serving(AdminServer(hello, listen=f"unix:{path}")):
        assert path.stat().st_mode & 0o777 == 0o600
        async with client(transport=httpx.AsyncHTTPTransport(uds=str(path))) as http:
            assert (await http.get("http://admin/y")).text == "hello from /y"
    assert not path.exists()


async def test_over_a_unix_socket(folder: Path) -> None:
    await over_a_unix_socket(folder)


def test_on_the_loop_that_we_serve_with(folder: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(over_a_unix_socket(folder))
        runner.run(over_tcp())


async def test_a_socket_left_behind_is_replaced_but_a_live_one_is_not(folder: Path) -> None:
    path = folder / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(AdminServer(hello, listen=f"unix:{path}")):
        with pytest.raises(ServerError, match="another process"):
            await AdminServer(hello, listen=f"unix:{path}").start()
        async with client(transport=httpx.AsyncHTTPTransport(uds=str(path))) as http:
            assert (await http.get("http://admin/")).status_code == 200


async def test_an_address_that_is_taken() -> None:
    async with serving(AdminServer(hello, listen="127.0.0.1:0")) as server:
        with pytest.raises(ServerError, match=f"127.0.0.1:{server.port}"):
            await AdminServer(hello, listen=f"127.0.0.1:{server.port}").start()
    with pytest.raises(ServerError):
        await AdminServer(hello, listen="no-such-host.invalid:80").start()


async def test_certificates_that_are_none(folder: Path) -> None:
    missing = Tls(folder / "no.pem", folder / "no.key")
    with pytest.raises(ServerError, match="admin port"):
        await AdminServer(hello, listen="127.0.0.1:0", tls=missing).start()
    junk = folder / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(ServerError, match="admin port"):
        await AdminServer(hello, listen="127.0.0.1:0", tls=Tls(junk, junk)).start()


async def test_connections_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_server, "MAX_CONNECTIONS", 2)
    async with serving(AdminServer(hello, listen="127.0.0.1:0")) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(10):
            assert await received(reader) == b""
        for each in (writer, idle[0][1]):
            each.close()
        # One place is free again, as soon as the server has noticed.
        async with asyncio.timeout(10):
            answer = b""
            while not answer:
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                answer = await received(reader)
                writer.close()
        assert answer.startswith(b"HTTP/1.1 200")
        idle[1][1].close()


async def received(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: "])
async def test_connections_are_bounded_in_time(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(admin_server, "MAX_CONNECTION_S", 0.02)
    async with serving(AdminServer(hello, listen="127.0.0.1:0")) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_it_stops_although_somebody_is_connected_or_answered() -> None:
    entered = asyncio.Event()

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    server = AdminServer(hangs, listen="127.0.0.1:0")
    await server.start()
    _, idle = await asyncio.open_connection("127.0.0.1", server.port)
    _, waiting = await asyncio.open_connection("127.0.0.1", server.port)
    waiting.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    async with asyncio.timeout(20):
        await entered.wait()
        await server.aclose()
    for writer in (idle, waiting):
        writer.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "admin-server"]
