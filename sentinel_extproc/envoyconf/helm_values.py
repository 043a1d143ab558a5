"""Values for our Helm chart, deploy/helm/sentinel-extproc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentinel_extproc import __version__
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.envoyconf.set_values import set_values

_SET_BY_THE_CHART = {
    "server": ("listen", "socket_mode", "tls_cert_file", "tls_key_file", "client_ca_file"),
    "admin": ("listen", "socket_mode"),
    "usage": ("outbox_path",),
    "limits": ("policy_file",),
}

HELM_NOTES = {
    "mode": (
        "shared: sidecars behind a Service, for gateways that are there already. sidecar: pods with"
        " an Envoy and a sidecar each."
    ),
    "settings": "As in docs/configuration.md; where it listens and stores is the chart's.",
    "secret": "With the keys provider.api_key and zion.api_key, and what else is secret.",
    "tls": "A Secret of type kubernetes.io/tls with ca.crt: for Envoys in other pods.",
    "policy": "The content of limits.policy_file.",
    "envoy.config": "The gateway's configuration; Envoy and sidecar share a socket.",
}


def helm_values(settings: Settings, *, envoy_config: str | None) -> dict[str, Any]:
    """The values that differ from the chart's.

    Args:
        envoy_config: YAML of an Envoy that finds the sidecar on its Unix socket, for pods that
            have both; None: sidecars that are shared.

    Raises:
        ValueError: the policy file can't be read.
    """
    values: dict[str, Any] = {
        "mode": "shared" if envoy_config is None else "sidecar",
        "image": {"tag": __version__},
        "secret": {"name": "sentinel-extproc"},
        "settings": _settings(settings),
    }
    if settings.limits.policy_file is not None:
        values["policy"] = _policy(settings.limits.policy_file)
    if settings.server.tls_cert_file is not None:
        mutual = settings.server.client_ca_file is not None
        values["tls"] = {"secretName": "sentinel-extproc-tls", "requireClientCert": mutual}
    if envoy_config is not None:
        values["envoy"] = {"config": envoy_config}
    return values


def _settings(settings: Settings) -> dict[str, Any]:
    kept = {
        section: {
            name: value
            for name, value in fields.items()
            if name not in _SET_BY_THE_CHART.get(section, ())
        }
        for section, fields in set_values(settings).items()
    }
    return {section: fields for section, fields in kept.items() if fields}


def _policy(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise ValueError(f"limits.policy_file: {file}: {fault}") from fault
