"""What requests for generated text share: caps, clamping, and asking streams for usage. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from msgspec import structs

from sentinel_extproc.endpoints import json_body
from sentinel_extproc.endpoints.contract import Plan
from sentinel_extproc.endpoints.governing import GOVERNING_STREAM, refuse_misspelt
from sentinel_extproc.errors import InvalidRequest

MAX_CHOICES = 128
"""OpenAI's own bound on ``n``."""

_INCLUDE = {"include_usage": True}
_ASK_USAGE = b'{"stream_options":{"include_usage":true},'


def largest_cap(request: dict[str, Any], names: Iterable[str], *, least: int = 1) -> int | None:
    """The largest of all output caps that are given; None without any.

    Raises:
        InvalidRequest: a cap that is no whole number of at least ``least``.
    """
    largest = None
    for name in names:
        if name in request:
            cap = json_body.optional_count(request, name, least=least, most=json_body.MAX_COUNT)
            if cap is not None and (largest is None or cap > largest):
                largest = cap
    return largest


def clamp(request: dict[str, Any], names: tuple[str, ...], output_tokens: int) -> dict[str, Any]:
    """``request`` with every cap at most ``output_tokens``; the last of ``names`` if it has none.

    Args:
        output_tokens: for each choice, at least 1.
    """
    caps = {name: request[name] for name in names if request.get(name) is not None}
    tokens = max(1, output_tokens)
    return request | {name: min(caps.get(name, tokens), tokens) for name in caps or names[-1:]}


def encode(request: dict[str, Any]) -> bytes:
    """A changed request as it goes upstream."""
    return json.dumps(request, separators=(",", ":")).encode()


def ask_usage(request: dict[str, Any], body: bytes) -> tuple[bytes | None, bool]:
    """The body that makes a stream report usage, and whether asking was our doing.

    Returns:
        The body to forward, None for the client's own; whether its answer is to be hidden.
    """
    options = request.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise InvalidRequest("'stream_options' must be an object.", param="stream_options")
    if options is not None:
        refuse_misspelt(options, GOVERNING_STREAM)
    if not json_body.optional_bool(request, "stream"):
        return None, False
    if options is not None and json_body.optional_bool(options, "include_usage"):
        return None, False
    if "stream_options" not in request:
        # Spliced in, so that every other byte reaches the provider as the client wrote it.
        return _ASK_USAGE + body.lstrip(b" \t\r\n")[1:], True
    return encode(with_usage(request)), True


def with_usage(request: dict[str, Any]) -> dict[str, Any]:
    """``request`` asking for usage, its other stream options kept."""
    return request | {"stream_options": (request.get("stream_options") or {}) | _INCLUDE}


def clamped(
    plan: Plan,
    request: dict[str, Any],
    names: tuple[str, ...],
    output_tokens: int,
    *,
    choices: int,
) -> Plan:
    """``plan`` with a body that generates at most ``output_tokens`` over all ``choices``."""
    request = clamp(request, names, output_tokens // choices)
    if plan.hide_usage:
        request = with_usage(request)
    return structs.replace(plan, output_cap=output_tokens, upstream_body=encode(request))
