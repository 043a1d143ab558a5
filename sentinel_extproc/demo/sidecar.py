"""The sidecar itself, as the command that operators run, in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sentinel_extproc.config.workers import worker_addresses
from sentinel_extproc.demo.process import ManagedProcess
from sentinel_extproc.demo.stopping import Stopping

_OURS = ("SENTINEL_", "ZION_", "OPENAI_")
_OURS_EXACT = frozenset({"REDIS_URL", "CACHE_TTL_SECONDS", "JWT_CACHE_TTL_SECONDS"})
_PROBE_TIMEOUT_S = 1.0


class RunningSidecar(Stopping):
    """A sidecar that says it is serving."""

    def __init__(self, process: ManagedProcess, *, addresses: Sequence[str]) -> None:
        self.process = process
        self.addresses = tuple(addresses)

    @property
    def address(self) -> str:
        """Of the first worker."""
        return self.addresses[0]

    def is_serving(self) -> bool:
        """What grpc.health.v1 says about the server as a whole, of every worker."""
        return all(map(_is_serving, self.addresses))

    def restart(self, *, ready_timeout_s: float = 30.0) -> None:
        """Start it, with the same settings and files as before its end.

        Raises:
            StartError: with the end of its log.
        """
        self.process.start()
        try:
            self.process.wait_until(self.is_serving, what="it served", timeout_s=ready_timeout_s)
        except BaseException:
            self.process.kill()
            raise

    def stop(self) -> int | None:
        """Let it drain, then end it if that takes too long; returns the exit code."""
        return self.process.stop()


def _is_serving(address: str) -> bool:
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=_PROBE_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def sidecar_environment(
    settings: Mapping[str, str], *, inherited: Mapping[str, str] | None = None, keep: bool = False
) -> dict[str, str]:
    """A whole environment for the sidecar.

    Args:
        settings: what it is told, by environment name.
        inherited: the environment to start from; ours when omitted.
        keep: keep settings that are in ``inherited`` already, less the demo's own and those of the
            admin port, which is the demo's too; otherwise nothing that happens to be set outside
            can change how the sidecar behaves.
    """
    inherited = os.environ if inherited is None else inherited
    environment = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(("SENTINEL_DEMO_", "SENTINEL_ADMIN__"))
        and (keep or not (name.startswith(_OURS) or name in _OURS_EXACT))
    }
    return environment | {"PYTHONUNBUFFERED": "1"} | dict(settings)


def start_sidecar(
    *,
    work_dir: Path,
    environment: Mapping[str, str],
    ready_timeout_s: float = 30.0,
    stop_timeout_s: float = 30.0,
) -> RunningSidecar:
    """Run ``sentinel-extproc serve`` and wait until it serves.

    Args:
        work_dir: for its log (``sidecar.log``) and, if the environment names none, its sockets
            (``sentinel.sock``, ``admin.sock``).
        environment: the whole environment; see `sidecar_environment`.
        stop_timeout_s: how long draining may take.

    Raises:
        StartError: with the end of its log.
    """
    environment = dict(environment)
    address = environment.setdefault(
        "SENTINEL_SERVER__LISTEN", f"unix:{work_dir / 'sentinel.sock'}"
    )
    # Several sidecars may run on one machine, and only one of them could have the default port.
    environment.setdefault("SENTINEL_ADMIN__LISTEN", f"unix:{work_dir / 'admin.sock'}")
    process = ManagedProcess(
        [sys.executable, "-m", "sentinel_extproc", "serve"],
        name="sidecar",
        log_path=work_dir / "sidecar.log",
        env=environment,
        stop_timeout_s=stop_timeout_s,
    )
    workers = int(environment.get("SENTINEL_SERVER__WORKERS", "1"))
    running = RunningSidecar(process, addresses=worker_addresses(address, workers))
    running.restart(ready_timeout_s=ready_timeout_s)
    return running
