"""The gateways that are compared: none, empty, ours, ours with a stage taken off or changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.traffic import Call
from sentinel_extproc.demo.envoy import RunningEnvoy, start_envoy
from sentinel_extproc.demo.hosting import serve_app
from sentinel_extproc.demo.process import ManagedProcess
from sentinel_extproc.demo.stack import PROVIDER_KEY, ZION_KEY, Services, start_stack
from sentinel_extproc.demo.zion_standin import ZionStandIn
from sentinel_extproc.demo.zion_state import ZionUser
from sentinel_extproc.envoyconf.api import hcm, protobuf
from sentinel_extproc.envoyconf.names import FILTER_NAME
from sentinel_extproc.envoyconf.static import static_bootstrap

USERS = 50
PLAIN = "no processor"
FLOOR = "empty, grpc.aio"
EMPTY = {FLOOR: "grpcio", "empty, own HTTP/2": "native"}
OURS = "ours"
NATIVE = "ours, native metering"
WORKERS = "ours, 2 workers"
POLICY = """
rules:
  - limits:
      - {name: requests, unit: requests, kind: bucket, limit: 1000000000, per: 1m}
      - {name: tokens, unit: total_tokens, kind: ring, limit: 1000000000, per: 1m}
      - {name: month, unit: total_tokens, kind: calendar, limit: 100000000000, per: month}
"""
STAGES: Mapping[str, Mapping[str, str]] = {
    "one limit, not three": {
        "SENTINEL_LIMITS__POLICY_FILE": "",
        "SENTINEL_LIMITS__REQUESTS": "1000000000",
    },
    "no log line per request": {"SENTINEL_LOGS__LEVEL": "error"},
    "usage not through Redis": {"SENTINEL_USAGE__HOP": "direct"},
    "shadow mode": {"SENTINEL_SERVER__MODE": "shadow"},
    "on grpc.aio": {"SENTINEL_SERVER__TRANSPORT": "grpcio"},
}
"""What is taken off, or changed, in a gateway that is ours otherwise."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A gateway that takes part.

    Attributes:
        pids: its processes by what they are: ``processor`` (with its children), ``envoy``,
            ``redis``; a peer is only a processor.
        models: names that requests must use, by what `Call.told` says; the usual one otherwise.
        headers: that requests must have.
        streams_only: there is nothing to see in JSON calls.
    """

    name: str
    port: int
    pids: Mapping[str, int]
    models: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    streams_only: bool = False

    def requests(self, call: Call, count: int) -> list[bytes]:
        """As many requests of users that differ."""
        model = self.models.get(call.told)
        return [
            call.request(f"bench-{n % USERS}", model=model, headers=self.headers)
            for n in range(count)
        ]


@contextmanager
def core(work_dir: Path, provider_port: int) -> Iterator[list[Variant]]:
    """No processor, the empty ones, ours; with native metering, and with two workers."""
    with ExitStack() as parts:
        folder = work_dir / "plain"
        folder.mkdir()
        plain = parts.enter_context(_envoy(folder, provider_port, None))
        found = [Variant(PLAIN, plain.port, {"envoy": plain.process.pid})]
        for name, kind in EMPTY.items():
            folder = work_dir / kind
            folder.mkdir()
            address = f"unix:{folder / 's'}"
            process = ManagedProcess(
                [sys.executable, "-m", "bench.processor", kind, address],
                name=kind,
                log_path=folder / "log",
            )
            process.start()
            parts.callback(process.kill)
            process.wait_until((folder / "s").exists, what="it listened", timeout_s=20)
            envoy = parts.enter_context(_envoy(folder, provider_port, address))
            pids = {"processor": process.pid, "envoy": envoy.process.pid}
            found.append(Variant(name, envoy.port, pids))
        services = parts.enter_context(dependencies(provider_port))
        found.append(parts.enter_context(ours(OURS, work_dir / "ours", services, {})))
        found.append(parts.enter_context(ours(NATIVE, work_dir / "native-m", services, {})))
        workers = {"SENTINEL_SERVER__WORKERS": "2"}
        found.append(parts.enter_context(ours(WORKERS, work_dir / "w", services, workers)))
        yield found


@contextmanager
def stages(work_dir: Path, provider_port: int) -> Iterator[list[Variant]]:
    """Ours, and ours with each of `STAGES`."""
    with ExitStack() as parts:
        services = parts.enter_context(dependencies(provider_port))
        found = [parts.enter_context(ours(OURS, work_dir / "s", services, {}))]
        for n, (name, settings) in enumerate(STAGES.items()):
            folder = work_dir / f"s{n}"
            found.append(parts.enter_context(ours(f"- {name}", folder, services, settings)))
        yield found


@contextmanager
def ours(
    name: str, folder: Path, services: Services, settings: Mapping[str, str]
) -> Iterator[Variant]:
    """The sidecar with everything on: three limits, a real Redis, a durable record, a log line."""
    folder.mkdir()
    policy = folder / "policy.yaml"
    policy.write_text(POLICY, encoding="utf-8")
    given = {
        "SENTINEL_LIMITS__POLICY_FILE": str(policy),
        "SENTINEL_LIMITS__ZION_QUOTAS": "false",
        "SENTINEL_SHADOW__REPORT_PATH": str(folder / "shadow.db"),
    } | dict(settings)
    with start_stack(
        work_dir=folder,
        services=services,
        settings={key: value for key, value in given.items() if value},
        native_metering=name == NATIVE,
    ) as stack:
        pids = {
            "processor": stack.sidecar.process.pid,
            "envoy": stack.envoy.process.pid,
            "redis": stack.redis.process.pid,
        }
        yield Variant(name, stack.envoy.port, pids, streams_only=name == NATIVE)


@contextmanager
def dependencies(provider_port: int) -> Iterator[Services]:
    """The provider and a stand-in Zion that knows the bench's users."""
    users = [
        ZionUser(f"bench-{n}", f"u{n}", f"ext-{n}", f"u{n}@example.com", "B") for n in range(USERS)
    ]
    zion = ZionStandIn(api_key=ZION_KEY, users=users)
    with serve_app(zion.app, name="zion") as served:
        yield Services(f"http://127.0.0.1:{provider_port}", PROVIDER_KEY, served.url, ZION_KEY)


@contextmanager
def _envoy(folder: Path, provider_port: int, processor: str | None) -> Iterator[RunningEnvoy]:
    bootstrap = static_bootstrap(
        processors=[processor or f"unix:{folder / 'none'}"],
        provider_host="127.0.0.1",
        provider_port=provider_port,
        provider_tls=False,
        listener_address="127.0.0.1",
        listener_port=0,
        health_check_interval_s=5 if processor else 0,
    )
    if processor is None:
        resources = bootstrap.static_resources
        assert resources is not None  # noqa: S101 - as rendered
        network_filter = resources.listeners[0].filter_chains[0].filters[0]
        assert network_filter.typed_config is not None  # noqa: S101
        manager = network_filter.typed_config.unpack()
        assert isinstance(manager, hcm.HttpConnectionManager)  # noqa: S101
        manager.http_filters = [f for f in manager.http_filters if f.name != FILTER_NAME]
        network_filter.typed_config = protobuf.Any.pack(manager)
    with start_envoy(bootstrap, work_dir=folder) as envoy:
        yield envoy
