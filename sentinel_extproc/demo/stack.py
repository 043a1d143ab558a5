"""The whole gateway on one machine: Redis, provider and Zion, the sidecar, Envoy; in that order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sentinel_extproc.demo.envoy import RunningEnvoy, start_envoy
from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.openai_standin import OpenAIStandIn
from sentinel_extproc.demo.process import ManagedProcess, StartError
from sentinel_extproc.demo.redis import RunningRedis, start_redis
from sentinel_extproc.demo.sidecar import RunningSidecar, sidecar_environment, start_sidecar
from sentinel_extproc.demo.zion_standin import DEMO_USERS, Dialect, ZionStandIn
from sentinel_extproc.demo.zion_state import ZionUser
from sentinel_extproc.envoyconf.attachment import Attachment
from sentinel_extproc.envoyconf.from_settings import provider_of
from sentinel_extproc.envoyconf.native import with_native_metering
from sentinel_extproc.envoyconf.provider_way import ProviderWay
from sentinel_extproc.envoyconf.render import to_dict
from sentinel_extproc.envoyconf.static import gateway_bootstrap
from sentinel_extproc.envoyconf.versions import NEWEST

PROVIDER_KEY = "sk-standin-provider"
ZION_KEY = "standin-zion-key"
NATIVE = {"SENTINEL_SERVER__METERING": "native"}


@dataclass(frozen=True, slots=True)
class Services:
    """Where the provider and Zion are, and our credentials there."""

    openai_url: str
    openai_key: str
    zion_url: str
    zion_key: str


class Progress(Protocol):
    """Is told what happens while a stack comes up."""

    def starting(self, part: str) -> None:
        """``part`` is being started."""
        ...

    def started(self, part: str, detail: str) -> None:
        """``part`` is up; ``detail`` says where."""
        ...


class _Silent:
    def starting(self, part: str) -> None:
        pass

    def started(self, part: str, detail: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Stack:
    """Everything that is running; the stand-ins are None when the real services are used."""

    services: Services
    redis: RunningRedis
    sidecar: RunningSidecar
    envoy: RunningEnvoy
    openai: OpenAIStandIn | None
    zion: ZionStandIn | None

    @property
    def url(self) -> str:
        """The gateway's address, without a path."""
        return self.envoy.url

    @property
    def processes(self) -> tuple[ManagedProcess, ...]:
        """The child processes."""
        return (self.redis.process, self.sidecar.process, self.envoy.process)


@contextmanager
def start_stack(
    *,
    work_dir: Path,
    services: Services | None = None,
    settings: Mapping[str, str] | None = None,
    users: Iterable[ZionUser] = DEMO_USERS,
    zion_dialect: Dialect = "unified",
    zion_deduplicates: bool = True,
    redis_durable: bool = False,
    redis_environment: Mapping[str, str] | None = None,
    chunk_delay_s: float = 0.0,
    listener_port: int = 0,
    concurrency: int = 1,
    native_metering: bool = False,
    progress: Progress | None = None,
    providers: Sequence[ProviderWay] = (),
    attachment: Mapping[str, Any] | None = None,
    amend: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Iterator[Stack]:
    """Start everything; on leaving, stop it in reverse order, whatever happened.

    Args:
        work_dir: for sockets, logs and the outbox; its path must be short.
        services: the real provider and Zion; stand-ins are started when omitted.
        settings: further settings of the sidecar, by environment name.
        users: whom the stand-in Zion knows.
        redis_durable: Redis keeps what it knows over a restart.
        redis_environment: more of it than ours.
        chunk_delay_s: the stand-in provider's delay before each chunk of a stream.
        listener_port: of the gateway, on loopback; 0 lets the kernel choose.
        concurrency: Envoy's worker threads.
        native_metering: Envoy reads the usage of streams itself.
        providers: several, in place of the one; the settings must say the same.
        attachment: other values of the ``Attachment``.
        amend: changes Envoy's configuration, as JSON values.

    Raises:
        StartError: a part didn't come up; those before it have been stopped again.
    """
    progress = progress or _Silent()
    openai: OpenAIStandIn | None = None
    zion: ZionStandIn | None = None
    with ExitStack() as parts:
        progress.starting("redis-server")
        redis = parts.enter_context(
            start_redis(work_dir=work_dir, durable=redis_durable, environment=redis_environment)
        )
        progress.started("redis-server", redis.url)
        if services is None:
            progress.starting("stand-ins")
            zion = ZionStandIn(
                api_key=ZION_KEY,
                users=users,
                dialect=zion_dialect,
                deduplicate=zion_deduplicates,
            )
            openai = OpenAIStandIn(provider_key=PROVIDER_KEY, chunk_delay_s=chunk_delay_s)
            zion_app = parts.enter_context(serve_app(zion.app, name="stand-in Zion"))
            openai_app = parts.enter_context(serve_app(openai.app, name="stand-in OpenAI"))
            services = Services(openai_app.url, PROVIDER_KEY, zion_app.url, ZION_KEY)
            progress.started("stand-in Zion", zion_app.url)
            progress.started("stand-in OpenAI", openai_app.url)
        progress.starting("sidecar")
        sidecar = parts.enter_context(
            start_sidecar(
                work_dir=work_dir,
                environment=_environment(
                    work_dir=work_dir,
                    redis_url=redis.url,
                    services=services,
                    settings=(NATIVE if native_metering else {}) | dict(settings or {}),
                    stand_ins=openai is not None,
                ),
            )
        )
        progress.started("sidecar", sidecar.address)
        progress.starting("Envoy")
        host, port, tls = provider_address(services.openai_url)
        attached: dict[str, Any] = {
            "processors": sidecar.addresses,
            "provider_host": host,
            "provider_port": port,
            "provider_tls": tls,
            "providers": tuple(providers),
        }
        config = to_dict(
            gateway_bootstrap(
                Attachment(**attached | dict(attachment or {})),
                listener_address="127.0.0.1",
                listener_port=listener_port,
            )
        )
        if native_metering:
            config = with_native_metering(config, envoy_version=NEWEST)
        if amend is not None:
            config = amend(config)
        envoy = parts.enter_context(start_envoy(config, work_dir=work_dir, concurrency=concurrency))
        progress.started("Envoy", envoy.url)
        yield Stack(services, redis, sidecar, envoy, openai, zion)


def provider_address(url: str) -> tuple[str, int, bool]:
    """Host, port, and whether to use TLS, of a provider's base URL.

    Raises:
        StartError: not an http(s) URL, or with a path that the gateway can't put in front.
    """
    try:
        return provider_of(url)
    except ValueError as fault:
        raise StartError(str(fault).replace("provider.url", "OPENAI_API_URL")) from fault


def _environment(
    *,
    work_dir: Path,
    redis_url: str,
    services: Services,
    settings: Mapping[str, str],
    stand_ins: bool,
) -> dict[str, str]:
    ours = {
        "ZION_API_URL": services.zion_url,
        "ZION_API_KEY": services.zion_key,
        "OPENAI_API_URL": services.openai_url,
        "OPENAI_API_KEY": services.openai_key,
        "REDIS_URL": redis_url,
        "SENTINEL_USAGE__OUTBOX_PATH": str(work_dir / "outbox.db"),
        # Several of these may run on one machine.
        "SENTINEL_ADMIN__LISTEN": f"unix:{work_dir / 'admin.sock'}",
        "SENTINEL_USAGE__REPORT_INTERVAL_SECONDS": "1",
        # Envoy is stopped first, so there is nothing left to drain but what has gone wrong.
        "SENTINEL_SERVER__DRAIN_SECONDS": "5",
        # Everything shares one machine here, which may be a slow one.
        "SENTINEL_REDIS__TIMEOUT_SECONDS": "0.5",
    }
    if stand_ins:
        # A proxy that happens to be set must not get what is meant for loopback.
        ours |= {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    return sidecar_environment(ours | dict(settings), keep=not stand_ins)
