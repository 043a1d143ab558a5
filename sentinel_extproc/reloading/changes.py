"""Which settings differ, and which of them can be taken while it runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

LIVE = frozenset(
    {
        "identity.static_keys_file",
        "limits.policy_file",
        "limits.requests",
        "limits.period_seconds",
        "usage.prices_file",
        "tokens.aliases",
        "tokens.overrides",
    }
)
"""Settings that are taken by a reload, the content of the files that they name too. Every other
one holds from the next start on; key files of providers are watched by themselves."""


def changed(old: BaseModel, new: BaseModel) -> Iterator[str]:
    """The names of the settings whose values differ, ``section.name``; never a value."""
    for name in type(new).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        if isinstance(after, BaseModel) and type(before) is type(after):
            yield from (f"{name}.{inner}" for inner in changed(before, after))
        else:
            yield name
