"""From a model's name to how its provider counts: a data table, aliases and overrides.

``data/models.json`` lists families. Each has name prefixes (the longest that fits wins) and the
constants that differ from the family it is ``like``. Constants drift, so configuration can
override any of them per family, and can alias deployment names to models.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, Literal

import msgspec

MAX_MODEL_CHARS: Final = 200
"""Names are cut here before anything else, so that the look-up cache is bounded in bytes too."""

_LOOKUP_CACHE_ENTRIES: Final = 1024


class Images(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an input image is charged.

    ``tiles``: ``base`` plus ``tile`` for each 512-pixel square after scaling. ``patches``: the
    number of 32-pixel squares, at most ``cap``, times ``factor``. ``area``: pixels times
    ``factor``. Every image costs ``image`` more.
    """

    rule: Literal["tiles", "patches", "area"]
    base: int = 0
    tile: int = 0
    factor: float = 1.0
    cap: int = 1536
    image: int = 0


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
    factor: float = 1.0
    exact: bool = True
    message: int = 4
    name: int = 1
    request: int = 3
    assistant: int = 0
    tool_call: int = 5
    parallel: int = 13
    parallel_call: int = 7
    responses_call: int = 3
    open_turn: int = 0
    function_call: int = 3
    function_message: int = -1
    tools: int = 9
    tools_after_system: int = 5
    tools_responses: int = 3
    undescribed_tool: int = 0
    legacy_tools: bool = False
    choice_function: int = 7
    choice_legacy: int = 4
    choice_none: int = 1
    schema: int = 7
    schema_after_system: int = 3
    schema_in_system: int = 1
    schema_answer: int = 4
    grammar: int = 47
    hosted: dict[str, int] = {}
    answer_chat: int = 0
    answer_responses: int = 1
    images: Images | None = None
    audio: int = 4
    audio_per_second: float = 10.0


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prefixes: list[str]
    like: str | None = None
    constants: dict[str, Any] = {}


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    families: dict[str, _Entry]
    default: str
    provider_prefixes: list[str]


@dataclass(frozen=True, slots=True)
class Model:
    """A resolved model.

    Attributes:
        family: the family's name in the table.
        rules: its constants.
        known: a prefix fitted; otherwise these are the default family's.
    """

    family: str
    rules: Family
    known: bool


class ModelTable:
    """Resolves model names; immutable and safe to share between threads.

    Args:
        aliases: further names (Azure deployments, gateway nicknames) to model names; compared
            without regard to case, resolved once, not in chains.
        overrides: family name to the constants that replace the table's.

    Raises:
        ValueError: an override names no family, no constant, or has the wrong type.
    """

    def __init__(
        self,
        *,
        aliases: Mapping[str, str] | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        table = msgspec.json.decode(
            resources.files(__package__).joinpath("data", "models.json").read_bytes(), type=_Table
        )
        self._aliases = {name.lower(): model for name, model in (aliases or {}).items()}
        self._families = _families(table, overrides or {})
        self._default = table.default
        prefixes = (
            (prefix, family)
            for family, entry in table.families.items()
            for prefix in entry.prefixes
        )
        self._prefixes = sorted(prefixes, key=lambda pair: len(pair[0]), reverse=True)
        providers = "|".join(map(re.escape, table.provider_prefixes))
        self._provider = re.compile(rf"(?:[a-z]{{2,6}}\.)?(?:{providers})\.")
        self._resolve = functools.lru_cache(_LOOKUP_CACHE_ENTRIES)(self._look_up)

    @property
    def families(self) -> Mapping[str, Family]:
        """Every family's constants after overrides."""
        return self._families

    def resolve(self, model: object) -> Model:
        """The family of ``model``; never raises, the default's constants for what isn't known."""
        name = model[:MAX_MODEL_CHARS] if isinstance(model, str) else ""
        return self._resolve(name)

    def _look_up(self, name: str) -> Model:
        name = self.canonical(name)
        for prefix, family in self._prefixes:
            if name.startswith(prefix):
                return Model(family, self._families[family], known=True)
        return Model(self._default, self._families[self._default], known=False)

    def canonical(self, name: str) -> str:
        """``name`` as prefixes are compared with it: alias applied, provider and tuning dropped."""
        name = name.strip().lower()
        name = self._aliases.get(name, name).strip().lower()
        name = name.rpartition("/")[2]
        if name.startswith("ft:"):
            name = name[3:]
        # What follows a colon is a tuning, a snapshot or a size: it never changes the family.
        name = name.partition(":")[0]
        name = self._provider.sub("", name, count=1) if self._provider.match(name) else name
        return re.sub(r"^gpt-?35", "gpt-3.5", name)


def _families(table: _Table, overrides: Mapping[str, Mapping[str, Any]]) -> dict[str, Family]:
    unknown = sorted(set(overrides) - set(table.families))
    if unknown:
        raise ValueError(f"no such model family: {', '.join(unknown)}")
    families = {}
    for name in table.families:
        constants = _inherited(table, name) | dict(overrides.get(name, {}))
        try:
            families[name] = msgspec.convert(constants, Family)
        except msgspec.ValidationError as error:
            raise ValueError(f"model family {name}: {error}") from error
    return families


def _inherited(table: _Table, name: str) -> dict[str, Any]:
    entry = table.families[name]
    return (_inherited(table, entry.like) if entry.like else {}) | entry.constants
