"""Where the sidecar is attached in a gateway, and what it is in front of. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sentinel_extproc.envoyconf.doctor.gateway import Gateway, HttpFilter, Manager, Route
from sentinel_extproc.envoyconf.doctor.meant import Meant
from sentinel_extproc.envoyconf.doctor.reading import Tree, found, section, text, texts
from sentinel_extproc.envoyconf.names import METADATA_NAMESPACE

PROVIDER_HOSTS = (
    "api.openai.com",
    ".openai.azure.com",
    ".cognitiveservices.azure.com",
    "api.anthropic.com",
    "api.mistral.ai",
    "api.groq.com",
    "api.together.xyz",
    "api.deepseek.com",
    "api.x.ai",
    "api.cohere.com",
    "generativelanguage.googleapis.com",
    "openrouter.ai",
)
"""Paid APIs that are known by name; with a dot in front, everything below it."""

DEFAULT_PREFIX = "/v1/"

_OVERRIDABLE = ("processing_mode", "grpc_service", "failure_mode_allow")


@dataclass(frozen=True, slots=True)
class Expectations:
    """What the sidecar needs, as far as it depends on its settings.

    Attributes:
        processor: name of its cluster; empty to find it.
        providers: clusters that are paid APIs, beside those that are found.
        body_bytes: largest request body that clients will send.
        message_bytes: ``server.max_message_bytes``.
        decision_s: ``server.decision_timeout_seconds``.
        longest_answer_s: a generation may take this long.
        longest_silence_s: and be silent this long.
        meant: what its settings say; None when they aren't at hand.
    """

    processor: str = ""
    providers: frozenset[str] = frozenset()
    body_bytes: int = 4 << 20
    message_bytes: int = 64 << 20
    decision_s: float = 1.8
    longest_answer_s: float = 300.0
    longest_silence_s: float = 300.0
    meant: Meant | None = None

    @property
    def observes(self) -> bool:
        """Whether the sidecar is meant to see copies only."""
        return self.meant is not None and self.meant.shadow

    @property
    def prefix(self) -> str:
        """What is metered."""
        return DEFAULT_PREFIX if self.meant is None else self.meant.prefix

    @property
    def metered_path(self) -> str:
        """A path that must not get around us."""
        return f"{self.prefix}chat/completions"


def expected_by(meant: Meant, expected: Expectations) -> Expectations:
    """The same, with what the settings say in place of what most have."""
    return replace(
        expected,
        # Longer ones can't come in any case.
        body_bytes=min(expected.body_bytes, meant.body_bytes),
        message_bytes=meant.message_bytes,
        decision_s=meant.decision_s,
        meant=meant,
    )


@dataclass(frozen=True, slots=True)
class Attached:
    """Our filter, as it is for some routes.

    Attributes:
        config: with the routes' overrides in it.
    """

    where: str
    config: Tree

    @property
    def cluster(self) -> str:
        """The cluster that it calls."""
        return processor_of(self.config)


@dataclass(frozen=True, slots=True)
class Attachment:
    """Everything about us in a gateway.

    Attributes:
        places: managers that have our filter, and where in their lists it stands.
        filters: every form that it takes, each once.
        governed: routes that go through us.
        ungoverned: the others of all managers.
        providers: clusters that must not be reached but through us.
    """

    places: tuple[tuple[Manager, tuple[int, ...]], ...]
    filters: tuple[Attached, ...]
    governed: tuple[tuple[Manager, Route], ...]
    ungoverned: tuple[tuple[Manager, Route], ...]
    providers: frozenset[str]
    rivals: tuple[Attached, ...] = field(default=())

    @property
    def managers(self) -> tuple[Manager, ...]:
        """Those that have our filter."""
        return tuple(manager for manager, _ in self.places)

    @property
    def processors(self) -> frozenset[str]:
        """The clusters of sidecars."""
        return frozenset(attached.cluster for attached in self.filters if attached.cluster)


def processor_of(config: Tree) -> str:
    """The cluster that an ext_proc filter's configuration names."""
    return text(config, "grpc_service.envoy_grpc.cluster_name")


def attach(gateway: Gateway, expected: Expectations) -> Attachment:
    """Find our filter, the routes that go through it, and the providers behind them."""
    ours = _Recogniser(gateway, expected)
    places = [
        (manager, tuple(i for i, entry in enumerate(manager.filters) if ours(entry)))
        for manager in gateway.managers
    ]
    governed: list[tuple[Manager, Route]] = []
    ungoverned: list[tuple[Manager, Route]] = []
    forms: dict[object, Attached] = {}
    for manager, indices in places:
        own = [manager.filters[i] for i in indices]
        unchanged = {id(entry.config) for entry in own}
        for route in manager.routes:
            if (here := _on_route(manager, route, own)) is None:
                ungoverned.append((manager, route))
            else:
                governed.append((manager, route))
                same = id(here.config) in unchanged
                forms.setdefault(id(here.config) if same else repr(here.config), here)
        if not manager.routes_known:
            for entry in own:
                forms.setdefault(id(entry.config), _plain(manager, entry))
    filters = forms.values() or [
        _plain(manager, manager.filters[i]) for manager, indices in places for i in indices
    ]
    return Attachment(
        places=tuple(place for place in places if place[1]),
        filters=tuple(filters),
        governed=tuple(governed),
        ungoverned=tuple(ungoverned),
        providers=_providers(gateway, expected, (route for _, route in governed)),
        rivals=ours.rivals,
    )


class _Recogniser:
    """Tells our ext_proc filter from others.

    By the cluster that was named, else by our namespace, prefix or name. One that is alone in the
    whole gateway is ours whatever it says: who runs this expects it to be.
    """

    def __init__(self, gateway: Gateway, expected: Expectations) -> None:
        self._cluster = expected.processor
        candidates = {
            processor_of(entry.config): (manager, entry)
            for manager in gateway.managers
            for entry in manager.filters
            if entry.kind == "ext_proc"
        }
        self._only = len(candidates) == 1 and not self._cluster
        marked = any(self._is_marked(entry) for _, entry in candidates.values())
        self.rivals = (
            ()
            if self._only or marked or self._cluster
            else tuple(_plain(manager, entry) for manager, entry in candidates.values())
        )

    def __call__(self, entry: HttpFilter) -> bool:
        if entry.kind != "ext_proc":
            return False
        if self._cluster:
            return processor_of(entry.config) == self._cluster
        return self._only or self._is_marked(entry)

    def _is_marked(self, entry: HttpFilter) -> bool:
        spaces = texts(entry.config, "metadata_options.receiving_namespaces.untyped")
        names = (processor_of(entry.config), text(entry.config, "stat_prefix"), entry.name)
        return METADATA_NAMESPACE in spaces or any(METADATA_NAMESPACE in n for n in names)


def _plain(manager: Manager, entry: HttpFilter) -> Attached:
    return Attached(where=f"{manager.where} / filter {entry.name}", config=entry.config)


def _on_route(manager: Manager, route: Route, own: Iterable[HttpFilter]) -> Attached | None:
    for entry in own:
        overrides = [level[entry.name] for level in route.per_filter if entry.name in level]
        if not overrides:
            if not entry.disabled:
                return _plain(manager, entry)
            continue
        disabled, config = _resolve(entry, overrides)
        if disabled:
            continue
        if config == entry.config:
            return _plain(manager, entry)
        return Attached(where=route.where, config=config)
    return None


def _resolve(entry: HttpFilter, overrides: list[object]) -> tuple[bool, Tree]:
    """Whether the filter is off, and its configuration, after all levels had their say."""
    disabled, config = entry.disabled, entry.config
    for level in overrides:
        override = section({"of": level}, "of")
        if "FilterConfig" in text(override, "@type"):
            disabled = override.get("disabled") is True
            override = section(override, "config")
        else:
            disabled = False
        disabled = disabled or override.get("disabled") is True
        config = _merged(config, section(override, "overrides"))
    return disabled, config


def _merged(config: Tree, overrides: Tree) -> Tree:
    changed = {name: overrides[name] for name in _OVERRIDABLE if name in overrides}
    if spaces := section(overrides, "metadata_options"):
        changed["metadata_options"] = {**section(config, "metadata_options"), **spaces}
    return {**config, **changed} if changed else config


def _providers(
    gateway: Gateway, expected: Expectations, governed: Iterable[Route]
) -> frozenset[str]:
    """Clusters that we govern, that are paid APIs by name, or that lead to the same endpoints."""
    names = {route.cluster for route in governed if route.cluster} | expected.providers
    names |= {name for name, cluster in gateway.clusters.items() if is_paid(gateway, name, cluster)}
    places = {address for name in names for address in gateway.addresses(name)}
    same = {name for name in gateway.clusters if places & gateway.addresses(name)}
    return frozenset(names | same)


def is_paid(gateway: Gateway, name: str, cluster: Tree) -> bool:
    """Whether a cluster is known to be a paid API, by its endpoints' names or its SNI."""
    hosts = {address.rpartition(":")[0] for address in gateway.addresses(name)}
    hosts.add(text(found(cluster, "transport_socket.typed_config"), "sni"))
    return any(
        host == known or (known.startswith(".") and host.endswith(known))
        for host in hosts
        for known in PROVIDER_HOSTS
    )
