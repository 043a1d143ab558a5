"""The rendered examples that are kept in a checkout's ``envoy/``.

``make examples`` writes them again; a test keeps them equal to what is rendered.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sentinel_extproc.config.load import only
from sentinel_extproc.envoyconf.attachment import SidecarTls
from sentinel_extproc.envoyconf.envoy_gateway import EnvoyGateway, GatewayTls
from sentinel_extproc.envoyconf.from_settings import Choices
from sentinel_extproc.envoyconf.istio import IstioGateway
from sentinel_extproc.envoyconf.kubernetes import DEFAULT_SERVICE
from sentinel_extproc.envoyconf.notes import ENVOY_NOTES
from sentinel_extproc.envoyconf.render import to_yaml
from sentinel_extproc.envoyconf.static import static_bootstrap
from sentinel_extproc.envoyconf.targets import TARGETS, Options

SIDECAR_SOCKET = "unix:/run/sentinel/sentinel.sock"
SIDECAR_PORT = "127.0.0.1:50051"

_RENDERED = "Rendered by `make examples` (sentinel_extproc/envoyconf/examples.py); edit that."
_ADMIN = "127.0.0.1:9901"


def examples() -> dict[str, str]:
    """YAML by the file's path below the folder."""
    return {**envoy_examples(), **_kubernetes_examples()}


def envoy_examples() -> dict[str, str]:
    """Those that an Envoy can be started with."""
    return {
        "envoy.yaml": to_yaml(
            static_bootstrap(processors=[SIDECAR_SOCKET], admin=_ADMIN),
            comment=(
                "A governed gateway in front of the OpenAI API, the sidecar beside it on a Unix\n"
                "socket. List one endpoint per worker process of the sidecar.\n"
                f"{_RENDERED}"
            ),
            notes=ENVOY_NOTES,
        ),
        "envoy-standins.yaml": to_yaml(
            static_bootstrap(
                processors=[SIDECAR_SOCKET],
                admin=_ADMIN,
                provider_host="openai-standin",
                provider_port=8081,
                provider_tls=False,
            ),
            comment=(
                "The same gateway in front of the stand-in provider of docker-compose.yml.\n"
                f"{_RENDERED}"
            ),
            notes=ENVOY_NOTES,
        ),
        "envoy-local.yaml": to_yaml(
            static_bootstrap(
                processors=[SIDECAR_PORT],
                admin=_ADMIN,
                provider_host="127.0.0.1",
                provider_port=8081,
                provider_tls=False,
                listener_address="127.0.0.1",
            ),
            comment=(
                "For trying things by hand: sidecar and stand-in provider on ports, everything on\n"
                "loopback. docs/attach/envoy.md walks through it.\n"
                f"{_RENDERED}"
            ),
            notes=ENVOY_NOTES,
        ),
        "envoy-shared.yaml": to_yaml(
            static_bootstrap(
                processors=["sentinel.example.com:50051"],
                admin=_ADMIN,
                unmetered=["/health"],
                sidecar_tls=SidecarTls(
                    "sentinel.example.com",
                    ca_file="/etc/envoy/tls/ca.crt",
                    cert_file="/etc/envoy/tls/tls.crt",
                    key_file="/etc/envoy/tls/tls.key",
                ),
                envoy_version=(1, 36),
            ),
            comment=(
                "Sidecars on other machines, by mutual TLS; a path that passes unmetered; for an\n"
                "Envoy from 1.36 on.\n"
                f"{_RENDERED}"
            ),
            notes=ENVOY_NOTES,
        ),
    }


def _kubernetes_examples() -> dict[str, str]:
    settings = only({"zion": {"url": "https://zion.example.com"}})
    served_with_tls = only(
        {"server": {"tls_cert_file": "/c", "tls_key_file": "/k", "client_ca_file": "/a"}}
    )
    return {
        "istio/gateway.yaml": TARGETS["istio"](settings, Options()),
        "istio/mesh-tls.yaml": TARGETS["istio"](
            settings,
            Options(
                choices=Choices(envoy_version=(1, 36)),
                istio=IstioGateway(
                    namespace="gateways",
                    gateway="llm",
                    port=443,
                    unmetered_routes=("status",),
                    mesh_service=DEFAULT_SERVICE,
                    local_replies=True,
                ),
            ),
        ),
        "envoy-gateway/gateway.yaml": TARGETS["envoy-gateway"](settings, Options()),
        "envoy-gateway/mutual-tls.yaml": TARGETS["envoy-gateway"](
            served_with_tls,
            Options(
                envoy_gateway=EnvoyGateway(namespace="gateways", routes=("llm",)),
                gateway_tls=GatewayTls("sentinel.example.com", "sentinel-ca", "gateway-tls"),
            ),
        ),
        "helm/shared.yaml": TARGETS["helm-values"](settings, Options()),
        "helm/sidecar.yaml": TARGETS["helm-values"](settings, Options(with_envoy=True)),
        "compose/docker-compose.yml": TARGETS["compose"](only({}), Options()),
    }


def main(folder: Path) -> None:
    """Write every example into ``folder``."""
    for name, text in examples().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
