"""Docker Compose: Envoy, the sidecar on a Unix socket, and Redis. The checkout's own file is this
with stand-ins added; a test holds them together."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from sentinel_extproc import __version__
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.envoyconf.from_settings import known_addresses
from sentinel_extproc.envoyconf.set_values import grace_seconds, set_values
from sentinel_extproc.envoyconf.versions import Version, shown

SOCKET = "unix:/run/sentinel/sentinel.sock"
OUTBOX = "/var/lib/sentinel/outbox.db"
REDIS_IMAGE = "redis:7.4.1-alpine"

_USER = "10001:10001"
_LOCKED_DOWN: dict[str, Any] = {
    "restart": "unless-stopped",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}
_PROBE = f"""\
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel("{SOCKET}") as channel:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
raise SystemExit(answer.status != health_pb2.HealthCheckResponse.SERVING)
"""

COMPOSE_NOTES = {
    "envoy.user": "The user of the sidecar, whose socket is for its owner and group only.",
    "envoy.ports": (
        "For this machine only. It is plain HTTP, so before GATEWAY_ADDRESS is 0.0.0.0 or another\n"
        "address, put TLS in front: users' tokens would cross the network in clear."
    ),
    "sidecar.stop_grace_period": (
        "Answers may go on after SIGTERM, and then there is usage to report."
    ),
    "redis.command": ("Limits live here for minutes; usage doesn't, so nothing needs to be kept."),
}


def compose_file(settings: Settings, envoy_version: Version) -> dict[str, Any]:
    """The file's content; ``envoy/envoy.yaml`` beside it is what ``--target envoy`` renders.

    Raises:
        ValueError: workers of an unknown number, or TLS between containers that share a socket.
    """
    known_addresses(settings, SOCKET)  # as Envoy is told
    if settings.server.tls_cert_file is not None:
        raise ValueError("server.tls_cert_file: not where Envoy and sidecar share a Unix socket")
    return {
        "name": "sentinel",
        "services": {
            "envoy": _envoy(envoy_version),
            "sidecar": _sidecar(settings),
            "redis": _redis(),
        },
        "volumes": {"sockets": None, "outbox": None},
    }


def _envoy(version: Version) -> dict[str, Any]:
    return {
        **_LOCKED_DOWN,
        "image": f"envoyproxy/envoy:distroless-v{shown(version)}.0",
        "user": _USER,
        "command": [
            "--disable-hot-restart",
            "-c",
            "/etc/envoy/${ENVOY_CONFIG:-envoy.yaml}",
        ],
        "ports": ["${GATEWAY_ADDRESS:-127.0.0.1}:${GATEWAY_PORT:-8080}:8080"],
        "volumes": ["./envoy:/etc/envoy:ro", f"sockets:{_folder(SOCKET)}"],
        "depends_on": {"sidecar": {"condition": "service_healthy"}},
    }


def _sidecar(settings: Settings) -> dict[str, Any]:
    return {
        **_LOCKED_DOWN,
        "image": f"sentinel-extproc:{__version__}",
        "environment": _environment(settings),
        "volumes": [
            f"sockets:{_folder(SOCKET)}",
            f"outbox:{_folder(OUTBOX)}",
            *(f"{_source(file)}:{_inside(file)}:ro" for file in _files(settings).values()),
        ],
        "tmpfs": ["/tmp"],  # noqa: S108 - the container's own
        "stop_grace_period": f"{-(-grace_seconds(settings) // 60)}m",
        "healthcheck": {
            "test": ["CMD", "python", "-c", _PROBE],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "30s",
        },
        "depends_on": {"redis": {"condition": "service_healthy"}},
    }


def _environment(settings: Settings) -> dict[str, str]:
    """Secrets and addresses from where compose is run; what was set otherwise, as it was set."""
    zion_url = set_values(settings).get("zion", {}).get("url")
    limits = settings.limits
    known = {
        "OPENAI_API_KEY": "${OPENAI_API_KEY:?the key of the provider}",
        "OPENAI_API_URL": f"${{OPENAI_API_URL:-{settings.provider.url}}}",
        "ZION_API_URL": f"${{ZION_API_URL:-{zion_url}}}"
        if zion_url
        else "${ZION_API_URL:?where Zion is}",
        "ZION_API_KEY": "${ZION_API_KEY:?our key at Zion}",
        "REDIS_URL": "redis://redis:6379/0",
        "SENTINEL_SERVER__LISTEN": SOCKET,
        "SENTINEL_USAGE__OUTBOX_PATH": OUTBOX,
        "SENTINEL_LIMITS__REQUESTS": f"${{SENTINEL_LIMITS__REQUESTS:-{limits.requests}}}",
        "SENTINEL_LIMITS__PERIOD_SECONDS": (
            f"${{SENTINEL_LIMITS__PERIOD_SECONDS:-{limits.period_seconds:g}}}"
        ),
    }
    files = {place: _inside(file) for place, file in _files(settings).items()}
    others = {
        f"SENTINEL_{section}__{name}".upper(): _text(files.get((section, name), value))
        for section, fields in set_values(settings).items()
        for name, value in fields.items()
        if f"{section}.{name}" not in ("provider.url", "zion.url", "redis.url")
    }
    return known | {name: value for name, value in others.items() if name not in known}


def _files(settings: Settings) -> dict[tuple[str, str], Path]:
    """Files that settings name, by section and name; to be mounted."""
    given = settings.model_dump(exclude_unset=True, exclude={"providers"})
    return {
        (section, name): value
        for section, fields in given.items()
        for name, value in fields.items()
        if isinstance(value, Path) and name != "outbox_path"
    }


def _source(file: Path) -> str:
    return str(file) if file.is_absolute() else f"./{file}"


def _inside(file: Path) -> str:
    return str(file) if file.is_absolute() else f"/etc/sentinel/{file.name}"


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("$", "$$")  # a single one begins a variable


def _redis() -> dict[str, Any]:
    return {
        **_LOCKED_DOWN,
        "image": REDIS_IMAGE,
        "user": "999:1000",
        "command": [
            *("redis-server", "--save", "", "--appendonly", "no"),
            *("--maxmemory", "256mb", "--maxmemory-policy", "noeviction"),
        ],
        "healthcheck": {
            "test": ["CMD", "redis-cli", "ping"],
            "interval": "5s",
            "timeout": "3s",
            "retries": 5,
        },
    }


def _folder(address: str) -> str:
    return str(PurePosixPath(address.removeprefix("unix:")).parent)
