"""What the stand-in reads from a request to generate text: prompt, caps, choices. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sentinel_extproc.demo.openai_responses_wire import ResponsesAnswer
from sentinel_extproc.demo.openai_text_wire import TextCompletion
from sentinel_extproc.demo.openai_wire import (
    Completion,
    JsonObject,
    TextTokenizer,
    answer_text,
    prompt_tokens,
)

_MOST_CHOICES = 128
_DEFAULT_TEXT_CAP = 16


class BadCall(Exception):
    """A request that the API refuses with a 400.

    Attributes:
        param: the field at fault.
    """

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Call:
    """What was asked for.

    Attributes:
        text: what the stand-in has to say, before any cap.
        cap: tokens of each choice; None when there is none.
    """

    prompt_tokens: int
    text: str
    cap: int | None
    choices: int


@dataclass(frozen=True, slots=True)
class Api:
    """One way to ask for text.

    Attributes:
        id_prefix: of answers' ids.
        asks_for_usage: streams carry usage only when ``stream_options`` say so.
    """

    read: Callable[[TextTokenizer, JsonObject], Call]
    answer: type[Completion]
    id_prefix: str
    asks_for_usage: bool = True


def _chat(tokenizer: TextTokenizer, asked: JsonObject) -> Call:
    messages = asked.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadCall("Missing required parameter: 'messages'.", "messages")
    return Call(
        prompt_tokens=prompt_tokens(tokenizer, asked["model"], messages),
        text=answer_text(messages),
        cap=_cap(asked, "max_completion_tokens", "max_tokens"),
        choices=_choices(asked),
    )


def _completions(tokenizer: TextTokenizer, asked: JsonObject) -> Call:
    prompts = texts_or_tokens(asked.get("prompt", ""), "prompt")
    first = prompts[0] if isinstance(prompts[0], str) else ""
    cap = _cap(asked, "max_tokens")
    return Call(
        prompt_tokens=sum(count(tokenizer, asked["model"], prompt) for prompt in prompts),
        text=answer_text([{"content": first}]),
        cap=_DEFAULT_TEXT_CAP if cap is None else cap,
        choices=_choices(asked) * len(prompts),
    )


def _responses(tokenizer: TextTokenizer, asked: JsonObject) -> Call:
    given = asked.get("input")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise BadCall("Missing required parameter: 'input'.", "input")
    system = asked.get("instructions")
    first = [{"role": "system", "content": system}] if isinstance(system, str) else []
    return Call(
        prompt_tokens=prompt_tokens(tokenizer, asked["model"], [*first, *given]),
        text=answer_text(given),
        cap=_cap(asked, "max_output_tokens"),
        choices=1,
    )


CHAT = Api(_chat, Completion, "chatcmpl-")
COMPLETIONS = Api(_completions, TextCompletion, "cmpl-")
RESPONSES = Api(_responses, ResponsesAnswer, "resp_", asks_for_usage=False)


def texts_or_tokens(value: Any, param: str) -> list[str | list[int]]:
    """One or many texts, or one or many lists of tokens, as a list.

    Raises:
        BadCall: anything else.
    """
    if isinstance(value, str) or (isinstance(value, list) and value and _are_tokens(value)):
        return [value]
    many = isinstance(value, list) and bool(value)
    if many and (all(isinstance(v, str) for v in value) or all(_are_tokens(v) for v in value)):
        return list(value)
    raise BadCall(f"Invalid '{param}': text, tokens, or an array of either is needed.", param)


def count(tokenizer: TextTokenizer, model: str, given: str | Sequence[int]) -> int:
    """Tokens of one text, or of what are tokens already; never 0."""
    return max(1, len(tokenizer.pieces(model, given) if isinstance(given, str) else given))


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _cap(asked: JsonObject, *names: str) -> int | None:
    caps = [asked.get(name) for name in names]
    return min((cap for cap in caps if isinstance(cap, int) and cap >= 0), default=None)


def _choices(asked: JsonObject) -> int:
    choices = asked.get("n")
    return choices if isinstance(choices, int) and 1 <= choices <= _MOST_CHOICES else 1
