"""Anthropic-style messages: system, content blocks and tools.

The tokenizer isn't public, so the outcome is scaled by the family's factor and never exact. Tools
are counted as their JSON; their own system prompt is a constant of Anthropic's documentation.
"""

from __future__ import annotations

from typing import Any, Final

from sentinel_extproc.tokens.content import count_content, count_part
from sentinel_extproc.tokens.model import Confidence, JsonObject
from sentinel_extproc.tokens.tally import Tally, as_list, as_object, compact

_TOOL_USE_PROMPT: Final = 346
"""Tokens of the prompt that comes with tools, by Anthropic's tool use guide (auto, none)."""

_MAX_DEPTH: Final = 8


def count_messages(tally: Tally, body: JsonObject) -> None:
    """Count a messages body."""
    tally.lower(Confidence.CLOSE)
    tally.add(tally.rules.request)
    system = body.get("system")
    if system:
        tally.add(tally.rules.message)
        count_content(tally, system)
    for message in as_list(body.get("messages")):
        tally.add(tally.rules.message)
        if isinstance(message, dict):
            _count_blocks(tally, message.get("content"), 0)
        else:
            tally.unknown(message)
    tools = as_list(body.get("tools"))
    for tool in map(as_object, tools):
        tally.text(tally.optional_text(tool.get("name")))
        tally.text(tally.optional_text(tool.get("description")))
        tally.text(compact(tool.get("input_schema")))
    if tools and as_object(body.get("tool_choice")).get("type") != "none":
        tally.add(_TOOL_USE_PROMPT)


def _count_blocks(tally: Tally, content: Any, depth: int) -> None:
    if not isinstance(content, list) or depth > _MAX_DEPTH:
        count_content(tally, content)
        return
    for block in content:
        kind = as_object(block).get("type")
        if kind == "tool_use":
            tally.text(tally.optional_text(block.get("name")))
            tally.text(compact(block.get("input")))
            tally.add(tally.rules.tool_call)
        elif kind == "tool_result":
            _count_blocks(tally, block.get("content"), depth + 1)
            tally.add(tally.rules.tool_call)
        elif kind == "thinking":
            # Thinking of earlier turns is dropped by the provider.
            tally.lower(Confidence.ROUGH)
        else:
            count_part(tally, block)
