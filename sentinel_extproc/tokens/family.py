"""The constants of one family of models: what `models.json` holds and configuration may override.

Numbers are bounded, so that no override can make prompts free or overflow a counter.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Tokens = Annotated[int, msgspec.Meta(ge=-10_000, le=1_000_000)]
Amount = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Factor = Annotated[float, msgspec.Meta(gt=0, le=100)]


class Images(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an input image is charged.

    ``tiles``: ``base`` plus ``tile`` for each 512-pixel square after scaling. ``patches``: the
    number of 32-pixel squares, at most ``cap``, times ``factor``. ``area``: pixels times
    ``factor``. Every image costs ``image`` more.
    """

    rule: Literal["tiles", "patches", "area"]
    base: Amount = 0
    tile: Amount = 0
    factor: Factor = 1.0
    cap: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1536
    image: Amount = 0


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one family of models counts its input. All numbers are tokens unless named otherwise.

    Attributes:
        encoding: name of the shipped encoding.
        factor: tokens of this family per token of ``encoding``; other than 1 only for models
            whose tokenizer isn't public or isn't shipped.
        exact: whether the rules were measured for this family.
        message: per message, its role included.
        name: per ``name`` of a message, beside its text.
        request: per request.
        assistant: more per assistant message of the history.
        tool_call: per call in the history, beside its name and arguments.
        parallel: for several calls of one chat message, which are shown as one; 0 if each is
            shown as a message of its own.
        parallel_call: per call of those, instead of ``tool_call``.
        responses_call: as ``tool_call``, in responses.
        open_turn: for a responses input that ends with a tool's output.
        function_call: per legacy call in the history, beside its name and arguments.
        function_message: per legacy function result, beside its name.
        tools: header of function tools in chat without a system message.
        tools_after_system: the same after one, without the blank line between.
        tools_responses: the same in responses.
        undescribed_tool: more per tool without a description.
        legacy_tools: tools are shown as models of 2023 saw them.
        choice_function: naming a tool, beside its name; 0 if naming is free.
        choice_legacy: naming a legacy function, beside its name.
        choice_none: forbidding tools.
        schema: a JSON schema for the answer in chat, without tools or a system message.
        schema_after_system: the same after a system message, without the blank line between.
        schema_in_system: a JSON schema wherever it stands, beside its text.
        schema_answer: per answer in the history of a request with a JSON schema.
        grammar: per custom tool with a grammar, beside its text.
        hosted: per hosted tool by its type: its own prompt and what it typically adds; rough.
        answer_chat: what a chat answer costs beside its text, when it ends by itself.
        answer_responses: the same in responses.
        images: how images are charged; None if the model takes none or the rule isn't known.
        audio: per input audio.
        audio_per_second: of input audio, besides.
    """

    encoding: Literal["cl100k_base", "o200k_base"]
    factor: Factor = 1.0
    exact: bool = True
    message: Tokens = 4
    name: Tokens = 1
    request: Tokens = 3
    assistant: Tokens = 0
    tool_call: Tokens = 5
    parallel: Tokens = 13
    parallel_call: Tokens = 7
    responses_call: Tokens = 3
    open_turn: Tokens = 0
    function_call: Tokens = 3
    function_message: Tokens = -1
    tools: Tokens = 9
    tools_after_system: Tokens = 5
    tools_responses: Tokens = 3
    undescribed_tool: Tokens = 0
    legacy_tools: bool = False
    choice_function: Tokens = 7
    choice_legacy: Tokens = 4
    choice_none: Tokens = 1
    schema: Tokens = 7
    schema_after_system: Tokens = 3
    schema_in_system: Tokens = 1
    schema_answer: Tokens = 4
    grammar: Tokens = 47
    hosted: dict[str, Amount] = {}
    answer_chat: Tokens = 0
    answer_responses: Tokens = 1
    images: Images | None = None
    audio: Tokens = 4
    audio_per_second: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 10.0


FIELDS = {field.name: field.type for field in msgspec.structs.fields(Family)}
"""Every constant's name with its type, for checking them one by one."""
