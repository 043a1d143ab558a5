"""The provider's own ``usage`` objects, in each of the spellings in use. Pure.

Numbers from outside end up in bills, so each is taken only if it is a whole number that Redis and
JSON keep exact; an object without sane sums is treated as absent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import astuple, replace

from sentinel_extproc.usage.record import TokenUsage

ReadUsage = Callable[[Any], TokenUsage | None]
"""Reads a ``usage`` object; None: it has no sane sums."""

_MOST = 2**53 - 1
_MAX_MEMBERS = 8
_GIVEN_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_MADE_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")
_CACHED = ("prompt_cache_hit_tokens", "cached_tokens")
_SAYS_PARTS = frozenset({*_GIVEN_DETAILS, *_MADE_DETAILS, *_CACHED})
_GIVEN_PARTS = {"audio_tokens": "audio_input_tokens", "image_tokens": "image_input_tokens"}
_MADE_PARTS = {
    "reasoning_tokens": "reasoning_tokens",
    "audio_tokens": "audio_output_tokens",
    "image_tokens": "image_output_tokens",
    "accepted_prediction_tokens": "accepted_prediction_tokens",
    "rejected_prediction_tokens": "rejected_prediction_tokens",
}
"""Details of what was given and what was generated, and what ``TokenUsage`` calls them."""

_DECODER = json.JSONDecoder()


def decode(data: bytes) -> Any:
    """Decode JSON from a provider; None when it isn't JSON.

    msgspec is several times faster than the standard library but refuses lone surrogates, which
    models do emit when a stream cuts an emoji in two.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        if str(fault) == "Input data was truncated":
            return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def find_member(data: bytes, name: str) -> Any:
    """The last member ``name`` in a stretch of JSON that needn't be whole; None without one.

    For answers too large to be kept: what is wanted stands near their end. Inside of a JSON string
    the quotes would be escaped, so that text can't pass for a member.
    """
    quoted = b'"' + name.encode() + b'"'
    end = len(data)
    for _ in range(_MAX_MEMBERS):
        start = data.rfind(quoted, 0, end)
        if start < 0:
            return None
        value = data[start + len(quoted) :].lstrip()
        if value[:1] == b":":
            try:
                return _DECODER.raw_decode(value[1:].decode("utf-8", "replace").lstrip())[0]
            except (ValueError, RecursionError):
                pass
        end = start
    return None


def read_usage(value: Any) -> TokenUsage | None:
    """Read a ``usage`` object: chat's ``prompt_tokens`` or the newer APIs' ``input_tokens``."""
    if not isinstance(value, dict):
        return None
    get = value.get
    given = _whole(get("prompt_tokens"), get("input_tokens"))
    made = _whole(get("completion_tokens"), get("output_tokens"))
    if given is None and made is None:
        return None
    total = _whole(get("total_tokens"))
    if made is not None and total is not None:
        # Some leave what was thought out of the output, though not out of the sum that they bill.
        made = max(made, total - (given or 0))
    if _SAYS_PARTS.isdisjoint(value):
        return TokenUsage(input_tokens=given or 0, output_tokens=made or 0)
    given_details = _details(value, *_GIVEN_DETAILS)
    made_details = _details(value, *_MADE_DETAILS)
    cached = _whole(given_details.get("cached_tokens"), *map(get, _CACHED))
    parts = _parts(given_details, _GIVEN_PARTS) | _parts(made_details, _MADE_PARTS)
    return TokenUsage(
        input_tokens=given or 0,
        output_tokens=made or 0,
        cached_input_tokens=cached or 0,
        **parts,
    )


def read_image_usage(value: Any) -> TokenUsage | None:
    """As ``read_usage``, of an answer that is pictures, whether it says so or not."""
    usage = read_usage(value)
    if usage is None or _details(value, "output_tokens_details"):
        return usage
    return replace(usage, image_output_tokens=usage.output_tokens)


def read_sound_usage(value: Any) -> TokenUsage | None:
    """As ``read_usage``, of an answer that is sound, whether it says so or not."""
    usage = read_usage(value)
    if usage is None or _details(value, "output_token_details", "output_tokens_details"):
        return usage
    return replace(usage, audio_output_tokens=usage.output_tokens)


def read_split_usage(value: Any, before: TokenUsage | None = None) -> TokenUsage | None:
    """Read an Anthropic ``usage``: what was read from and written to its cache is counted apart.

    Args:
        before: from an earlier event of the same answer; what this one doesn't repeat is kept.
    """
    if not isinstance(value, dict):
        return before
    fresh = _whole(value.get("input_tokens"))
    made = _whole(value.get("output_tokens"))
    if fresh is None and made is None:
        return before
    before = before or TokenUsage()
    if made is not None:
        before = replace(before, output_tokens=made)
    if fresh is None:
        return before
    read = _whole(value.get("cache_read_input_tokens"))
    written = _whole(value.get("cache_creation_input_tokens"))
    if read is None and written is None and before.input_tokens > fresh:
        return before  # it repeats only a part of what was told before
    total = min(fresh + (read or 0) + (written or 0), _MOST)
    return replace(before, input_tokens=total, cached_input_tokens=read or 0)


def added(one: TokenUsage, other: TokenUsage) -> TokenUsage:
    """The sum of both, each part by itself."""
    return TokenUsage(
        *(min(a + b, _MOST) for a, b in zip(astuple(one), astuple(other), strict=True))
    )


def _whole(*values: Any) -> int | None:
    for value in values:
        if type(value) is int and 0 <= value <= _MOST:
            return value
    return None


def _parts(details: dict[str, Any], names: dict[str, str]) -> dict[str, int]:
    """What ``details`` say of ``names``, by the names that ``TokenUsage`` has for them.

    Mostly they say 0 of everything, which is what it has anyway.
    """
    return {
        names[theirs]: value
        for theirs, value in details.items()
        if value and theirs in names and type(value) is int and 0 < value <= _MOST
    }


def _details(usage: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        value = usage.get(name)
        if isinstance(value, dict):
            return value
    return {}
