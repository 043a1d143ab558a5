"""Ways around the sidecar. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sentinel_extproc.envoyconf.doctor.attachment import Attachment, Expectations
from sentinel_extproc.envoyconf.doctor.gateway import Gateway, Route, matches
from sentinel_extproc.envoyconf.doctor.reading import entries, section, text, texts
from sentinel_extproc.envoyconf.doctor.rules import Finding, Rule, Severity

_FILTER = "# http_filters: the ext_proc filter of envoy/envoy.yaml, before the router"

MISSING = Rule(
    "filter-missing",
    Severity.ERROR,
    "The sidecar isn't attached",
    "No connection manager has its ext_proc filter: nothing is authenticated, limited or billed.",
    _FILTER,
)
UNCLEAR = Rule(
    "filter-unclear",
    Severity.ERROR,
    "It can't be told which ext_proc filter is the sidecar's",
    "None of them names sentinel; nothing further was checked.",
    "# sentinel-extproc doctor --processor NAME_OF_THE_CLUSTER",
)
MANAGER_BYPASS = Rule(
    "listener-bypass",
    Severity.ERROR,
    "A listener leads to the provider without the sidecar",
    "Whoever reaches it has the provider for nothing, if Envoy or the client has a key.",
    _FILTER,
)
ROUTE_BYPASS = Rule(
    "route-bypass",
    Severity.ERROR,
    "A route leads to the provider with the sidecar turned off",
    "What matches it is neither authenticated nor limited nor billed. No finding is a route beside "
    "/v1/ that takes the client's credentials away, as `unmetered` paths do.",
    "# remove the filter's entry from typed_per_filter_config, of the route or of its virtual host",
)
TCP_BYPASS = Rule(
    "tcp-bypass",
    Severity.ERROR,
    "A TCP proxy leads to the provider",
    "Bytes pass unseen; no HTTP filter runs.",
    "# remove the tcp_proxy, or put a connection manager with the sidecar's filter in its place",
)
CLUSTER_BY_HEADER = Rule(
    "cluster-by-header",
    Severity.WARNING,
    "A route without the sidecar lets a header choose the cluster",
    "If clients can set that header, they can choose the provider.",
    "# name the clusters, or let the sidecar's filter run on this route",
)

_CREDENTIALS = frozenset({"authorization", "api-key", "x-api-key"})

RULES = (MISSING, UNCLEAR, MANAGER_BYPASS, ROUTE_BYPASS, TCP_BYPASS, CLUSTER_BY_HEADER)


def check_bypasses(
    gateway: Gateway, attachment: Attachment, expected: Expectations
) -> Iterator[Finding]:
    """Whether everything that leads to a provider goes through us."""
    if attachment.rivals:
        names = ", ".join(sorted({rival.cluster or "?" for rival in attachment.rivals}))
        for rival in attachment.rivals:
            yield UNCLEAR.at(rival.where, f"clusters: {names}")
        return
    if not attachment.places:
        if gateway.managers:
            yield MISSING.at("the whole configuration")
        return
    attached = {id(manager) for manager in attachment.managers}
    for manager, route in attachment.ungoverned:
        if route.cluster in attachment.providers and not _is_unmetered(route, expected):
            rule = ROUTE_BYPASS if id(manager) in attached else MANAGER_BYPASS
            yield rule.at(route.where, f"to cluster {route.cluster}")
        elif not route.cluster and text(route.action, "cluster_header"):
            yield CLUSTER_BY_HEADER.at(route.where, text(route.action, "cluster_header"))
    for proxy in gateway.tcp:
        if proxy.cluster in attachment.providers:
            yield TCP_BYPASS.at(proxy.where, f"to cluster {proxy.cluster}")


def _is_unmetered(route: Route, expected: Expectations) -> bool:
    """Whether it is beside what is metered, and carries nobody's credentials."""
    levels = (route.config, route.virtual_host)
    removed = {n.lower() for level in levels for n in texts(level, "request_headers_to_remove")}
    added = {
        text(option, "header.key").lower()
        for level in levels
        for option in entries(level, "request_headers_to_add")
    }
    if not removed >= _CREDENTIALS or added & _CREDENTIALS:
        return False
    match = section(route.config, "match")
    form = next((f for f in ("prefix", "path_separated_prefix", "path") if text(match, f)), "")
    below = f"{text(match, form).rstrip('/')}/".lower() if form else ""
    if below.startswith(expected.prefix.lower()):
        return False
    return matches(match, expected.metered_path) is False
