"""All checks, in order. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sentinel_extproc.envoyconf.doctor import (
    bypass_checks,
    cluster_checks,
    filter_checks,
    jwt_checks,
    manager_checks,
    order_checks,
    process_checks,
    route_checks,
    settings_checks,
    settings_route_checks,
    stats_checks,
)
from sentinel_extproc.envoyconf.doctor.attachment import Attachment, Expectations, attach
from sentinel_extproc.envoyconf.doctor.gateway import Gateway, read_gateway
from sentinel_extproc.envoyconf.doctor.rules import Finding, Ignored, Rule, unique
from sentinel_extproc.envoyconf.doctor.snapshot import Snapshot

SECTIONS: tuple[tuple[str, tuple[Rule, ...]], ...] = (
    ("Ways around the sidecar", bypass_checks.RULES),
    ("The filter", filter_checks.RULES),
    ("Order of filters", (*order_checks.RULES, *jwt_checks.RULES)),
    ("Listeners", manager_checks.RULES),
    ("Routes", route_checks.RULES),
    ("Clusters", cluster_checks.RULES),
    (
        "Against the sidecar's settings",
        (*settings_checks.RULES, *settings_route_checks.RULES),
    ),
    ("The whole Envoy", process_checks.RULES),
    ("What a running Envoy has counted", stats_checks.RULES),
)
"""Every rule, by part, for the manual."""

RULES: dict[str, Rule] = {rule.id: rule for _, rules in SECTIONS for rule in rules}


def diagnose(
    snapshot: Snapshot, expected: Expectations, ignored: Iterable[Ignored] = ()
) -> list[Finding]:
    """Everything that is wrong, worst first.

    Raises:
        Unreadable: more routes than there can be.
    """
    gateway = read_gateway(snapshot.config, complete=snapshot.complete)
    attachment = attach(gateway, expected)
    known = list(ignored)
    return [
        finding
        for finding in unique(_all(snapshot, gateway, attachment, expected))
        if not any(entry.covers(finding) for entry in known)
    ]


def _all(
    snapshot: Snapshot, gateway: Gateway, attachment: Attachment, expected: Expectations
) -> Iterator[Finding]:
    yield from bypass_checks.check_bypasses(gateway, attachment, expected)
    yield from filter_checks.check_filters(attachment, expected, snapshot.version)
    yield from jwt_checks.check_jwt(attachment, expected)
    yield from order_checks.check_order(attachment)
    yield from manager_checks.check_managers(attachment)
    yield from route_checks.check_routes(gateway, attachment, expected)
    yield from cluster_checks.check_clusters(gateway, attachment, expected)
    if expected.meant is not None:
        yield from settings_checks.check_settings(gateway, attachment, expected.meant)
        yield from settings_route_checks.check_routes(gateway, attachment, expected, expected.meant)
    yield from process_checks.check_process(gateway, attachment)
    yield from process_checks.check_server(snapshot.version, snapshot.state)
    yield from stats_checks.check_stats(gateway, attachment, snapshot.stats, snapshot.observed_as)
