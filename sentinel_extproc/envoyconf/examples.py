"""The rendered examples that are kept in a checkout's ``envoy/``.

``python -m sentinel_extproc.envoyconf.examples envoy`` writes them again; a test keeps them equal.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sentinel_extproc.envoyconf.notes import ENVOY_NOTES
from sentinel_extproc.envoyconf.render import to_yaml
from sentinel_extproc.envoyconf.static import static_bootstrap

SIDECAR_SOCKET = "unix:/run/sentinel/sentinel.sock"
SIDECAR_PORT = "127.0.0.1:50051"

_RENDERED = "Rendered by `python -m sentinel_extproc.envoyconf.examples envoy`; edit that instead."
_ADMIN = "127.0.0.1:9901"


def examples() -> dict[str, str]:
    """YAML by file name."""
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
                "loopback. docs/attach.md walks through it.\n"
                f"{_RENDERED}"
            ),
            notes=ENVOY_NOTES,
        ),
    }


def main(folder: Path) -> None:
    """Write every example into ``folder``."""
    for name, text in examples().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
