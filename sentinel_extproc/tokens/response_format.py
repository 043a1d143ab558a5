"""A JSON schema for the answer, as the provider shows it to the model."""

from __future__ import annotations

from typing import Any, Final

from sentinel_extproc.tokens.tally import Tally, as_object, compact

_UNSEEN: Final = frozenset({"required", "additionalProperties", "maxItems"})
_MAX_DEPTH: Final = 64


def count_format(tally: Tally, value: Any) -> bool:
    """Count ``response_format`` of chat or ``text.format`` of responses; whether it shows a schema.

    Only ``json_schema`` costs anything, and what surrounds its text is the caller's. Chat nests
    name, description and schema one level deeper than responses do.
    """
    form = as_object(value)
    if form.get("type") != "json_schema":
        return False
    inner = as_object(form.get("json_schema")) or form
    schema = inner.get("schema")
    if not isinstance(schema, dict):
        return False
    name = tally.optional_text(inner.get("name"))
    description = tally.optional_text(inner.get("description"))
    lines = [f"# Response Formats\n\n## {name}\n\n"]
    if description:
        lines.append(f"// {description}\n")
    lines.append(compact(visible(schema)))
    tally.text("".join(lines))
    return True


def visible(schema: Any, depth: int = 0) -> Any:
    """``schema`` without the keywords that the model isn't shown."""
    if depth > _MAX_DEPTH:
        return None
    if isinstance(schema, dict):
        return {
            key: visible(value, depth + 1) for key, value in schema.items() if key not in _UNSEEN
        }
    if isinstance(schema, list):
        return [visible(value, depth + 1) for value in schema]
    return schema
