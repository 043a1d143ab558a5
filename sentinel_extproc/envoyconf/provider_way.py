"""One of several providers, as a gateway sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sentinel_extproc.envoyconf.address import HostPort, check_host

_BASE_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


@dataclass(frozen=True, slots=True)
class ProviderWay:
    """How requests get to one provider.

    Attributes:
        name: of the provider, its route, and with a prefix its cluster.
        host: DNS name or IP literal; sent as Host, checked in the certificate.
        path_prefix: what clients put in front; begins and ends with a slash.
        base_path: what Envoy puts there instead, without a slash at its end.
        hosts: values of ``:authority`` that are for it; none: all that nobody lists.

    Raises:
        ValueError: an impossible value.
    """

    name: str
    host: str
    port: int
    tls: bool = True
    path_prefix: str = "/"
    base_path: str = ""
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_host(self.host, parameter=f"providers.{self.name}.url")
        if _BASE_PATH.fullmatch(self.base_path) is None or "/." in self.base_path:
            raise ValueError(f"providers.{self.name}.url: {self.base_path!r} is no plain path")

    @property
    def cluster(self) -> str:
        """The name of its cluster."""
        return f"provider-{self.name}"

    @property
    def address(self) -> HostPort:
        """Where it is."""
        return HostPort(self.host, self.port)

    @property
    def authority(self) -> str:
        """The Host header's value, without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"
