"""How many requests a sidecar takes on at once. Pure."""

from __future__ import annotations

from sentinel_extproc.config.sections.serving import OverloadSettings


def most_at_once(overload: OverloadSettings, *, max_streams: int) -> int:
    """Of each process: what ``overload.max_exchanges`` says, else half of its streams."""
    if overload.max_exchanges is not None:
        return overload.max_exchanges
    return max(1, max_streams // 2)
