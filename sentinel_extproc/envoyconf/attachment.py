"""What an attachment is made of, whatever kind of gateway it goes to; checked once, here."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta

from sentinel_extproc.envoyconf import versions
from sentinel_extproc.envoyconf.address import HostPort, SocketPath, check_host, parse_address
from sentinel_extproc.envoyconf.provider_way import ProviderWay

_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")

HEADERS_TIMEOUT_S = 10
"""For a request's headers to arrive."""


@dataclass(frozen=True, slots=True)
class SidecarTls:
    """Mutual TLS to the sidecar, which serves it with ``server.tls_cert_file``.

    Attributes:
        server_name: in the sidecar's certificate; also sent as SNI.
        ca_file: PEM bundle that the sidecar's certificate must lead to.
        cert_file, key_file: Envoy's own, for ``server.client_ca_file``; both or neither.
    """

    server_name: str
    ca_file: str
    cert_file: str | None = None
    key_file: str | None = None

    def __post_init__(self) -> None:
        check_host(self.server_name, parameter="sidecar_tls.server_name")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("sidecar_tls.cert_file: needs key_file, and the other way round")
        for name, path in (("ca_file", self.ca_file), ("cert_file", self.cert_file)):
            if path is not None and not path.startswith("/"):
                raise ValueError(f"sidecar_tls.{name}: {path!r} must be an absolute path")


@dataclass(frozen=True, slots=True)
class Attachment:
    """The sidecar's workers, the provider, and how much and how long.

    Attributes:
        processors: the sidecar's workers, ``unix:/path`` or ``host:port`` each.
        provider_host: DNS name or IP literal; sent as Host, checked in the certificate.
        message_timeout_s: for one reply of the sidecar; past it the client gets a 504.
        buffer_limit_bytes: largest request body that can be read whole; more is a 413.
        connection_buffer_bytes: what Envoy holds for a client that reads slowly; set apart from
            the bodies' bound, so that raising that doesn't make every slow stream cost as much.
        max_concurrent: circuit breakers of both clusters, and client connections at once.
        stream_idle_timeout_s: longest silence within a response; models that think before they
            answer need minutes.
        request_timeout_s: for a whole request to arrive, its body included; past it a 408. It
            bounds who sends a byte now and then, which no idle time-out does, and must leave time
            for the longest honest upload. 0: no bound.
        health_check_interval_s: seconds between gRPC health checks of each worker; 0 for none.
        envoy_version: ``(major, minor)`` of the target.
        forward_namespaces: dynamic metadata of earlier filters that the sidecar gets.
        unmetered: paths of the provider that pass without the sidecar, each with all below it,
            and without the client's credentials: a self-hosted model's ``/health``, say.
        metered_prefix: ``endpoints.prefix``, which no unmetered path may touch.
        sidecar_tls: TLS to the sidecar; None: cleartext, for a Unix socket, loopback or a mesh.
        providers: several, in place of the one that the ``provider_`` attributes describe.
        shadow: the sidecar only sees copies, and nothing waits for it or depends on it.

    Raises:
        ValueError: an impossible value, naming the attribute.
    """

    processors: tuple[str, ...]
    provider_host: str = "api.openai.com"
    provider_port: int = 443
    provider_tls: bool = True
    provider_ca_file: str = "/etc/ssl/certs/ca-certificates.crt"
    message_timeout_s: float = 2.0
    buffer_limit_bytes: int = 16 * 2**20
    connection_buffer_bytes: int = 2**20
    max_concurrent: int = 100_000
    stream_idle_timeout_s: float = 300.0
    request_timeout_s: float = 600.0
    health_check_interval_s: float = 5.0
    envoy_version: versions.Version = versions.NEWEST
    forward_namespaces: tuple[str, ...] = ()
    unmetered: tuple[str, ...] = ()
    metered_prefix: str = "/v1/"
    sidecar_tls: SidecarTls | None = None
    providers: tuple[ProviderWay, ...] = ()
    shadow: bool = False

    def __post_init__(self) -> None:
        check_range("provider_port", self.provider_port, 1, 65535)
        check_range("message_timeout_s", self.message_timeout_s, 0.001, 3600)
        check_range("buffer_limit_bytes", self.buffer_limit_bytes, 16 * 2**10, 2**31 - 1)
        check_range("connection_buffer_bytes", self.connection_buffer_bytes, 16 * 2**10, 2**31 - 1)
        check_range("max_concurrent", self.max_concurrent, 1, 2**31 - 1)
        check_range("stream_idle_timeout_s", self.stream_idle_timeout_s, 1, 86_400)
        check_range("request_timeout_s", self.request_timeout_s, 0, 86_400)
        check_range("health_check_interval_s", self.health_check_interval_s, 0, 3600)
        check_host(self.provider_host, parameter="provider_host")
        versions.check_envoy(self.envoy_version)
        if self.provider_tls and not self.provider_ca_file.startswith("/"):
            raise ValueError(
                f"provider_ca_file: {self.provider_ca_file!r} must be an absolute path"
            )
        self._check_processors()
        if self.providers and self.unmetered:
            raise ValueError("unmetered: not with several providers: whose path would it be?")
        for path in self.unmetered:
            self._check_unmetered(path)

    @property
    def addresses(self) -> tuple[SocketPath | HostPort, ...]:
        """The workers' addresses."""
        return tuple(parse_address(text, parameter="processors") for text in self.processors)

    @property
    def provider(self) -> HostPort:
        """The provider's address."""
        return HostPort(self.provider_host, self.provider_port)

    @property
    def provider_authority(self) -> str:
        """The Host header's value; RFC 9110 section 7.2 leaves out the scheme's own port."""
        host = f"[{self.provider_host}]" if ":" in self.provider_host else self.provider_host
        default = 443 if self.provider_tls else 80
        return host if self.provider_port == default else f"{host}:{self.provider_port}"

    @property
    def stream_idle_timeout(self) -> timedelta:
        """Longest silence within a response."""
        return timedelta(seconds=self.stream_idle_timeout_s)

    @property
    def request_timeout(self) -> timedelta | None:
        """For a whole request to arrive; None for no bound."""
        return timedelta(seconds=self.request_timeout_s) if self.request_timeout_s else None

    def _check_processors(self) -> None:
        addresses = self.addresses
        if not addresses:
            raise ValueError("processors: at least one address is needed")
        if len(set(addresses)) != len(addresses):
            raise ValueError("processors: the same address is listed twice")
        needs_dns = any(isinstance(a, HostPort) and not a.is_literal for a in addresses)
        if needs_dns and any(isinstance(a, SocketPath) for a in addresses):
            raise ValueError("processors: Unix sockets and host names can't be in one cluster")

    def _check_unmetered(self, path: str) -> None:
        if _PATH.fullmatch(path) is None or "/.." in path:
            raise ValueError(
                f"unmetered: {path!r} must be a path such as /health, of letters, digits and ._~-"
            )
        # Either way round: what lies under the prefix, and what the prefix lies under. In lower
        # case, because there are providers that read paths so.
        below, prefix = f"{path}/".lower(), self.metered_prefix.lower()
        if below.startswith(prefix) or prefix.startswith(below):
            raise ValueError(
                f"unmetered: {path!r} would let metered calls under {self.metered_prefix} past the"
                " sidecar"
            )


def check_range(parameter: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside of its range.

    Raises:
        ValueError: naming ``parameter``.
    """
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{parameter}: {value!r} is not between {low:g} and {high:g}")
