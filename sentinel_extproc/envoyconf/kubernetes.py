"""What the Kubernetes targets have in common: where the sidecar is, and a resource's frame."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

CHART = "sentinel-extproc"
"""Name of our chart, and so of what it makes when the release is called so too."""

GRPC_PORT = 50051


@dataclass(frozen=True, slots=True)
class Service:
    """The Service in front of the sidecars.

    Raises:
        ValueError: impossible names, naming the attribute.
    """

    name: str = CHART
    namespace: str = "sentinel"
    port: int = GRPC_PORT

    def __post_init__(self) -> None:
        check_name(self.name, parameter="service")
        check_namespace(self.namespace, parameter="service")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"service: {self.port} is not a port from 1 to 65535")

    @property
    def host(self) -> str:
        """Its name for the whole cluster."""
        return f"{self.name}.{self.namespace}.svc.cluster.local"


def parse_service(text: str) -> Service:
    """Read ``name.namespace`` or ``name.namespace:port``.

    Raises:
        ValueError: anything else.
    """
    found = re.fullmatch(r"([^.:]+)\.([^.:]+)(?:\.svc(?:\.cluster\.local)?)?(?::(\d{1,5}))?", text)
    if found is None:
        raise ValueError(f"service: {text!r} is not name.namespace:port")
    return Service(found[1], found[2], int(found[3] or GRPC_PORT))


def check_name(name: str, *, parameter: str) -> None:
    """Refuse what can't name a resource.

    Raises:
        ValueError: naming ``parameter``.
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{parameter}: {name!r} can't be the name of a Kubernetes resource")


def check_namespace(name: str, *, parameter: str) -> None:
    """Refuse what can't name a namespace.

    Raises:
        ValueError: naming ``parameter``.
    """
    if _LABEL.fullmatch(name) is None:
        raise ValueError(f"{parameter}: {name!r} can't be the name of a namespace")


def resource(
    api_version: str, kind: str, name: str, namespace: str, spec: Mapping[str, Any]
) -> dict[str, Any]:
    """A resource with its frame."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/name": CHART},
        },
        "spec": dict(spec),
    }


DEFAULT_SERVICE = Service()
