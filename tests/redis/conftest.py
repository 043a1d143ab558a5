"""A real redis-server for the tests of this folder: the first one found, or each of them."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis as sync_redis

from sentinel_extproc.demo.redis import RunningRedis, redis_binaries, start_redis
from sentinel_extproc.limits.store.connect import build_client
from sentinel_extproc.limits.store.redis import Client


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RunningRedis]:
    """A server on a Unix socket, without persistence, for the whole session."""
    # Not pytest's tmp_path: a Unix socket's path must stay under 108 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="sx-redis-") as folder,
        start_redis(work_dir=Path(folder)) as server,
    ):
        yield server


@pytest.fixture
def redis_url(redis_server: RunningRedis) -> str:
    """The server without keys and without loaded scripts."""
    with sync_redis.Redis.from_url(redis_server.url, socket_timeout=5.0) as admin:
        admin.flushall()
        admin.script_flush()
    return redis_server.url


@pytest.fixture(scope="module", params=list(redis_binaries().values()), ids=list(redis_binaries()))
def each_redis_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of its own for the module, and every test once for each kind that is here."""
    with (
        tempfile.TemporaryDirectory(prefix="sx-redis-") as folder,
        start_redis(work_dir=Path(folder), binary=request.param) as server,
    ):
        yield server.url


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[Client]:
    """A client of that server, with time-outs that a slow test machine keeps."""
    client = build_client(redis_url, timeout_s=5.0)
    yield client
    await client.aclose()
