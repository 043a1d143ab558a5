from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import DataError, RedisError
from redis.typing import EncodableT

from sentinel_extproc.limits.store.connect import TlsFiles, build_client


def settings_of(client: object) -> dict[str, Any]:
    assert isinstance(client, Redis)
    return dict(client.connection_pool.connection_kwargs)


def test_a_plain_url() -> None:
    settings = settings_of(build_client("redis://u:p%40ss@db:6380/3"))
    assert (settings["host"], settings["port"], settings["db"]) == ("db", 6380, 3)
    assert (settings["username"], settings["password"]) == ("u", "p@ss")
    # redis-py's own way to bound a command loses cancellations.
    assert settings["socket_timeout"] is None


def test_nothing_is_retried_by_the_client() -> None:
    for url in ("redis://db", "rediss://db", "unix:///run/redis.sock", "redis+sentinel://s/main"):
        assert settings_of(build_client(url))["retry"].get_retries() == 0
    cluster = build_client("redis+cluster://a:7000")
    assert isinstance(cluster, RedisCluster)
    assert cluster.retry.get_retries() == 0


def test_tls_is_verified_with_own_files_if_given() -> None:
    files = TlsFiles(ca="ca.pem", certificate="c.pem", key="k.pem")
    client = build_client("rediss://db", tls=files)
    assert isinstance(client, Redis)
    assert issubclass(client.connection_pool.connection_class, SSLConnection)
    settings = settings_of(client)
    assert (settings["ssl_cert_reqs"], settings["ssl_check_hostname"]) == ("required", True)
    assert (settings["ssl_ca_certs"], settings["ssl_certfile"], settings["ssl_keyfile"]) == (
        "ca.pem",
        "c.pem",
        "k.pem",
    )


def test_a_unix_socket() -> None:
    client = build_client("unix://u:p@/run/redis.sock?db=2")
    assert isinstance(client, Redis)
    assert issubclass(client.connection_pool.connection_class, UnixDomainSocketConnection)
    assert (settings_of(client)["path"], settings_of(client)["db"]) == ("/run/redis.sock", 2)


def test_sentinels() -> None:
    client = build_client(
        "rediss+sentinel://u:p@a,b:26380,[::1]/main/4",
        sentinel_username="su",
        sentinel_password="sp",
    )
    assert isinstance(client, Redis)
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert (pool.service_name, settings_of(client)["db"]) == ("main", 4)
    sentinels = [
        sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels
    ]
    assert [(s["host"], s["port"]) for s in sentinels] == [
        ("a", 26379),
        ("b", 26380),
        ("::1", 26379),
    ]
    assert {(s["username"], s["password"]) for s in sentinels} == {("su", "sp")}
    assert (settings_of(client)["username"], settings_of(client)["password"]) == ("u", "p")


def test_a_cluster() -> None:
    client = build_client("rediss+cluster://u:p@a:7000,b")
    assert isinstance(client, RedisCluster)
    assert sorted(client.nodes_manager.startup_nodes) == ["a:7000", "b:6379"]
    assert client.connection_kwargs["username"] == "u"
    assert client.connection_kwargs["ssl_cert_reqs"] == "required"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://secret@db",
        "redis://",
        "redis://:secret@",
        "rediss://u:secret@db?ssl_cert_reqs=none",
        "rediss://u:secret@db?ssl_check_hostname=false",
        "redis://u:secret@db?retry_on_timeout=yes",
        "redis+sentinel://u:secret@a",
        "redis+sentinel://u:secret@a/main/x",
        "redis+cluster://u:secret@a/3",
        "redis+cluster://u:secret@",
        "redis+cluster://u:secret@a:port",
        "redis://u:secret@db:port",
    ],
)
def test_a_url_that_names_no_safe_redis_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"Redis|TLS|Port|Sentinel") as caught:
        build_client(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "tls"), [("redis://db", TlsFiles()), ("rediss://db", TlsFiles(certificate="c.pem"))]
)
def test_tls_files_that_make_no_sense_are_refused(url: str, tls: TlsFiles) -> None:
    with pytest.raises(ValueError, match=r"rediss|key"):
        build_client(url, tls=tls)


async def test_a_sentinel_that_hangs_does_not_keep_the_next_one_from_being_asked() -> None:
    asked = asyncio.Event()
    held: list[asyncio.StreamWriter] = []

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        writer.close()

    async with (
        await asyncio.start_server(hang, "127.0.0.1", 0) as first,
        await asyncio.start_server(refuse, "127.0.0.1", 0) as second,
    ):
        ports = [server.sockets[0].getsockname()[1] for server in (first, second)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        client = build_client(f"redis+sentinel://{hosts}/main")
        assert isinstance(client, Redis)
        async with asyncio.timeout(20):
            with pytest.raises(RedisError):
                await client.ping()
        assert asked.is_set()
        await client.aclose()
        pool = client.connection_pool
        assert isinstance(pool, SentinelConnectionPool)
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()
        for writer in held:
            writer.close()


def test_commands_are_packed_as_redis_py_itself_does_it() -> None:
    client = build_client("redis://db")
    assert isinstance(client, Redis)
    ours, theirs = client.connection_pool.connection_class(), Connection()
    chance = random.Random(3)
    kinds: tuple[Callable[[], EncodableT], ...] = (
        lambda: "\u00e9\r\n" * chance.randrange(9),
        lambda: b"\x00$" * chance.randrange(20_000),
        lambda: chance.randrange(-9, 10**18),
        lambda: chance.random() * 10.0 ** chance.randrange(-20, 20),
        lambda: memoryview(b"abc"),
    )
    for _ in range(500):
        name = chance.choice(("GET", "CONFIG GET", b"CLIENT LIST"))
        command = (name, *(chance.choice(kinds)() for _ in range(chance.randrange(8))))
        assert b"".join(ours.pack_command(*command)) == b"".join(theirs.pack_command(*command))
    for unsendable in (True, None, object(), "\ud800"):
        with pytest.raises((DataError, UnicodeEncodeError)):
            ours.pack_command("SET", "key", unsendable)  # type: ignore[arg-type]
