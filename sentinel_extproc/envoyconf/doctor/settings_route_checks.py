"""Routes through the sidecar against its own settings, where these are at hand. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sentinel_extproc.envoyconf.doctor.attachment import Attachment, Expectations
from sentinel_extproc.envoyconf.doctor.gateway import Gateway, matches
from sentinel_extproc.envoyconf.doctor.meant import Meant, Provider
from sentinel_extproc.envoyconf.doctor.places import is_literal, is_loopback
from sentinel_extproc.envoyconf.doctor.reading import Tree, section, text
from sentinel_extproc.envoyconf.doctor.route_checks import buffered_bytes
from sentinel_extproc.envoyconf.doctor.rules import Finding, Rule, Severity

BODY = Rule(
    "settings-body-limit",
    Severity.WARNING,
    "Envoy buffers less than the sidecar would take",
    "Bodies between the two get Envoy's 413, or wait for a time-out if more than the buffer comes "
    "before the sidecar's first reply; it refuses at once only what is over its own bound. "
    "Compared with endpoints.max_body_bytes.",
    "request_body_buffer_limit: 16777216  # beside the route's match, or lower the setting",
)
PREFIX = Rule(
    "settings-prefix",
    Severity.ERROR,
    "No route through the sidecar takes what it serves",
    "It serves what is under endpoints.prefix: that gets Envoy's 404, and what comes to the "
    "sidecar gets the sidecar's.",
    "# a route whose match takes endpoints.prefix, or another endpoints.prefix",
)
OUTSIDE = Rule(
    "settings-outside-prefix",
    Severity.WARNING,
    "A route through the sidecar is for paths that it doesn't serve",
    "All of its requests get 404, because it is beside endpoints.prefix.",
    "# turn the filter off on this route, or change endpoints.prefix",
)
PROVIDER = Rule(
    "settings-provider",
    Severity.WARNING,
    "Requests go to another provider than the settings name",
    "They carry the key of the one that the settings name. Compared with provider.url and "
    "providers[].url.",
    "# lead the route to the provider of the settings, or mend the URL there",
)
NO_ROUTE = Rule(
    "settings-provider-unreached",
    Severity.WARNING,
    "A provider of the settings has no route",
    "All routes are named after the providers that they lead to, and none after this one: nothing "
    "ever goes there.",
    "# render, or name a route after it",
)
NO_PROVIDER = Rule(
    "settings-route-unknown",
    Severity.NOTE,
    "A route through the sidecar is named after no provider of the settings",
    "Which provider it is then goes by host and path alone: where these aren't in the settings, "
    "its requests get 404, and where Envoy sends them elsewhere, they carry the wrong key.",
    "# name it after a provider, or turn the filter off on it",
)

RULES = (BODY, PREFIX, OUTSIDE, PROVIDER, NO_ROUTE, NO_PROVIDER)


def check_routes(
    gateway: Gateway, attachment: Attachment, expected: Expectations, meant: Meant
) -> Iterator[Finding]:
    """Every route through us."""
    for manager, route in attachment.governed:
        # Below what clients send, it is told in any case.
        if expected.body_bytes <= (limit := buffered_bytes(manager, route)) < meant.body_bytes:
            yield BODY.at(route.where, f"{limit} bytes, the sidecar {meant.body_bytes}")
    if meant.several_providers:
        yield from _names(attachment, meant)
    else:
        yield from _paths(attachment, expected)
    by_name = {provider.name: provider for provider in meant.providers}
    for _, route in attachment.governed:
        own = by_name.get(text(route.config, "name"))
        wanted = (own,) if own is not None else meant.providers
        if strange := _strange(gateway, route.cluster, wanted):
            yield PROVIDER.at(route.where, f"{strange}; meant: {wanted[0].host}")


def _names(attachment: Attachment, meant: Meant) -> Iterator[Finding]:
    names = {provider.name for provider in meant.providers}
    used = set()
    for _, route in attachment.governed:
        used.add(name := text(route.config, "name"))
        if name not in names:
            yield NO_PROVIDER.at(route.where, name or "without a name")
    known = all(manager.routes_known for manager in attachment.managers)
    if attachment.governed and known and used <= names:
        for name in sorted(names - used):
            yield NO_ROUTE.at("the whole configuration", name)


def _paths(attachment: Attachment, expected: Expectations) -> Iterator[Finding]:
    governed = [(route, section(route.config, "match")) for _, route in attachment.governed]
    path = expected.metered_path
    if governed and all(matches(match, path) is False for _, match in governed):
        yield PREFIX.at("the whole configuration", f"endpoints.prefix is {expected.prefix}")
        return
    for route, match in governed:
        if _beside(match, expected.prefix):
            yield OUTSIDE.at(route.where, f"endpoints.prefix is {expected.prefix}")


def _beside(match: Tree, prefix: str) -> bool:
    """Whether nothing that it takes is under the prefix, for sure."""
    if "prefix" in match:
        given = text(match, "prefix")
        return not (given.startswith(prefix) or prefix.startswith(given))
    if given := text(match, "path_separated_prefix"):
        return not (f"{given}/".startswith(prefix) or prefix.startswith(f"{given}/"))
    return "path" in match and not text(match, "path").startswith(prefix)


def _strange(gateway: Gateway, cluster: str, wanted: tuple[Provider, ...]) -> str:
    """Where a cluster leads, if that is none of the providers for sure."""
    found = gateway.clusters.get(cluster, {})
    sni = text(section(found, "transport_socket.typed_config"), "sni").lower()
    addresses = sorted(gateway.addresses(cluster))
    hosts = [address.rpartition(":")[0].strip("[]").lower() for address in addresses]
    if sni in {provider.host for provider in wanted}:
        return ""
    for address, host in zip(addresses, hosts, strict=True):
        for provider in wanted:
            if host == provider.host:
                if not is_literal(host) or address.endswith(f":{provider.port}"):
                    return ""
            elif is_literal(host) and not is_loopback(host) and not is_literal(provider.host):
                return ""  # what a name was resolved to, by whoever made this configuration
    return addresses[0] if addresses else ""
