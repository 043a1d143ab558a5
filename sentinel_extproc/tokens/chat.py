"""Chat completions: messages, tools, tool history, tool choice and response format.

Each message costs a frame (its role included) and its text; constants are the family's.
"""

from __future__ import annotations

from typing import Any, Final

from sentinel_extproc.tokens.content import count_content
from sentinel_extproc.tokens.functions import count_functions
from sentinel_extproc.tokens.model import Confidence, JsonObject
from sentinel_extproc.tokens.response_format import count_format
from sentinel_extproc.tokens.tally import Tally, arguments, as_list, as_object

_SYSTEM_ROLES: Final = ("system", "developer")
_SPEAKERS: Final = ("user", *_SYSTEM_ROLES)
_SAID: Final = frozenset({"role", "content"})
_SHOWN_BESIDES: Final = frozenset({"tools", "functions", "response_format"})


def count_chat(tally: Tally, body: JsonObject) -> None:
    """Count a chat completions body."""
    rules = tally.rules
    tally.add(rules.request)
    messages = as_list(body.get("messages"))
    names: dict[str, str] | None = None
    for message in messages:
        if not isinstance(message, dict):
            tally.unknown(message)
            continue
        content = message.get("content")
        if isinstance(content, str) and message.keys() == _SAID and message["role"] in _SPEAKERS:
            # Nearly all: no more than what somebody says.
            tally.add(rules.message)
            tally.text(content)
            continue
        if names is None:
            names = _call_names(messages)
        _count_message(tally, message, names)
    if not _SHOWN_BESIDES.isdisjoint(body):
        _count_shown_besides(tally, body, messages)
    _beyond_the_body(tally, body)


def _count_shown_besides(tally: Tally, body: JsonObject, messages: list[Any]) -> None:
    rules = tally.rules
    joint = _joint(tally, messages)
    tools = _count_tools(tally, body, joint)
    if count_format(tally, body.get("response_format")):
        tally.add(rules.schema_in_system)
        tally.add(rules.schema_answer * sum(map(_is_answer, messages)))
        if not tools:
            tally.add(rules.schema if joint is None else rules.schema_after_system + joint)


def _is_answer(message: Any) -> bool:
    return as_object(message).get("role") == "assistant" and bool(message.get("content"))


def _call_names(messages: list[Any]) -> dict[str, str]:
    names = {}
    for message in messages:
        for call in as_list(as_object(message).get("tool_calls")):
            call_id, name = as_object(call).get("id"), _called(call).get("name")
            if isinstance(call_id, str) and isinstance(name, str):
                names[call_id] = name
    return names


def _called(call: Any) -> dict[str, Any]:
    call = as_object(call)
    return as_object(call.get("function")) or as_object(call.get("custom"))


def _count_message(tally: Tally, message: dict[str, Any], names: dict[str, str]) -> None:
    rules = tally.rules
    role = message.get("role")
    if isinstance(role, list | dict):  # who is lenient may well show it to the model
        tally.unknown(role)
    tally.add(rules.message)
    count_content(tally, message.get("content"))
    if isinstance(message.get("refusal"), str):
        tally.text(message["refusal"])
    name = tally.optional_text(message.get("name"))
    if role == "tool":
        call_id = message.get("tool_call_id")
        tally.name(names.get(call_id, name) if isinstance(call_id, str) else name)
        return
    if name:
        tally.text(name)
        tally.add(rules.function_message if role == "function" else rules.name)
    if role == "assistant":
        tally.add(rules.assistant)
        _count_calls(tally, message)


def _count_calls(tally: Tally, message: dict[str, Any]) -> None:
    rules = tally.rules
    calls = [_called(call) for call in as_list(message.get("tool_calls"))]
    for call in calls:
        tally.function_name(call.get("name"))
        tally.text(arguments(tally.optional_text(call.get("arguments"))))
        tally.text(tally.optional_text(call.get("input")))
    if len(calls) > 1 and rules.parallel:
        tally.add(rules.parallel + rules.parallel_call * len(calls))
    elif calls:
        frames = (len(calls) - 1) * (rules.message + rules.assistant)
        tally.add(rules.tool_call * len(calls) + frames)
    legacy = as_object(message.get("function_call"))
    if legacy:
        tally.text(tally.optional_text(legacy.get("name")))
        tally.text(tally.optional_text(legacy.get("arguments")))
        tally.add(rules.function_call)
    if len(calls) > 1:
        tally.lower(Confidence.CLOSE)


def _count_tools(tally: Tally, body: JsonObject, joint: int | None) -> bool:
    rules = tally.rules
    tools = [as_object(one) for one in as_list(body.get("functions"))]
    for given in as_list(body.get("tools")):
        tool = as_object(given)
        if isinstance(tool.get("function"), dict):
            tools.append(tool["function"])
        elif isinstance(tool.get("custom"), dict):
            tools.append({**tool["custom"], "type": "custom"})
        else:
            tally.unknown(given)
    if not tools:
        return False
    count_functions(tally, tools)
    tally.add(rules.tools if joint is None else rules.tools_after_system + joint)
    _count_choice(tally, body)
    return True


def _joint(tally: Tally, messages: list[Any]) -> int | None:
    """What the blank line costs that joins tools or a schema to a leading system message.

    After most punctuation it is part of the same token. None without such a message.
    """
    first = as_object(messages[0]) if messages else {}
    if first.get("role") not in _SYSTEM_ROLES:
        return None
    content = first.get("content")
    if isinstance(content, list):
        content = as_object(content[-1]).get("text") if content else None
    if not isinstance(content, str):
        return 0
    end = content[-64:]
    return tally.measure(end + "\n\n") - tally.measure(end)


def _count_choice(tally: Tally, body: JsonObject) -> None:
    rules = tally.rules
    choice = body.get("tool_choice")
    legacy = body.get("function_call")
    if "none" in (choice, legacy):
        tally.add(rules.choice_none)
    name = as_object(as_object(choice).get("function")).get("name")
    if isinstance(name, str) and rules.choice_function:
        tally.text(name)
        tally.add(rules.choice_function)
    name = as_object(legacy).get("name")
    if isinstance(name, str) and rules.choice_legacy:
        tally.text(name)
        tally.add(rules.choice_legacy)


def _beyond_the_body(tally: Tally, body: JsonObject) -> None:
    # Searching the web makes the provider add pages to the prompt.
    if body.get("web_search_options") is not None:
        tally.lower(Confidence.ROUGH)
    if body.get("prediction") is not None:
        tally.lower(Confidence.CLOSE)
