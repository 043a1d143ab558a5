"""Settings of what operators see: the admin port, traces, logs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field

from sentinel_extproc.config.sections import Section
from sentinel_extproc.config.values import (
    FileMode,
    HostName,
    HttpUrl,
    Listen,
    LogLevel,
    Seconds,
    Secret,
)


class Requirement(StrEnum):
    """What readiness may depend on, besides serving and not draining."""

    OUTBOX = "outbox"
    REDIS = "redis"
    ZION = "zion"


class AdminSettings(Section):
    """The operator's port: health, metrics, revocation, the live page. Never for clients."""

    enabled: bool = True
    """Serve it."""
    listen: Listen = "127.0.0.1:9180"
    """`host:port` or `unix:/path`. Health and metrics answer whoever can connect."""
    socket_mode: FileMode = 0o600
    """Permissions of the Unix socket; without a token, whoever may open it may revoke."""
    token: Secret | None = None
    """For revocation, status and the live page, which without it work only on a Unix socket or with
    mutual TLS. At least 24 characters, drawn at random: `openssl rand -hex 32`."""
    token_file: Path | None = None
    """File with the token, instead of it."""
    cleartext_token: bool = False
    """Take the token over plain HTTP on other than loopback, where a mesh encrypts."""
    tls_cert_file: Path | None = None
    """PEM certificate, to serve HTTPS."""
    tls_key_file: Path | None = None
    """Its key."""
    client_ca_file: Path | None = None
    """PEM bundle: only clients with a certificate of these authorities may connect."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Names that clients may call it by; addresses and `localhost` always work."""
    ready_requires: tuple[Requirement, ...] = (Requirement.OUTBOX,)
    """What `/readyz` asks besides serving: `outbox` (room in it), `redis`, `zion`."""


class TracingSettings(Section):
    """Traces by OpenTelemetry, see [observability.md](observability.md#traces). Needs the extra
    `tracing`, which the image has."""

    endpoint: HttpUrl | None = None
    """Address of an OTLP receiver, as `http://collector:4318`; none: no traces. Over HTTP,
    `/v1/traces` is added unless it has a path."""
    protocol: Literal["http/protobuf", "grpc"] = "http/protobuf"
    """How it is spoken to."""
    headers_file: Path | None = None
    """File with lines `name: value` to send along, such as a key of the receiver."""
    ca_file: Path | None = None
    """PEM bundle for an https address; replaces the shipped roots."""
    client_cert_file: Path | None = None
    """PEM certificate for mutual TLS."""
    client_key_file: Path | None = None
    """Its key."""
    sample_ratio: float = Field(1.0, ge=0, le=1, allow_inf_nan=False)
    """Share of exchanges to trace where neither Envoy nor its caller has decided."""
    service_name: str = Field("sentinel-extproc", min_length=1, max_length=200)
    """What receivers call us."""
    timeout_seconds: Seconds = 5.0
    """For one export, all its tries."""
    max_queued: int = Field(2048, ge=64, le=1_000_000)
    """Exchanges that may wait to be exported, at some 2 kB each; more are dropped and counted."""


class LogSettings(Section):
    """What is told, and how."""

    level: LogLevel = "info"
    """Least level that is written, in any case."""
    format: Literal["json", "console"] = "json"
    """JSON lines for machines, text for people."""
