"""Redis clients from URLs, without retries of their own.

A client that repeats a command by itself charges twice; here a command is repeated by its id, in
one place (``ladder``).

| URL | |
|---|---|
| ``redis://[user:password@]host[:6379][/db]`` | one server; ``rediss://`` over TLS |
| ``unix://[user:password@]/path[?db=0]`` | one server on a Unix socket |
| ``redis+sentinel://[user:password@]host[:26379],host…/service[/db]`` | the master of a service |
| ``redis+cluster://[user:password@]host[:6379],host…`` | a Redis Cluster; ``rediss+…`` over TLS |
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from hiredis import pack_command
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.typing import EncodableT

from .redis import Client

_PLAIN = frozenset({"redis", "rediss", "unix"})
_MANY = {
    "redis+sentinel": ("sentinel", 26_379),
    "rediss+sentinel": ("sentinel", 26_379),
    "redis+cluster": ("cluster", 6_379),
    "rediss+cluster": ("cluster", 6_379),
}
_CONNECT_TIMEOUT_S = 1.0
"""Off the path of requests; a request's own budget ends waiting earlier."""

_SENTINEL_TIMEOUT_S = 0.5
"""Per read of a sentinel: they are asked one after the other, the first one first, so that one that
hangs would keep the others from being asked at all."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Own authority and client certificate, PEM files; the system's authorities when None."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


def build_client(
    url: str,
    *,
    timeout_s: float | None = 0.025,
    max_connections: int = 64,
    tls: TlsFiles | None = None,
    sentinel_username: str | None = None,
    sentinel_password: str | None = None,
) -> Client:
    """A client that has not connected yet.

    Args:
        url: see the module's table; user and password percent-encoded.
        timeout_s: of connecting, when longer than a second. Reads and writes have none: redis-py
            bounds them with ``asyncio.wait_for``, which before Python 3.12 swallows a cancellation
            that comes as it completes. Bound whole commands with ``asyncio.timeout`` instead. Only
            of sentinels they have one.
        tls: for ``rediss`` URLs only.
        sentinel_username, sentinel_password: of the sentinels themselves, when they ask.

    Raises:
        ValueError: a URL that names no Redis, or that would weaken TLS. Never contains the URL's
            password.
    """
    scheme = url.partition("://")[0].lower()
    _check_query(url)
    options: dict[str, Any] = {
        "socket_timeout": None,
        "socket_connect_timeout": max(timeout_s or 0.0, _CONNECT_TIMEOUT_S),
        "max_connections": max_connections,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        **_tls_options(scheme, tls),
    }
    if scheme in _PLAIN:
        if scheme != "unix" and not urlsplit(url).hostname:
            raise ValueError("a Redis URL must name a host")
        return _packing_in_c(Redis.from_pool(ConnectionPool.from_url(url, **options)))
    if scheme not in _MANY:
        known = ", ".join(sorted(_PLAIN | _MANY.keys()))
        raise ValueError(f"a Redis URL must begin with one of {known}")
    kind, port = _MANY[scheme]
    place = _places(url, port)
    options |= {"username": place.username, "password": place.password}
    if scheme.startswith("rediss"):
        options["ssl"] = True
    if kind == "cluster":
        if place.path:
            raise ValueError("a Redis Cluster has no databases: end the URL after the hosts")
        nodes = [ClusterNode(host, node_port) for host, node_port in place.hosts]
        return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
    service, _, database = place.path.partition("/")
    if not service or (database and not database.isdigit()):
        raise ValueError("a Sentinel URL must end in /service or /service/db")
    sentinel_options = {
        **{key: value for key, value in options.items() if key != "max_connections"},
        "socket_timeout": _SENTINEL_TIMEOUT_S,
        "username": sentinel_username,
        "password": sentinel_password,
    }
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        place.hosts, sentinel_kwargs=sentinel_options
    )
    client: Redis = sentinel.master_for(service, db=int(database or 0), **options)
    return _packing_in_c(client)


class _PacksInC(AbstractConnection):
    """Commands as bytes, by hiredis where it can: a connection of redis-py's for asyncio packs them
    in Python, argument by argument, though the synchronous ones do as here."""

    def pack_command(self, *args: EncodableT) -> list[bytes]:
        """See ``AbstractConnection.pack_command``."""
        name = args[0]
        if isinstance(name, str | bytes) and bool not in map(type, args):  # it would take one
            words = name.split()  # "CONFIG GET" is two
            with suppress(TypeError, ValueError):
                return [pack_command((*words, *args[1:]))]
        return super().pack_command(*args)


def _packing_in_c(client: Redis) -> Redis:
    pool = client.connection_pool
    made = pool.connection_class
    pool.connection_class = type(made.__name__, (_PacksInC, made), {})
    return client


@dataclass(frozen=True, slots=True)
class _Places:
    username: str | None
    password: str | None
    hosts: list[tuple[str, int]]
    path: str


def _places(url: str, port: int) -> _Places:
    """Several hosts in one URL, which ``urlsplit`` knows nothing of."""
    netloc, _, path = url.partition("://")[2].partition("?")[0].partition("/")
    credentials, _, names = netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    hosts = []
    for name in names.split(","):
        split = urlsplit(f"//{name.strip()}")
        try:
            host, own_port = split.hostname, split.port
        except ValueError as error:
            raise ValueError("a Redis URL has a port that is no port") from error
        if not host:
            raise ValueError("a Redis URL has an empty host")
        hosts.append((host, own_port or port))
    return _Places(unquote(username) or None, unquote(password) or None, hosts, path.strip("/"))


def _check_query(url: str) -> None:
    weak = {"ssl_cert_reqs", "ssl_check_hostname"}
    given = {key.lower() for key, _ in parse_qsl(urlsplit(url).query)}
    if given & weak:
        raise ValueError("TLS verification can't be changed by a Redis URL; give its own CA file")
    if any("retry" in key for key in given):
        raise ValueError("a Redis URL must not ask for retries: they would charge twice")


def _tls_options(scheme: str, tls: TlsFiles | None) -> dict[str, Any]:
    if not scheme.startswith("rediss"):
        if tls is not None:
            raise ValueError("TLS files go with a rediss:// URL")
        return {}
    files = tls if tls is not None else TlsFiles()
    if (files.certificate is None) is not (files.key is None):
        raise ValueError("a client certificate goes with its key")
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": files.ca,
        "ssl_certfile": files.certificate,
        "ssl_keyfile": files.key,
    }
