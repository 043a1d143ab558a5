"""Function and custom tools, counted as the provider shows them to the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sentinel_extproc.tokens import typescript
from sentinel_extproc.tokens.model import Confidence
from sentinel_extproc.tokens.tally import Tally, as_object

_MAX_TOOLS: Final = 1024
"""Providers refuse more than 128; the rest of a hostile list is only counted as JSON."""


def count_functions(tally: Tally, tools: Sequence[dict[str, Any]]) -> None:
    """Count the namespace that declares ``tools``, without the header before it.

    Args:
        tally: what to add to.
        tools: each ``{name, description?, parameters?}``, or of ``type`` custom with ``format?``.
    """
    rules = tally.rules
    for tool in tools[_MAX_TOOLS:]:
        tally.unknown(tool)
    tools = tools[:_MAX_TOOLS]
    tally.text(typescript.namespace(tools, legacy=rules.legacy_tools))
    for tool in tools:
        if not tool.get("description"):
            tally.add(rules.undescribed_tool)
        if tool.get("type") == "custom":
            tally.lower(Confidence.CLOSE)
            if as_object(tool.get("format")).get("type") == "grammar":
                tally.add(rules.grammar)
