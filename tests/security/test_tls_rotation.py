"""New certificates and authorities of the ext_proc port hold without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from sentinel_extproc.demo.certificates import Authority, Issued
from sentinel_extproc.transport.driver import Driver
from sentinel_extproc.transport.http2 import frames as h2
from sentinel_extproc.transport.http2 import tls as serving_tls
from sentinel_extproc.transport.http2.server import Http2Server
from sentinel_extproc.transport.http2.tls import ServingTls
from sentinel_extproc.transport.server import KEEPALIVE, Keepalive, ServerTls


class Files:
    """What the server was told to read, and who may fill it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.old, self.new = Authority(folder, "old"), Authority(folder, "new")
        names = (folder / "serving.crt", folder / "serving.key", folder / "clients.pem")
        self.certificate, self.key, self.client_ca = names
        self.fill(self.old)

    @property
    def tls(self) -> ServerTls:
        return ServerTls(str(self.certificate), str(self.key), str(self.client_ca))

    def fill(self, authority: Authority) -> None:
        issued = authority.issue("sidecar")
        self.replace(self.certificate, issued.certificate)
        self.replace(self.key, issued.key)
        self.replace(self.client_ca, authority.file)

    def replace(self, target: Path, source: Path) -> None:
        shutil.copy(source, target.with_suffix(".tmp"))
        target.with_suffix(".tmp").replace(target)


@pytest.fixture
def files() -> Iterator[Files]:
    with tempfile.TemporaryDirectory(prefix="sx-tls-") as folder:
        yield Files(Path(folder))


def client(trusted: Authority, own: Issued, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(trusted.file))
    context.load_cert_chain(own.certificate, own.key)
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    return context


@asynccontextmanager
async def serving(files: Files, *, keepalive: Keepalive = KEEPALIVE) -> AsyncIterator[Http2Server]:
    server = Http2Server(
        cast("Driver", object()), listen="127.0.0.1:0", tls=files.tls, keepalive=keepalive
    )
    await server.start()
    try:
        yield server
    finally:
        await server.drain(grace_s=0, hand_back_s=0)


async def served(port: int, context: ssl.SSLContext) -> bool:
    """Whether a greeting is answered."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except (ssl.SSLError, ConnectionError):
        return False
    try:
        writer.write(h2.PREFACE + h2.settings({}))
        top = await reader.readexactly(h2.FRAME_HEAD_BYTES)
    except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.close()
    return top[3] == h2.SETTINGS


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
async def test_new_files_hold_for_the_next_handshake(
    files: Files, version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_tls.ServingTls.watch, "__kwdefaults__", {"every_s": 0.02})
    before = client(files.old, files.old.issue("envoy-old"), version)
    after = client(files.new, files.new.issue("envoy-new"), version)
    async with serving(files) as server:
        assert await served(server.port, before)
        assert not await served(server.port, after)
        files.fill(files.new)
        async with asyncio.timeout(30):
            while True:
                if await served(server.port, after):
                    break
                await asyncio.sleep(0.02)
        assert not await served(server.port, before)
        # Nor a client that trusts the new certificate but has its own from the old authority.
        stale = client(files.new, files.old.issue("envoy-stale"), version)
        assert not await served(server.port, stale)


async def test_open_connections_are_asked_to_come_back(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_tls.ServingTls.watch, "__kwdefaults__", {"every_s": 0.02})
    context = client(files.old, files.old.issue("envoy"), ssl.TLSVersion.TLSv1_3)
    async with serving(files) as server, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        writer.write(h2.PREFACE + h2.settings({}))
        files.fill(files.new)
        kind = None
        while kind != h2.GOAWAY:
            top = await reader.readexactly(h2.FRAME_HEAD_BYTES)
            await reader.readexactly(int.from_bytes(top[:3]))
            kind = top[3]
        writer.close()


async def test_a_peer_that_hears_nothing_is_let_go_all_the_same(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its authority was withdrawn, it answers no ping for that, and would open calls for ever."""
    monkeypatch.setattr(serving_tls.ServingTls.watch, "__kwdefaults__", {"every_s": 0.02})
    context = client(files.old, files.old.issue("envoy"), ssl.TLSVersion.TLSv1_3)
    keepalive = Keepalive(interval_s=30, timeout_s=0.1)
    async with serving(files, keepalive=keepalive) as server, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        writer.write(h2.PREFACE + h2.settings({}))
        files.fill(files.new)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while await reader.read(1000):
                pass
        writer.close()


def test_a_session_is_never_resumed(files: Files) -> None:
    """It would be let in by what held when it began."""
    for version in VERSIONS:
        context = client(files.old, files.old.issue("envoy"), version)
        watched = ServingTls(files.tls)
        first = handshake(watched.context, context, None)
        second = handshake(watched.context, context, first.session)
        assert not second.session_reused


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None
) -> ssl.SSLObject:
    """Both ends in memory, until both are done and the server has said something."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(there, back, server_side=True)
    ours = client.wrap_bio(back, there, server_hostname="localhost", session=session)
    left = [ours, theirs]
    while left:
        end = left.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            left.append(end)
    theirs.write(b"x")
    assert ours.read(1) == b"x"
    return ours


def test_half_a_rotation_changes_nothing_until_the_other_half_comes(files: Files) -> None:
    watched = ServingTls(files.tls)
    assert not watched.look()
    issued = files.old.issue("next")
    files.replace(files.certificate, issued.certificate)
    assert not watched.look(), "its key is still the old one's"
    files.replace(files.key, issued.key)
    assert watched.look()
    assert not watched.look()
    files.key.unlink()
    assert not watched.look(), "what is in use stays in use"
    files.key.write_bytes(b"nonsense")
    assert not watched.look()


def test_a_passing_fault_does_not_lose_a_rotation(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = ServingTls(files.tls)
    files.fill(files.new)
    with monkeypatch.context() as patch:

        def none_left() -> ssl.SSLContext:
            raise OSError(24, "Too many open files")

        patch.setattr(watched, "_read", none_left)
        assert not watched.look()
    assert watched.look()
