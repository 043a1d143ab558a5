"""The provider's own ``usage`` objects, in either of OpenAI's spellings. Pure.

Numbers from outside end up in bills, so each is taken only if it is a whole number that Redis and
JSON keep exact; an object without sane sums is treated as absent.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from sentinel_extproc.usage.record import TokenUsage

_MOST = 2**53 - 1


def decode(data: bytes) -> Any:
    """Decode JSON from a provider; None when it isn't JSON.

    msgspec is several times faster than the standard library but refuses lone surrogates, which
    models do emit when a stream cuts an emoji in two.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def read_usage(value: Any) -> TokenUsage | None:
    """Read a ``usage`` object: chat's ``prompt_tokens`` or the Responses API's ``input_tokens``."""
    if not isinstance(value, dict):
        return None
    given = _whole(value.get("prompt_tokens"), value.get("input_tokens"))
    made = _whole(value.get("completion_tokens"), value.get("output_tokens"))
    if given is None and made is None:
        return None
    given_details = _details(value, "prompt_tokens_details", "input_tokens_details")
    made_details = _details(value, "completion_tokens_details", "output_tokens_details")
    return TokenUsage(
        input_tokens=given or 0,
        output_tokens=made or 0,
        cached_input_tokens=_whole(given_details.get("cached_tokens")) or 0,
        reasoning_tokens=_whole(made_details.get("reasoning_tokens")) or 0,
        audio_input_tokens=_whole(given_details.get("audio_tokens")) or 0,
        audio_output_tokens=_whole(made_details.get("audio_tokens")) or 0,
    )


def _whole(*values: Any) -> int | None:
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
            return value
    return None


def _details(usage: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        value = usage.get(name)
        if isinstance(value, dict):
            return value
    return {}
