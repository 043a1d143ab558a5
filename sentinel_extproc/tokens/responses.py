"""Responses: instructions, input items, tools and text format."""

from __future__ import annotations

from typing import Any, Final

from sentinel_extproc.tokens.content import count_content
from sentinel_extproc.tokens.functions import count_functions
from sentinel_extproc.tokens.model import Confidence, JsonObject
from sentinel_extproc.tokens.response_format import count_format
from sentinel_extproc.tokens.tally import Tally, arguments, as_list, as_object

_ELSEWHERE: Final = ("previous_response_id", "conversation", "prompt")
"""Parts of the prompt that the provider keeps and we can't see."""

_SEALED_CHARS: Final = 790
_TOKENS_PER_SEALED_CHAR: Final = 0.137
"""Encrypted reasoning is base64 of a constant and the text; fitted on reported usage."""

_UNSEEN: Final = frozenset({"id", "call_id", "status", "encrypted_content"})
_CALLS: Final = frozenset({"function_call", "custom_tool_call"})
_OUTPUTS: Final = frozenset({"function_call_output", "custom_tool_call_output"})


def count_responses(tally: Tally, body: JsonObject) -> None:
    """Count a responses body."""
    rules = tally.rules
    tally.add(rules.request)
    instructions = tally.optional_text(body.get("instructions"))
    if instructions:
        tally.add(rules.message)
        tally.text(instructions)
    given = body.get("input")
    if isinstance(given, str):
        tally.add(rules.message)
        tally.text(given)
    else:
        items = as_list(given)
        names = {
            item["call_id"]: item["name"]
            for item in items
            if isinstance(item, dict)
            and isinstance(item.get("call_id"), str)
            and isinstance(item.get("name"), str)
        }
        turn = _turn_start(items)
        if body.get("store") is not False and any(map(_is_kept, items)):
            # Now and then shown from the provider's own copy, at 3 tokens more.
            tally.lower(Confidence.CLOSE)
        for place, item in enumerate(items):
            _count_item(tally, item, names, open_turn=place > turn)
        if items and as_object(items[-1]).get("type") in _OUTPUTS:
            tally.add(rules.open_turn)
    _count_tools(tally, body)
    if count_format(tally, as_object(body.get("text")).get("format")):
        tally.add(rules.schema_in_system)
    if as_object(body.get("reasoning")).get("mode") is not None:
        # More than one pass over the prompt.
        tally.lower(Confidence.ROUGH)
    if any(body.get(key) is not None for key in _ELSEWHERE):
        tally.lower(Confidence.ROUGH)


def _is_kept(item: Any) -> bool:
    """A call that an earlier response made, named by the id under which the provider keeps it."""
    item = as_object(item)
    return item.get("type") in _CALLS and isinstance(item.get("id"), str)


def _turn_start(items: list[Any]) -> int:
    """Where the current turn starts: at the last message that isn't the assistant's."""
    for place in range(len(items) - 1, -1, -1):
        role = as_object(items[place]).get("role")
        if role is not None and role != "assistant":
            return place
    return -1


def _count_encrypted(tally: Tally, item: dict[str, Any]) -> None:
    tally.lower(Confidence.ROUGH)
    encrypted = item.get("encrypted_content")
    if isinstance(encrypted, str):
        tally.add(max(0, round((len(encrypted) - _SEALED_CHARS) * _TOKENS_PER_SEALED_CHAR)))


def _count_item(tally: Tally, item: Any, names: dict[str, str], *, open_turn: bool) -> None:
    rules = tally.rules
    if not isinstance(item, dict):
        tally.unknown(item)
        return
    kind = item.get("type")
    if kind == "message" or ("role" in item and kind is None):
        tally.add(rules.message)
        count_content(tally, item.get("content"))
        if item.get("role") == "assistant":
            tally.add(rules.assistant)
    elif kind in _CALLS:
        tally.add(rules.message + rules.responses_call)
        tally.function_name(item.get("name"))
        tally.text(arguments(tally.optional_text(item.get("arguments"))))
        tally.text(tally.optional_text(item.get("input")))
    elif kind in _OUTPUTS:
        tally.add(rules.message)
        count_content(tally, item.get("output"))
        call_id = item.get("call_id")
        tally.function_name(names.get(call_id) if isinstance(call_id, str) else None)
    elif kind == "reasoning":
        # Shown to the model only while the turn lasts in which it was reasoned.
        if open_turn:
            _count_encrypted(tally, item)
    elif kind == "compaction":
        _count_encrypted(tally, item)
    elif kind in ("tool_search_output", "additional_tools"):
        tally.lower(Confidence.ROUGH)
        tally.add(rules.message)
        count_functions(tally, [as_object(tool) for tool in as_list(item.get("tools"))])
    else:
        tally.unknown({key: value for key, value in item.items() if key not in _UNSEEN})


def _count_tools(tally: Tally, body: JsonObject) -> None:
    rules = tally.rules
    tools = [tool for tool in as_list(body.get("tools")) if isinstance(tool, dict)]
    searched = any(tool.get("type") == "tool_search" for tool in tools)
    functions = []
    for tool in tools:
        kind = tool.get("type")
        if searched and tool.get("defer_loading"):
            # Not shown before the model searched for it; then it is in a tool_search_output.
            tally.lower(Confidence.ROUGH)
        elif kind in ("function", "custom"):
            functions.append(tool)
        elif isinstance(kind, str) and kind in rules.hosted:
            # Hosted tools bring texts of their own, and results of what they do.
            tally.lower(Confidence.ROUGH)
            tally.add(rules.hosted[kind])
        else:
            tally.unknown(tool)
    if functions:
        count_functions(tally, functions)
        tally.add(rules.tools_responses)
        _count_choice(tally, body.get("tool_choice"), functions)


def _count_choice(tally: Tally, choice: Any, functions: list[dict[str, Any]]) -> None:
    rules = tally.rules
    if choice == "none":
        tally.add(rules.choice_none)
        return
    name = as_object(choice).get("name")
    if choice == "required" and len(functions) == 1:
        name = functions[0].get("name")
    if isinstance(name, str) and rules.choice_function:
        tally.text(name)
        tally.add(rules.choice_function)
