"""Envoy's own check of JWTs in front of us. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sentinel_extproc.envoyconf.doctor.attachment import Attachment, Expectations
from sentinel_extproc.envoyconf.doctor.gateway import matches
from sentinel_extproc.envoyconf.doctor.reading import Tree, entries, flag, section, texts
from sentinel_extproc.envoyconf.doctor.rules import Finding, Rule, Severity
from sentinel_extproc.envoyconf.names import JWT_NAMESPACE

JWT_METADATA = Rule(
    "jwt-metadata",
    Severity.ERROR,
    "jwt_authn takes the token away and the sidecar isn't told what it found",
    "The sidecar sees neither a token nor verified claims, and answers 401.",
    "# with identity.source: envoy_jwt\n"
    "metadata_options:\n"
    "  forwarding_namespaces:\n"
    "    untyped: [envoy.filters.http.jwt_authn]\n"
    "# otherwise, in every provider of jwt_authn\n"
    "forward: true",
)
RULES = (JWT_METADATA,)


def check_jwt(attachment: Attachment, expected: Expectations) -> Iterator[Finding]:
    """Whether what jwt_authn finds, or the token itself, gets to us."""
    told = {
        space
        for attached in attachment.filters
        for space in texts(attached.config, "metadata_options.forwarding_namespaces.untyped")
    }
    # With settings that want what jwt_authn found, that alone is told: ``settings_checks``.
    if JWT_NAMESPACE in told or (expected.meant is not None and expected.meant.jwt):
        return
    for manager, ours in attachment.places:
        for entry in manager.filters[: max(ours)]:
            if entry.kind == "jwt_authn" and (taken := _taken(entry.config, expected.metered_path)):
                yield JWT_METADATA.at(manager.where, f"without forward: {', '.join(taken)}")


def _taken(config: Tree, path: str) -> list[str]:
    """The providers that take a metered request's token away."""
    # The first rule that matches is the one that counts.
    rule = next(
        (r for r in entries(config, "rules") if matches(section(r, "match"), path) is not False), {}
    )
    if not section(rule, "requires"):
        return []
    providers = section(config, "providers")
    return [name for name, provider in providers.items() if not flag(provider, "forward")]
