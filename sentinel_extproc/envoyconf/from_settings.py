"""The sidecar's own settings as an attachment, so that both say the same."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from sentinel_extproc.config.overload import most_at_once
from sentinel_extproc.config.sections.identity import IdentitySourceName
from sentinel_extproc.config.sections.serving import Metering, Mode
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.config.workers import worker_addresses, worker_count
from sentinel_extproc.envoyconf.attachment import Attachment, SidecarTls
from sentinel_extproc.envoyconf.names import JWT_NAMESPACE
from sentinel_extproc.envoyconf.provider_way import ProviderWay
from sentinel_extproc.envoyconf.versions import NEWEST, Version


@dataclass(frozen=True, slots=True)
class Choices:
    """What Envoy is told and the sidecar doesn't know; see ``Attachment``."""

    workers: tuple[str, ...] = ()
    message_timeout_s: float = 2.0
    buffer_limit_bytes: int = 16 * 2**20
    max_concurrent: int = 100_000
    stream_idle_timeout_s: float = 300.0
    request_timeout_s: float = 600.0
    provider_ca_file: str = "/etc/ssl/certs/ca-certificates.crt"
    envoy_version: Version = NEWEST
    unmetered: tuple[str, ...] = ()
    sidecar_tls: SidecarTls | None = None


def attachment_of(settings: Settings, choices: Choices) -> Attachment:
    """The attachment of a sidecar with these settings.

    Raises:
        ValueError: an impossible value, or one that contradicts the settings.
    """
    server = settings.server
    if choices.message_timeout_s <= server.decision_timeout_seconds:
        raise ValueError(
            f"message_timeout_s: {choices.message_timeout_s:g} must be above"
            f" server.decision_timeout_seconds ({server.decision_timeout_seconds:g}), or Envoy"
            " gives up before the sidecar answers"
        )
    if choices.buffer_limit_bytes >= server.max_message_bytes:
        raise ValueError(
            f"buffer_limit_bytes: {choices.buffer_limit_bytes} must be below"
            f" server.max_message_bytes ({server.max_message_bytes})"
        )
    if choices.buffer_limit_bytes < settings.endpoints.max_body_bytes:
        raise ValueError(
            f"buffer_limit_bytes: {choices.buffer_limit_bytes} must not be below"
            f" endpoints.max_body_bytes ({settings.endpoints.max_body_bytes})"
        )
    at_once = worker_count(server.workers) * most_at_once(
        settings.overload, max_streams=server.max_streams
    )
    if choices.max_concurrent < at_once:
        raise ValueError(
            f"max_concurrent: {choices.max_concurrent} must not be below the {at_once} that the"
            " sidecar takes on at once (overload.max_exchanges, or half of server.max_streams, of"
            " all workers)"
        )
    host, port, tls = provider_of(settings.provider.url)
    return Attachment(
        processors=choices.workers or known_addresses(settings, _reachable(server.listen)),
        provider_host=host,
        provider_port=port,
        provider_tls=tls,
        provider_ca_file=choices.provider_ca_file,
        message_timeout_s=choices.message_timeout_s,
        buffer_limit_bytes=choices.buffer_limit_bytes,
        max_concurrent=choices.max_concurrent,
        stream_idle_timeout_s=choices.stream_idle_timeout_s,
        request_timeout_s=choices.request_timeout_s,
        envoy_version=choices.envoy_version,
        forward_namespaces=(JWT_NAMESPACE,)
        if settings.identity.source is IdentitySourceName.ENVOY_JWT
        else (),
        unmetered=choices.unmetered,
        metered_prefix=settings.endpoints.prefix,
        sidecar_tls=choices.sidecar_tls,
        providers=provider_ways(settings),
        shadow=settings.server.mode is Mode.SHADOW,
    )


def known_addresses(settings: Settings, first: str) -> tuple[str, ...]:
    """Where the workers are, as a gateway sees them, that sees the first one there.

    Raises:
        ValueError: there is one per CPU of another machine.
    """
    workers = settings.server.workers
    if isinstance(workers, str):
        raise ValueError(  # noqa: TRY004 - as for every other setting
            "server.workers: auto isn't a number yet where a gateway is rendered; set one, or give"
            " the addresses with --worker"
        )
    return worker_addresses(first, workers)


def in_mode(settings: Settings, mode: str | None) -> Settings:
    """The settings with another ``server.mode``; None leaves it.

    Raises:
        ValueError: native metering can't only observe.
    """
    mode = mode or settings.server.mode.value
    if mode == Mode.SHADOW.value and settings.server.metering is Metering.NATIVE:
        raise ValueError("server.metering: native needs server.mode: enforce")
    server = settings.server.model_copy(update={"mode": Mode(mode)})
    return settings.model_copy(update={"server": server})


def provider_ways(settings: Settings) -> tuple[ProviderWay, ...]:
    """The ways to several providers; none where there is only one.

    Raises:
        ValueError: a URL that no gateway can send to.
    """
    ways = [
        ProviderWay(
            entry.name,
            *_place(f"providers.{entry.name}.url", entry.url),
            path_prefix=entry.path_prefix,
            base_path=urlsplit(entry.url).path.rstrip("/"),
            hosts=entry.hosts,
        )
        for entry in settings.providers
    ]
    simple = settings.provider
    # Where it is rendered there may be no key.
    if ways and (simple.usable or "url" in simple.model_fields_set):
        ways.append(ProviderWay("default", *provider_of(simple.url)))
    return tuple(ways)


def check_sidecar_tls(settings: Settings, *, given: bool, client_certificate: bool) -> None:
    """Refuse cleartext to a sidecar that serves TLS, and no certificate where it wants one.

    Raises:
        ValueError: naming ``sidecar_tls``.
    """
    if settings.server.tls_cert_file is None:
        return
    if not given:
        raise ValueError(
            "sidecar_tls: the sidecar serves TLS (server.tls_cert_file); name its authority"
        )
    if settings.server.client_ca_file is not None and not client_certificate:
        raise ValueError(
            "sidecar_tls: the sidecar wants a certificate (server.client_ca_file); give Envoy one"
        )


def provider_of(url: str) -> tuple[str, int, bool]:
    """Host, port, and whether to use TLS, of a provider's base URL.

    Raises:
        ValueError: not an http(s) URL, or with a path that the gateway can't put in front.
    """
    place = _place("provider.url", url)
    if urlsplit(url).path.rstrip("/") not in {"", "/v1"}:
        raise ValueError(f"provider.url: {url!r}: only /v1 is possible as its path")
    return place


def _place(where: str, url: str) -> tuple[str, int, bool]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as fault:
        raise ValueError(f"{where}: {url!r}: {fault}") from fault
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{where}: {url!r} is not an http or https URL")
    tls = parts.scheme == "https"
    return parts.hostname, port or (443 if tls else 80), tls


def _reachable(listen: str) -> str:
    """Where an Envoy on the same machine finds a sidecar that listens there."""
    host, _, port = listen.rpartition(":")
    if host == "0.0.0.0":  # noqa: S104 - compared, not bound
        return f"127.0.0.1:{port}"
    return f"[::1]:{port}" if host == "[::]" else listen
