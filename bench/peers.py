"""Other gateways, bare, in front of the same provider: LiteLLM's proxy and Portkey's gateway.

They do less than ours here: no users, no limits, no ledger, no Envoy. Each has the settings that
its makers name as fast. They are installed into a throw-away folder, never into our own
environment.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.traffic import Call
from bench.variants import Variant
from sentinel_extproc.demo.process import ManagedProcess, StartError

FOLDER = Path(__file__).parents[1] / ".bench"
_INSTALL_S = 600
_READY_S = 120.0
_BARE = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}


class NotHere(Exception):
    """A peer can't take part; says why."""


@contextmanager
def peers(
    work_dir: Path, provider_port: int, calls: Sequence[Call], say: Callable[[str], None]
) -> Iterator[list[Variant]]:
    """Those that can be had; the others are told and left out."""
    with ExitStack() as parts:
        found = []
        for name, start in (("LiteLLM", _litellm), ("Portkey", _portkey)):
            folder = work_dir / name.lower()
            folder.mkdir()
            try:
                found.append(parts.enter_context(start(folder, provider_port, calls)))
            except (NotHere, StartError) as why:
                say(f"{name} is left out: {why}")
        yield found


@contextmanager
def _litellm(folder: Path, provider_port: int, calls: Sequence[Call]) -> Iterator[Variant]:
    home = FOLDER / "litellm"
    program = home / "bin" / "litellm"
    if not program.exists():
        _install([sys.executable, "-m", "venv", str(home)])
        _install([str(home / "bin" / "python"), "-m", "pip", "install", "-q", "litellm[proxy]"])
    models = {call.told: f"bench-{n}" for n, call in enumerate(calls)}
    config = {
        "model_list": [
            {
                "model_name": model,
                "litellm_params": {
                    "model": "openai/gpt-4o-mini",
                    "api_base": f"http://127.0.0.1:{provider_port}/v1",
                    "api_key": "sk-bench",
                    "extra_headers": {"x-bench": told},
                },
            }
            for told, model in models.items()
        ],
        "litellm_settings": {"set_verbose": False, "num_retries": 0, "request_timeout": 60},
        "general_settings": {"disable_spend_logs": True},
    }
    file = folder / "config.yaml"
    file.write_text(json.dumps(config), encoding="utf-8")
    port = _free_port()
    process = ManagedProcess(
        [
            *(str(program), "--config", str(file), "--port", str(port), "--host", "127.0.0.1"),
            *("--num_workers", "1", "--telemetry", "False"),
        ],
        name="LiteLLM",
        log_path=folder / "log",
        env=_environment(LITELLM_LOG="ERROR", LITELLM_MODE="PRODUCTION", **_BARE),
    )
    version = _version([str(home / "bin" / "python"), "-m", "pip", "show", "litellm"], "Version: ")
    with _running(process, f"http://127.0.0.1:{port}/health/liveliness"):
        name = f"LiteLLM {version}, bare"
        yield Variant(name, port, {"processor": process.pid}, models=models)


@contextmanager
def _portkey(folder: Path, provider_port: int, _calls: Sequence[Call]) -> Iterator[Variant]:
    home = FOLDER / "portkey"
    package = home / "node_modules" / "@portkey-ai" / "gateway"
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotHere("there is no node or no npm")
    if not package.exists():
        home.mkdir(parents=True, exist_ok=True)
        quiet = ["--no-audit", "--no-fund", "--loglevel", "error"]
        _install([npm, "install", "--prefix", str(home), *quiet, "@portkey-ai/gateway"])
    port = _free_port()
    process = ManagedProcess(
        [node, str(package / "build" / "start-server.js"), f"--port={port}", "--headless"],
        name="Portkey",
        log_path=folder / "log",
        env=_environment(NODE_ENV="production"),
    )
    version = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{provider_port}/v1",
        "x-portkey-forward-headers": "x-bench",
    }
    with _running(process, f"http://127.0.0.1:{port}/"):
        name = f"Portkey {version}, bare"
        yield Variant(name, port, {"processor": process.pid}, headers=headers)


@contextmanager
def _running(process: ManagedProcess, ready_url: str) -> Iterator[None]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ready() -> bool:
        try:
            with direct.open(ready_url, timeout=2):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    process.start()
    try:
        process.wait_until(ready, what="it answered", timeout_s=_READY_S)
        yield
    finally:
        process.kill()


def _install(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.CalledProcessError as failed:
        last = (failed.stderr or failed.stdout or "no output").strip().splitlines()[-1:]
        raise NotHere(f"{command[0]} failed: {''.join(last)}") from failed
    except (OSError, subprocess.TimeoutExpired) as failed:
        raise NotHere(f"{command[0]}: {failed}") from failed


def _version(command: list[str], before: str) -> str:
    shown = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stdout
    lines = (line.removeprefix(before) for line in shown.splitlines() if line.startswith(before))
    return next(lines, "?")


def _environment(**ours: str) -> Mapping[str, str]:
    # What is set for a provider outside must not change where this one sends.
    kept = {key: value for key, value in os.environ.items() if "API" not in key}
    return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | ours


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
