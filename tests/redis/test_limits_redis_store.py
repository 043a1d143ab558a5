"""What is particular to the Redis store: scripts, access rights, TLS, Sentinel, its settings."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
import redis as sync_redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sentinel_extproc.config.sections.limits import RedisSettings
from sentinel_extproc.demo.process import ManagedProcess
from sentinel_extproc.demo.redis import RunningRedis, free_port, redis_binary, start_redis
from sentinel_extproc.limits.limit import Kind, Limit, Period
from sentinel_extproc.limits.model import Unit
from sentinel_extproc.limits.store import Claim, Decision, Line, StoreError, StoreUntriedError
from sentinel_extproc.limits.store.connect import TlsFiles, build_client
from sentinel_extproc.limits.store.ladder import Ladder
from sentinel_extproc.limits.store.redis import Client, RedisStore
from sentinel_extproc.limits.store.replicas import ReplicaCounter
from sentinel_extproc.redis_parts import RedisFound, check_redis

LINES = tuple(
    Line(
        Limit(
            name=f"{kind.value}{number}",
            unit=Unit.REQUESTS,
            kind=kind,
            capacity=100,
            period=Period.MONTH,
        ),
        f"{kind.value}:{number}",
        10,
    )
    for number in range(3)
    for kind in Kind
)


def patient(client: Client) -> RedisStore:
    """A store that a slow test machine doesn't make fail."""
    return RedisStore(client, timeout_s=5.0, queue_timeout_s=30.0)


def calls(admin: sync_redis.Redis, command: str) -> int:
    stats = admin.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})
    return int(stats["calls"])


async def test_any_number_of_limits_is_one_round_trip(redis_client: Client, redis_url: str) -> None:
    store = patient(redis_client)
    for count in (1, 4, 8):  # each set of kinds is a script of its own, sent once
        await store.reserve(Claim(f"warm{count}", "user", LINES[:count]))
    with sync_redis.Redis.from_url(redis_url) as admin:
        for count in (1, 4, 8):
            before = calls(admin, "evalsha"), calls(admin, "eval")
            await store.reserve(Claim(f"x{count}", "user", LINES[:count]))
            after = calls(admin, "evalsha"), calls(admin, "eval")
            assert (after[0] - before[0], after[1] - before[1]) == (1, 0)


async def test_every_script_is_loaded_again_when_redis_has_lost_it(
    redis_client: Client, redis_url: str
) -> None:
    store = patient(redis_client)
    with sync_redis.Redis.from_url(redis_url) as admin:
        for round_ in range(2):
            claim = Claim(f"x{round_}", "user", LINES)
            admin.script_flush()
            assert (await store.reserve(claim)).decision is Decision.ADMITTED
            admin.script_flush()
            assert (await store.extend(claim)).decision is Decision.ADMITTED
            admin.script_flush()
            await store.settle(claim)
            admin.script_flush()
            await store.revoke("user-1", "user")
            admin.script_flush()
            assert await store.beat("me", 60.0) == 1


async def test_replicas_are_counted_and_forgotten(redis_client: Client) -> None:
    clock = [1_000_000]
    store = RedisStore(redis_client, timeout_s=5.0, clock=lambda: clock[0])
    counters = [ReplicaCounter(store, every_s=5.0) for _ in range(3)]
    assert counters[0].count == 1, "alone until it heard of others"
    for counter in counters:
        await counter.beat()
    assert [counter.count for counter in counters] == [1, 2, 3]
    clock[0] += 15_000
    await counters[0].beat()
    assert counters[0].count == 3
    clock[0] += 6_000
    await counters[0].beat()
    assert counters[0].count == 1


async def test_a_replica_counts_the_ones_that_the_operator_knows_of(redis_client: Client) -> None:
    away = patient(build_client("unix:///nonexistent/redis.sock"))
    starting = ReplicaCounter(away, at_least=2)
    with pytest.raises(StoreError):
        await starting.beat()
    assert starting.count == 2, "it heard of nobody, and is not alone"
    store = patient(redis_client)
    counters = [ReplicaCounter(store, at_least=2) for _ in range(3)]
    for counter in counters:
        await counter.beat()
    assert [counter.count for counter in counters] == [2, 2, 3]
    with pytest.raises(ValueError, match="at_least"):
        ReplicaCounter(store, at_least=0)


async def test_the_share_of_a_replica_that_starts_in_an_outage(redis_client: Client) -> None:
    away = patient(build_client("unix:///nonexistent/redis.sock"))
    ladder = Ladder(away, replicas=ReplicaCounter(away, at_least=5))
    limit = LINES[0].limit
    verdicts = [
        await ladder.reserve(Claim(f"x{n}", "user", (Line(limit, limit.name, 1),)))
        for n in range(limit.capacity)
    ]
    admitted = [verdict.decision for verdict in verdicts].count(Decision.ADMITTED)
    assert admitted == limit.capacity // (2 * 5)
    await ladder.close()


async def test_the_last_known_number_of_replicas_outlives_redis(redis_client: Client) -> None:
    away = patient(build_client("unix:///nonexistent/redis.sock"))
    counter = ReplicaCounter(away)
    counter.count = 4
    with pytest.raises(StoreError):
        await counter.beat()
    assert counter.count == 4


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru", "volatile-ttl"])
async def test_a_redis_that_may_forget_limits_is_complained_of(
    redis_client: Client, redis_url: str, policy: str
) -> None:
    with sync_redis.Redis.from_url(redis_url) as admin:
        admin.config_set("maxmemory-policy", policy)
        complaints = await patient(redis_client).complaints()
        admin.config_set("maxmemory-policy", "noeviction")
    assert bool(complaints) is (policy != "noeviction")
    assert all(policy in complaint for complaint in complaints)


async def test_what_was_found_is_told(each_redis_url: str) -> None:
    client = build_client(each_redis_url)
    store = patient(client)
    info = cast("dict[str, str]", await client.info("server"))
    found = await check_redis(store, RedisSettings(url=each_redis_url))
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version", info["redis_version"])
    assert found == RedisFound("standalone", f"{name} {version}")
    await store.close()


async def test_an_acl_user_needs_these_commands_on_these_keys_only(redis_url: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text("utf-8")
    commands = re.findall(r"^\+eval .*$", page, re.MULTILINE)[0].split()
    path = urlsplit(redis_url).path
    with sync_redis.Redis.from_url(redis_url) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "sidecar", "on", ">p@ss", "~sentinel:*", "-@all", *commands
        )
        try:
            store = patient(build_client(f"unix://sidecar:p%40ss@{path}"))
            claim = Claim("x", "user", LINES)
            assert (await store.reserve(claim)).decision is Decision.ADMITTED
            await store.extend(claim)
            await store.settle(claim)
            await store.ping()
            await store.epochs("user-1", ("all", "user"))
            await store.revoke("user-1", "user")
            await store.revoke_everybody()
            await store.beat("me", 60.0)
            assert await store.complaints() == ()
            assert await store.versions()
            await store.close()

            wrong = patient(build_client(f"unix://sidecar:wrong@{path}"))
            with pytest.raises(StoreError) as caught:
                await wrong.reserve(claim)
            assert "wrong" not in str(caught.value).lower().replace("wrongpass", "")
            await wrong.close()
        finally:
            admin.execute_command("ACL", "DELUSER", "sidecar")


async def test_more_commands_than_turns_wait_and_then_say_so(redis_client: Client) -> None:
    store = RedisStore(redis_client, timeout_s=30.0, concurrency=1, queue_timeout_s=0.01)
    await redis_client.client_pause(300)  # Redis itself holds every command back for so long
    first = asyncio.create_task(store.reserve(Claim("a", "user", LINES[:1])))
    await asyncio.sleep(0)
    with pytest.raises(StoreUntriedError):
        await store.reserve(Claim("b", "user", LINES[:1]))
    assert (await first).decision is Decision.ADMITTED


async def test_a_redis_that_is_not_there_is_a_store_error() -> None:
    for url in (
        "redis://127.0.0.1:1",
        "redis+cluster://127.0.0.1:1",
        "redis+sentinel://127.0.0.1:1/m",
    ):
        store = RedisStore(build_client(url), timeout_s=1.0)
        with pytest.raises(StoreError):
            await store.reserve(Claim("x", "user", LINES))
        with pytest.raises(StoreError):
            await store.ping()
        with pytest.raises(StoreError):
            await store.complaints()
        assert await store.versions() == ()
        found = await check_redis(store, RedisSettings(url=url))
        assert found.topology == (urlsplit(url).scheme.partition("+")[2] or "standalone")
        assert found.problem
        await store.close()


def test_a_prefix_must_not_choose_the_slot() -> None:
    with pytest.raises(ValueError, match="braces"):
        RedisStore(build_client("redis://db"), prefix="a{b}")


@pytest.fixture(scope="module")
def certificate() -> Iterator[tuple[Path, Path]]:
    """A certificate for localhost that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(tz=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    with tempfile.TemporaryDirectory() as folder:
        certificate_path, key_path = Path(folder) / "cert.pem", Path(folder) / "key.pem"
        certificate_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        yield certificate_path, key_path


@asynccontextmanager
async def tls_in_front_of(redis_url: str, certificate: tuple[Path, Path]) -> AsyncIterator[int]:
    """A port that speaks TLS and passes everything on; not every redis-server is built with TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(urlsplit(redis_url).path)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def test_tls_with_an_own_authority(redis_url: str, certificate: tuple[Path, Path]) -> None:
    async with tls_in_front_of(redis_url, certificate) as port:
        url = f"rediss://localhost:{port}"
        store = patient(build_client(url, tls=TlsFiles(ca=str(certificate[0]))))
        assert (await store.reserve(Claim("x", "user", LINES))).decision is Decision.ADMITTED
        await store.close()


@pytest.mark.parametrize(("host", "trusted"), [("localhost", False), ("127.0.0.1", True)])
async def test_tls_to_somebody_else_is_refused(
    redis_url: str, certificate: tuple[Path, Path], host: str, *, trusted: bool
) -> None:
    async with tls_in_front_of(redis_url, certificate) as port:
        files = TlsFiles(ca=str(certificate[0])) if trusted else None
        store = patient(build_client(f"rediss://{host}:{port}", tls=files))
        with pytest.raises(StoreError, match=r"(?i)certificate"):
            await store.reserve(Claim("x", "user", LINES))
        await store.close()


@pytest.fixture
def watched() -> Iterator[tuple[RunningRedis, int]]:
    """A server and one sentinel that watches it as ``main``."""
    with tempfile.TemporaryDirectory(prefix="sx-sentinel-") as folder, ExitStack() as stack:
        server = stack.enter_context(start_redis(work_dir=Path(folder), tcp=True))
        port = free_port()
        config = Path(folder) / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\n"
            f"sentinel monitor main 127.0.0.1 {urlsplit(server.url).port} 1\n"
        )
        sentinel = ManagedProcess(
            [redis_binary(), str(config), "--sentinel"],
            name="sentinel",
            log_path=Path(folder) / "sentinel.log",
        )
        stack.enter_context(sentinel.start())

        def answers() -> bool:
            try:
                with sync_redis.Redis(port=port, socket_timeout=5.0) as admin:
                    return bool(admin.ping())
            except sync_redis.RedisError:
                return False

        sentinel.wait_until(answers, what="it answered", timeout_s=10)
        yield server, port


async def test_a_sentinel_names_the_master(watched: tuple[RunningRedis, int]) -> None:
    server, port = watched
    store = patient(build_client(f"redis+sentinel://127.0.0.1:{port}/main"))
    assert (await store.reserve(Claim("x", "user", LINES))).decision is Decision.ADMITTED
    await store.close()
    with sync_redis.Redis.from_url(server.url) as admin:
        assert admin.dbsize() == len(LINES) + 1
    unknown = patient(build_client(f"redis+sentinel://127.0.0.1:{port}/other"))
    with pytest.raises(StoreError, match="other"):
        await unknown.reserve(Claim("x", "user", LINES))
    await unknown.close()
