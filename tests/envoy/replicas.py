"""Two sidecars, each behind an Envoy of its own, against one Redis, one Zion and one provider."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sentinel_extproc.demo.envoy import start_envoy
from sentinel_extproc.demo.sidecar import sidecar_environment, start_sidecar
from sentinel_extproc.demo.stack import Stack, provider_address, start_stack
from sentinel_extproc.envoyconf.static import static_bootstrap


@dataclass(frozen=True)
class Replica:
    url: str
    admin: str


@contextmanager
def two_replicas(
    settings: Mapping[str, str], *, chunk_delay_s: float = 0.0
) -> Iterator[tuple[Stack, Replica, Replica]]:
    """The stack, with the first of them in it, and both."""
    with (
        tempfile.TemporaryDirectory(prefix="sx-a-") as first,
        tempfile.TemporaryDirectory(prefix="sx-b-") as second,
        start_stack(
            work_dir=Path(first),
            settings=dict(settings) | {"SENTINEL_ADMIN__LISTEN": f"unix:{first}/admin.sock"},
            chunk_delay_s=chunk_delay_s,
        ) as stack,
    ):
        environment = {
            "ZION_API_URL": stack.services.zion_url,
            "ZION_API_KEY": stack.services.zion_key,
            "OPENAI_API_URL": stack.services.openai_url,
            "OPENAI_API_KEY": stack.services.openai_key,
            "REDIS_URL": stack.redis.url,
            "SENTINEL_REDIS__TIMEOUT_SECONDS": "0.5",
            "SENTINEL_SERVER__DRAIN_SECONDS": "5",
            "SENTINEL_USAGE__OUTBOX_PATH": f"{second}/outbox.db",
            "SENTINEL_ADMIN__LISTEN": f"unix:{second}/admin.sock",
            **settings,
        }
        host, port, tls = provider_address(stack.services.openai_url)
        with (
            start_sidecar(
                work_dir=Path(second), environment=sidecar_environment(environment)
            ) as sidecar,
            start_envoy(
                static_bootstrap(
                    processors=[sidecar.address],
                    provider_host=host,
                    provider_port=port,
                    provider_tls=tls,
                    listener_address="127.0.0.1",
                    listener_port=0,
                ),
                work_dir=Path(second),
                concurrency=1,
            ) as envoy,
        ):
            yield (
                stack,
                Replica(stack.url, f"unix:{first}/admin.sock"),
                Replica(envoy.url, f"unix:{second}/admin.sock"),
            )
