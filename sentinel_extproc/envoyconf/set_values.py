"""The settings that were set, as plain values and without secrets, for what deploys them."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from sentinel_extproc.config.load import UNSET_URL
from sentinel_extproc.config.settings import Settings


def set_values(settings: Settings) -> dict[str, dict[str, Any]]:
    """By section and name, JSON values; defaults, secrets and URLs with a password left out."""
    # The list of providers is no section, and who deploys from here refuses one that isn't empty.
    given = settings.model_dump(exclude_unset=True, exclude={"providers"})
    plain = settings.model_dump(mode="json", exclude_unset=True, exclude={"providers"})
    values: dict[str, dict[str, Any]] = {}
    for section, fields in plain.items():
        kept = {
            name: value
            for name, value in fields.items()
            if not isinstance(given[section][name], SecretStr)
            and not (isinstance(value, str) and (":**********@" in value or value == UNSET_URL))
        }
        if kept:
            values[section] = kept
    return values


def grace_seconds(settings: Settings) -> int:
    """How long the sidecar may take from SIGTERM to its end, in whole seconds."""
    server = settings.server
    longest = server.drain_seconds + server.hand_back_seconds + settings.usage.shutdown_seconds
    return int(longest) + 20  # for settling and closing
