"""Every setting, by section: frozen and range-checked. The docstring under a field is its manual.

Sections are handed to parts value by value; nothing but the composition root sees a whole one.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from sentinel_extproc.exchange.providers import Kind
from sentinel_extproc.limits.limit import OnExhausted, OnOutage
from sentinel_extproc.limits.store.connect import build_client

_SECRET = re.compile(r"[\x21-\x7e]+")
_LISTEN = re.compile(r"unix:(?://)?/[^\0\s]+|(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})")
_HOST = r"^[a-z0-9_.-]+(?::\d{1,5})?$|^\[[0-9a-f:.]+\](?::\d{1,5})?$"
MAX_SOCKET_PATH = 107  # sockaddr_un of Linux, less the terminator


def _check_http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:  # whose text may quote a password
        raise ValueError("must be a URL with a valid host and port") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL with a host")
    if parts.username or parts.password:
        raise ValueError("must not carry credentials; they have settings of their own")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment")
    return value.rstrip("/")


def _check_redis_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        if "+" not in parts.scheme:  # those have a list of hosts, which has no port
            _ = parts.port
        build_client(value)  # connects to nothing
    except ValueError:
        # Its text may quote a password that has a slash in it.
        raise ValueError(
            "must be a redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// URL"
            " (user and password percent-encoded)"
        ) from None
    if "password" in parts.query.lower():
        raise ValueError("must have the password in front of the host, not in the query")
    if parts.scheme == "unix" and not parts.path:
        raise ValueError("must name the socket's path")
    return value


def _masked_url(value: str) -> str:
    # By hand: the host part of a Cluster's URL is a list, which urlsplit doesn't know.
    scheme, _, rest = value.partition("://")
    credentials, at, place = rest.rpartition("@")
    if ":" not in credentials:
        return value
    return f"{scheme}://{credentials.partition(':')[0]}:**********{at}{place}"


def _check_listen(value: str) -> str:
    found = _LISTEN.fullmatch(value)
    if found is None:
        raise ValueError("must be unix:/absolute/path or host:port")
    if found[1] is not None and not 1 <= int(found[1]) <= 65535:
        raise ValueError("must have a port between 1 and 65535")
    if value.startswith("unix:"):
        path = value.removeprefix("unix:").removeprefix("//")
        if len(path.encode()) > MAX_SOCKET_PATH:
            raise ValueError(f"socket paths are limited to {MAX_SOCKET_PATH} bytes")
    return value


def _octal(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return int(value.lower().removeprefix("0o"), 8)
        except ValueError:
            raise ValueError("must be an octal number such as 0660") from None
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _check_secret(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if not secret:
        raise ValueError("must not be empty")
    if not _SECRET.fullmatch(secret):
        raise ValueError("must be visible ASCII without blanks or line breaks")
    return value


def _check_prefix(value: str) -> str:
    if not re.fullmatch(r"/(?:[A-Za-z0-9._~-]+/)*", value):
        raise ValueError("must be a path that begins and ends with a slash")
    return value


HttpUrl = Annotated[str, AfterValidator(_check_http_url)]
RedisUrl = Annotated[str, AfterValidator(_check_redis_url), PlainSerializer(_masked_url)]
Listen = Annotated[str, AfterValidator(_check_listen)]
Secret = Annotated[SecretStr, AfterValidator(_check_secret)]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*$", max_length=253)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
Workers = Annotated[int, Field(ge=1, le=64)] | Literal["auto"]
FileMode = Annotated[int, BeforeValidator(_octal), Field(ge=0, le=0o777)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Dialect(StrEnum):
    """Which of Zion's two wire contracts is spoken."""

    UNIFIED = "unified"
    PER_METRIC = "per_metric"


class IdentitySourceName(StrEnum):
    """Who says whom a credential belongs to."""

    ZION = "zion"
    JWT = "jwt"
    ENVOY_JWT = "envoy_jwt"
    STATIC = "static"


class Hop(StrEnum):
    """How usage gets from the outbox to Zion."""

    STREAM = "stream"
    DIRECT = "direct"


class Durability(StrEnum):
    """What a stored usage record survives."""

    PROCESS = "process"
    FSYNC = "fsync"


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
    )


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


UNSET = "unset"
"""In place of a secret that isn't needed."""


class ProviderSettings(Section):
    """The LLM provider behind Envoy; with `providers`, the one for all that isn't for those."""

    api_key_file: Path | None = None
    """File with the key, instead of `api_key`; a changed file is in use within two seconds. One key
    a line; several are used in turn."""
    api_key: Secret | None = None
    """Replaces the user's token; needed, or `api_key_file`. Also read from `OPENAI_API_KEY`."""
    url: HttpUrl = "https://api.openai.com"
    """Where Envoy sends requests; used when configuration is rendered. Also `OPENAI_API_URL`."""
    tell_identity: bool = False
    """Send `x-sentinel-user`, `-email` and `-exchange-id` to the provider."""

    @field_validator("api_key")
    @classmethod
    def _one_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        file = info.data.get("api_key_file")
        if value is None and file is None:
            raise PydanticCustomError("missing", "Field required")
        if value is not None and value.get_secret_value() != UNSET and file is not None:
            raise ValueError("not both of api_key and api_key_file")
        return value

    @property
    def usable(self) -> bool:
        """Whether there is a key, so that requests can go there."""
        if self.api_key_file is not None:
            return True
        return self.api_key is not None and self.api_key.get_secret_value() != UNSET


class ProviderEntry(Section):
    """One of several providers: a list, in the file, or in the environment a JSON array in
    `SENTINEL_PROVIDERS`. See [providers.md](providers.md)."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """What logs, metrics and Envoy's routes call it."""
    kind: Kind = Kind.OPENAI
    """How its paths and its key look."""
    url: HttpUrl
    """Where Envoy sends its requests; a path in it takes the place of `path_prefix`."""
    path_prefix: Annotated[str, AfterValidator(_check_prefix)] = "/"
    """What clients put in front of the provider's own paths."""
    hosts: tuple[Annotated[str, Field(pattern=_HOST)], ...] = ()
    """Values of `:authority` that are for it; none: every host that no provider lists."""
    api_prefix: Annotated[str, AfterValidator(_check_prefix)] | None = None
    """Where its paths begin behind `path_prefix`; as its kind's do: `/v1/`, Azure's `/openai/`."""
    models: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = ()
    """Globs; a request for another model gets 404."""
    api_key: Secret | None = None
    """Replaces the user's token; needed, or `api_key_file`, but not for `compatible`."""
    api_key_file: Path | None = None
    """File with the key, as `provider.api_key_file`."""
    key_header: str | None = Field(None, pattern=r"^[a-z0-9-]{1,64}$")
    """Header for the key instead of its kind's own."""
    tell_identity: bool = False
    """As `provider.tell_identity`."""


class ZionSettings(Section):
    """The user service."""

    url: HttpUrl
    """Base URL. Also read from `ZION_API_URL`."""
    api_key: Secret
    """For limits and usage. Also read from `ZION_API_KEY`."""
    dialect: Dialect = Dialect.UNIFIED
    """`per_metric` for an older Zion."""
    deadline_seconds: Seconds = 1.5
    """For one look-up, all of it; below `server.decision_timeout_seconds`."""
    report_deadline_seconds: Seconds = 10.0
    """For one batch of usage."""
    ca_file: Path | None = None
    """PEM bundle that replaces the shipped roots."""
    client_cert_file: Path | None = None
    """PEM certificate for mutual TLS."""
    client_key_file: Path | None = None
    """Its key."""


class RedisSettings(Section):
    """The store of limits."""

    url: RedisUrl = "redis://127.0.0.1:6379/0"
    """Also read from `REDIS_URL`. `redis://`, `rediss://` (TLS), `unix://`, or `redis+sentinel://`
    and `redis+cluster://` with a list of hosts."""
    ca_file: Path | None = None
    """PEM bundle for `rediss` URLs; the system's authorities when empty."""
    client_cert_file: Path | None = None
    """PEM certificate for mutual TLS."""
    client_key_file: Path | None = None
    """Its key."""
    timeout_seconds: Seconds = 0.025
    """Budget of one command."""
    require_noeviction: bool = True
    """Don't start on a Redis whose `maxmemory-policy` lets it forget limits."""
    prefix: str = Field("sentinel", pattern=r"^[A-Za-z0-9:_.-]{1,64}$")
    """In front of every key, to keep installations apart."""


class IdentitySettings(Section):
    """Who says whom a credential belongs to, and how long that is believed."""

    source: IdentitySourceName = IdentitySourceName.ZION
    """`zion` asks the user service; `jwt` checks JWTs here; `envoy_jwt` takes what the filter
    jwt_authn of Envoy has verified; `static` reads keys from a file, for development."""
    jwt_issuer: str = ""
    """What `iss` must be; needed for `jwt`."""
    jwt_audience: str = ""
    """What `aud` must contain; needed for `jwt`."""
    jwks_url: HttpUrl | None = None
    """Where the issuer publishes its keys; needed for `jwt`."""
    jwks_ca_file: Path | None = None
    """PEM bundle for that address; replaces the shipped roots."""
    jwt_metadata_name: str = Field("jwt_payload", min_length=1, max_length=256)
    """For `envoy_jwt`: the filter's `payload_in_metadata`."""
    jwt_external_id_claim: str = Field("sub", min_length=1, max_length=256)
    """The claim that limits and billing go by."""
    jwt_email_claim: str = Field("email", min_length=1, max_length=256)
    """The claim with the address."""
    jwt_plan_claim: str | None = None
    """The claim with the plan, for policies that go by it."""
    static_keys_file: Path | None = None
    """For `static`: YAML list of `sha256`, `external_id`, `email`, `user_id`, `plan`."""
    fresh_seconds: float = Field(60.0, ge=1, le=3600)
    """Opaque tokens; jittered down to half. Also `CACHE_TTL_SECONDS`."""
    jwt_fresh_seconds: float = Field(60.0, ge=1, le=3600)
    """Tokens that look like a JWT. Also `JWT_CACHE_TTL_SECONDS`."""
    stale_seconds: float = Field(300.0, ge=0, le=3600)
    """Used, while it is checked again, up to this age."""
    stale_on_error_seconds: float = Field(1800.0, ge=0, le=86_400)
    """Used when the user service fails, up to this age; never past the token's `exp`."""
    max_entries: int = Field(10_000, ge=1, le=10_000_000)
    """Tokens remembered per process."""
    revoked_token_seconds: float = Field(86_400.0, ge=60, le=2_678_400)
    """How long a token that an operator revoked is refused, whatever the source says of it."""


class LimitSettings(Section):
    """Limits: a policy file, or else one limit for every user."""

    policy_file: Path | None = None
    """YAML file with limits by path, model, plan and user; it replaces the next two settings."""
    replicas_at_least: int = Field(1, ge=1, le=10_000)
    """Sidecars that share this Redis, at least: while Redis is away the local share of a limit is
    divided by the greater of this and the number last seen."""
    zion_quotas: bool = True
    """Enforce the quotas that Zion knows for each user, on top of the policy."""
    quota_on_outage: OnOutage = OnOutage.LOCAL
    """Zion's quotas while Redis is away: a bounded `local` share, `deny`, or `allow`."""
    quota_on_exhausted: OnExhausted = OnExhausted.SETTLE_AS_DEBT
    """When a quota runs out under a stream: let it end as debt, or `cut` it."""
    quota_right_size: bool = False
    """Clamp a request's output to what a quota has left instead of refusing it."""

    requests: int = Field(100, ge=1, le=10**9)
    """Requests in any window of `period_seconds`."""
    period_seconds: float = Field(60.0, ge=1, le=31_622_400)
    """Length of the window."""
    default_output_tokens: int = Field(1024, ge=0, le=10**7)
    """Output reserved when a request has no cap of its own and nothing is learned yet."""
    learn_output: bool = True
    """Learn from whole answers what to reserve for when there is no cap, by user and model."""
    learned_output_percentile: float = Field(0.95, ge=0.5, le=0.999, allow_inf_nan=False)
    """Share of such answers that shall need no more than was reserved."""
    learned_output_least: int = Field(64, ge=1, le=10**7)
    """Least that is reserved by what was learned, for each choice."""
    learned_output_most: int = Field(16_384, ge=1, le=10**7)
    """Most."""
    learned_output_samples: int = Field(20, ge=4, le=10_000)
    """Answers that must have been seen before they count."""
    learned_output_users: int = Field(10_000, ge=1, le=1_000_000)
    """Users remembered per process, at about 0.7 kB each."""


class EndpointSettings(Section):
    """Which requests are governed."""

    prefix: Annotated[str, AfterValidator(_check_prefix)] = "/v1/"
    """Paths under it are served; any other path that Envoy sends us gets 404."""
    max_body_bytes: int = Field(16 << 20, ge=16 << 10, le=1 << 30)
    """Longest request body that is read whole; what says to be longer gets 413. Never above what
    Envoy buffers (`render --buffer-limit`)."""


class UsageSettings(Section):
    """The outbox and its reports to Zion."""

    outbox_path: Path = Path("/var/lib/sentinel/outbox.db")
    """SQLite file; its folder is created. One process at a time; further workers have files of
    their own beside it."""
    max_bytes: int = Field(1 << 30, ge=1 << 20, le=1 << 40)
    """Bound of the outbox; at the bound new metered requests get 503. Workers share it out."""
    retain_days: float = Field(7.0, ge=0, le=3650)
    """How long billed records are kept for audit, if half of `max_bytes` has room for them."""
    sidecar_name: str | None = Field(None, pattern=r"^[A-Za-z0-9_.:-]{1,64}$")
    """What the ledger calls this sidecar, beside the id that it gives itself."""
    prices_file: Path | None = None
    """YAML file with prices by model; records then carry their cost."""
    durability: Durability = Durability.PROCESS
    """`process` survives kill -9; `fsync` also power loss, and costs a disk flush per commit."""
    hop: Hop = Hop.STREAM
    """`stream`: through Redis, so that any replica reports it, and what was handed over outlives
    this one's disk; straight to Zion while Redis is away. `direct`: always straight to Zion."""
    stream_shards: int = Field(1, ge=1, le=64)
    """Streams that usage is spread over, in a Redis Cluster; the same in every replica."""
    stream_window: int = Field(10_000, ge=1, le=10_000_000)
    """Most items of this sidecar in the stream at once, but at the end; the others wait their turn
    in the outbox."""
    stream_max_items: int = Field(100_000, ge=1, le=100_000_000)
    """Bound of each stream, all replicas' items together; an item takes about 1 kB of Redis."""
    orphan_seconds: float = Field(60.0, ge=5, le=86_400)
    """A sidecar that Redis hasn't heard of for so long is taken for dead; another one records what
    it had under way as unknown."""
    report_interval_seconds: Seconds = 5.0
    """Between reports while there is little to do."""
    batch_size: int = Field(1000, ge=1, le=1000)
    """Items in one report; Zion takes 1000."""
    on_ambiguous: Literal["retry", "park"] = "retry"
    """When an answer is lost after sending: send again, or leave it to a person."""
    shutdown_seconds: float = Field(10.0, ge=0, le=600)
    """For handing over and the last reports after SIGTERM; what is left is sent after the next
    start, or by another replica."""


class TokenSettings(Section):
    """Counting."""

    aliases: dict[str, str] = {}
    """Other names of models (Azure deployments, nicknames) to the names they stand for; in the
    environment a JSON object."""
    overrides: dict[str, dict[str, Any]] = {}
    """Constants of counting that replace the shipped ones, by family or model name, see
    accounting.md; in the environment a JSON object."""
    threads: int = Field(2, ge=1, le=64)
    """For counting large bodies."""


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
    mutual TLS."""
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


class Settings(BaseSettings):
    """All of it. Made by ``config.load``, which adds the file and the predecessor's names."""

    model_config = SettingsConfigDict(
        env_prefix="SENTINEL_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
    )

    server: ServerSettings = ServerSettings()
    overload: OverloadSettings = OverloadSettings()
    provider: ProviderSettings
    providers: tuple[ProviderEntry, ...] = Field((), max_length=64)
    zion: ZionSettings
    redis: RedisSettings = RedisSettings()
    identity: IdentitySettings = IdentitySettings()
    limits: LimitSettings = LimitSettings()
    endpoints: EndpointSettings = EndpointSettings()
    usage: UsageSettings = UsageSettings()
    tokens: TokenSettings = TokenSettings()
    admin: AdminSettings = AdminSettings()
    shadow: ShadowSettings = ShadowSettings()
    tracing: TracingSettings = TracingSettings()
    logs: LogSettings = LogSettings()

    def public(self) -> dict[str, Any]:
        """As JSON values, with every secret masked."""
        return self.model_dump(mode="json")
