"""What the sidecar's settings say about the Envoy in front of it. Pure but for counting CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from sentinel_extproc.config.overload import most_at_once
from sentinel_extproc.config.sections.identity import IdentitySourceName
from sentinel_extproc.config.sections.serving import Metering, Mode
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.config.workers import AUTO, worker_addresses, worker_count
from sentinel_extproc.envoyconf.doctor.places import LOOPBACK, place

_MOST_WORKERS = 64
_EVERYWHERE = ("0.0.0.0", "[::]", "::")  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider as the settings have it; ``name`` is its route's, empty for the only one."""

    name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Meant:
    """What an Envoy must fit.

    Attributes:
        workers: where each worker listens, as ``places.place`` writes it.
        possible: where further ones may be, with ``server.workers: auto`` on another machine.
        on_every_address: they listen on a port of all addresses of their machine.
        prefix: ``endpoints.prefix``.
        body_bytes: ``endpoints.max_body_bytes``.
        message_bytes: ``server.max_message_bytes``.
        decision_s: ``server.decision_timeout_seconds``.
        at_once: requests that all workers take on at once.
        serves_tls, wants_certificate: ``server.tls_cert_file``, ``server.client_ca_file``.
        shadow, native, jwt: ``server.mode``, ``server.metering``, ``identity.source: envoy_jwt``.
    """

    workers: tuple[str, ...]
    possible: frozenset[str]
    on_every_address: bool
    prefix: str
    body_bytes: int
    message_bytes: int
    decision_s: float
    at_once: int
    serves_tls: bool
    wants_certificate: bool
    shadow: bool
    native: bool
    jwt: bool
    providers: tuple[Provider, ...]

    @property
    def several_providers(self) -> bool:
        """Whether routes must say by their names which provider they lead to."""
        return any(provider.name for provider in self.providers)


def meant_by(settings: Settings) -> Meant:
    """The settings, as far as an Envoy must fit them."""
    server, endpoints = settings.server, settings.endpoints
    automatic = server.workers == AUTO
    # How many there are is the sidecar's machine's to say, and this may be another one.
    count = 1 if automatic else worker_count(server.workers)
    first = _sure_addresses(server.listen, _MOST_WORKERS if automatic else count)
    return Meant(
        workers=tuple(_listening(address) for address in first[:count]),
        possible=frozenset(map(_listening, first)),
        on_every_address=_host(server.listen) in _EVERYWHERE,
        prefix=endpoints.prefix,
        body_bytes=endpoints.max_body_bytes,
        message_bytes=server.max_message_bytes,
        decision_s=server.decision_timeout_seconds,
        at_once=count * most_at_once(settings.overload, max_streams=server.max_streams),
        serves_tls=server.tls_cert_file is not None,
        wants_certificate=server.client_ca_file is not None,
        shadow=server.mode is Mode.SHADOW,
        native=server.metering is Metering.NATIVE,
        jwt=settings.identity.source is IdentitySourceName.ENVOY_JWT,
        providers=_providers(settings),
    )


def _sure_addresses(listen: str, count: int) -> tuple[str, ...]:
    try:
        return worker_addresses(listen, count)
    except ValueError:  # more than there are ports; the first is there in any case
        return worker_addresses(listen, 1)


def _listening(address: str) -> str:
    if address.startswith("unix:"):
        return place(f"/{address.removeprefix('unix:').lstrip('/')}")
    if _host(address) in _EVERYWHERE:
        return f"{LOOPBACK}:{address.rpartition(':')[2]}"
    return place(address)


def _host(listen: str) -> str:
    return "" if listen.startswith("unix:") else listen.rpartition(":")[0]


def _providers(settings: Settings) -> tuple[Provider, ...]:
    found = [_provider(entry.name, entry.url) for entry in settings.providers]
    simple = settings.provider
    # Where only Envoy is configured there may be no key: then the URL tells that it is meant.
    if not found or simple.usable or "url" in simple.model_fields_set:
        found.append(_provider("default" if found else "", simple.url))
    return tuple(found)


def _provider(name: str, url: str) -> Provider:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Provider(name, (parts.hostname or "").lower(), port)
