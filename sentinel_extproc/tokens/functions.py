"""Function and custom tools, counted as the provider shows them to the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentinel_extproc.tokens import typescript
from sentinel_extproc.tokens.model import Confidence
from sentinel_extproc.tokens.tally import Tally, as_object


def count_functions(tally: Tally, tools: Sequence[dict[str, Any]]) -> None:
    """Count the namespace that declares ``tools``, without the header before it.

    Args:
        tally: what to add to.
        tools: each ``{name, description?, parameters?}``, or of ``type`` custom with ``format?``.
    """
    rules = tally.rules
    tally.text(typescript.namespace(tools, legacy=rules.legacy_tools))
    for tool in tools:
        if not tool.get("description"):
            tally.add(rules.undescribed_tool)
        if tool.get("type") == "custom":
            tally.lower(Confidence.CLOSE)
            if as_object(tool.get("format")).get("type") == "grammar":
                tally.add(rules.grammar)
