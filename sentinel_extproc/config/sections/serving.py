"""Settings of the port that Envoy calls: how it serves, what it takes, when it turns away."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from sentinel_extproc.config.sections import Section
from sentinel_extproc.config.values import FileMode, Listen, PathPrefix, Seconds, Workers


class TransportName(StrEnum):
    """What serves gRPC."""

    NATIVE = "native"
    GRPCIO = "grpcio"


class Metering(StrEnum):
    """Who reads the usage of streamed answers."""

    STREAM = "stream"
    NATIVE = "native"


class Mode(StrEnum):
    """Whether what we decide is done."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class ServerSettings(Section):
    """Where Envoy reaches us, and how we end."""

    mode: Mode = Mode.ENFORCE
    """`shadow` refuses and changes nothing, and reports who would have been refused; see
    [attach/shadow.md](attach/shadow.md)."""
    listen: Listen = "unix:/run/sentinel/sentinel.sock"
    """Address of the ext_proc service: `unix:/path` or `host:port`."""
    socket_mode: FileMode = 0o660
    """Permissions of the Unix socket; text is read as octal, so `0660` (which is 432)."""
    workers: Workers = 1
    """Processes, up to 64; `auto` is one per CPU. The first listens at `listen`, the others beside
    it: `sentinel-1.sock`, or the next port. See [operations.md](operations.md#workers)."""
    worker_silent_seconds: float = Field(10.0, ge=1, le=3600)
    """A worker that hangs for so long is killed and replaced."""
    max_message_bytes: int = Field(64 << 20, ge=64 << 10, le=1 << 30)
    """Largest message from Envoy; above Envoy's own buffer limit, which answers 413."""
    max_streams: int = Field(10_000, ge=1, le=1_000_000)
    """Requests in work at once, of each worker; more get Envoy's `status_on_error` (503)."""
    max_connections: int = Field(4096, ge=1, le=1_000_000)
    """From Envoy: one for each of its worker threads, and one for health checks. More are closed
    at once; `transport: grpcio` doesn't know this bound."""
    decision_timeout_seconds: Seconds = 1.8
    """For authentication, and again for counting and reserving; below Envoy's message_timeout."""
    keepalive_seconds: Seconds = 30.0
    """Between HTTP/2 pings to Envoy."""
    drain_seconds: float = Field(600.0, ge=0, le=86_400)
    """After SIGTERM, how long running answers may go on under our eyes."""
    hand_back_seconds: float = Field(10.0, ge=0, le=600)
    """After that, how long to wait for each answer's next chunk to settle it and let it go."""
    transport: TransportName = TransportName.NATIVE
    """`native` is our own HTTP/2, at a third of the cost; `grpcio` is there to fall back on."""
    metering: Metering = Metering.STREAM
    """`stream`: we watch answers pass. `native`, alpha: Envoy from 1.40 on reads the usage of
    streamed chat completions itself, and their chunks don't come here."""
    reflection: bool = False
    """Offer gRPC server reflection; needs `transport: grpcio`."""
    tls_cert_file: Path | None = None
    """PEM certificate, to serve TLS where Envoy is on another machine. Read again when it changes,
    as are the two below; not with `transport: grpcio`."""
    tls_key_file: Path | None = None
    """Its key."""
    client_ca_file: Path | None = None
    """PEM bundle: only clients (Envoys) with a certificate of these authorities are served."""


class OverloadSettings(Section):
    """When new requests are turned away so that the running ones go on. All of it is for one
    process; see [limits.md](limits.md#overload)."""

    max_exchanges: int | None = Field(None, ge=1, le=1_000_000)
    """Requests in work at once; more get 503 `overloaded` and `Retry-After`. Empty: half of
    `server.max_streams`, and always below that."""
    max_exchanges_per_user: int = Field(1000, ge=1, le=1_000_000)
    """The same of one user; more get 429 `too_many_at_once`."""
    max_loop_lag_seconds: float = Field(0.5, ge=0.01, le=10, allow_inf_nan=False)
    """From such a lag of the event loop on, lasting a second, new requests are shed."""
    max_wait_seconds: float = Field(0.5, ge=0.01, le=10, allow_inf_nan=False)
    """A new request that waited longer than this before we came to it is turned away, if more wait
    behind it."""
    max_commit_seconds: float = Field(2.0, ge=0.05, le=60, allow_inf_nan=False)
    """The same for one commit of the ledger: its disk is too slow."""
    max_memory_bytes: int | None = Field(None, ge=64 << 20, le=1 << 44)
    """The same for this process' memory. Empty: 85 % of the container's limit, if it has one."""


class EndpointSettings(Section):
    """Which requests are governed."""

    prefix: PathPrefix = "/v1/"
    """Paths under it are served; any other path that Envoy sends us gets 404."""
    max_body_bytes: int = Field(16 << 20, ge=16 << 10, le=1 << 30)
    """Longest request body that is read whole; what says to be longer gets 413. Never above what
    Envoy buffers (`render --buffer-limit`)."""


class ShadowSettings(Section):
    """What `server.mode: shadow` does; without that, nothing."""

    report_path: Path = Path("/var/lib/sentinel/shadow.db")
    """SQLite file with the counts for `sentinel-extproc shadow report`; its folder is created."""
    max_rows: int = Field(20_000, ge=100, le=1_000_000)
    """Users times reasons that are told apart; those beyond count as `(others)`."""
    bill: bool = False
    """Record usage and report it to Zion all the same."""
    swap_credentials: bool = False
    """Put the provider's key in place of the token of whoever would be let through. Not with a
    filter that only observes."""
