"""The policy that the settings mean."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from sentinel_extproc.config.sections.limits import LimitSettings
from sentinel_extproc.endpoints.table import ENDPOINTS
from sentinel_extproc.limits.policy import Policy, default_policy
from sentinel_extproc.limits.policy_file import PolicyFileError, load_policy


def configured_policy(limits: LimitSettings) -> Policy:
    """The policy file's, or else one limit of requests for everybody.

    Raises:
        PolicyFileError: the file can't be used.
    """
    if limits.policy_file is not None:
        return load_policy(limits.policy_file)
    return default_policy(requests=limits.requests, period_s=limits.period_seconds)


def unknown_endpoints(policy: Policy) -> list[str]:
    """Faults of rules that name an endpoint that isn't: they would never apply, without a word."""
    return [
        f"rules.{number}.match.endpoint: {glob!r} is no endpoint: "
        + ", ".join(sorted({endpoint.name for endpoint in ENDPOINTS}))
        for number, rule in enumerate(policy.rules)
        for glob in rule.match.endpoint
        if not any(fnmatchcase(endpoint.name, glob) for endpoint in ENDPOINTS)
    ]


def policy_faults(file: Path | None) -> list[str]:
    """What is wrong with a policy file, one line each; nothing where there is none."""
    if file is None:
        return []
    try:
        found = unknown_endpoints(load_policy(file))
    except PolicyFileError as error:
        found = list(error.faults)
    return [f"{file}: {fault}" for fault in found]
