"""The names in a request that decide what it costs, and other spellings of them. Pure.

Parsers differ on what a name is: Go's and .NET's leave case out of account, protobuf's JSON takes
``maxTokens`` for ``max_tokens``, PHP reads ``max.tokens`` and ``max tokens`` so in a form or a
query, many read ``n[]`` as a list named ``n``, some frameworks read a query as if it were part of
the body. What one of them would take for a governing name must be that name in the one place where
we read it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from sentinel_extproc.errors import InvalidRequest

GOVERNING = frozenset(
    {
        *("model", "messages", "input", "prompt", "instructions", "system", "suffix"),
        *("stream", "stream_options", "n", "best_of", "partial_images"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens"),
        *("tools", "functions", "response_format", "thinking"),
        *("size", "quality", "input_fidelity", "speed"),
    }
)
"""At the top of a request's body."""

GOVERNING_ITEM = frozenset(
    {
        *("content", "role", "tool_calls", "function_call"),
        *("type", "text", "refusal", "image_url", "input_audio", "file", "source"),
        *("arguments", "output", "summary"),
    }
)
"""In each of its messages, and in each part of their content."""

GOVERNING_MEDIA = frozenset({"url", "detail", "data", "file_data", "type"})
"""In what a part says of a picture, a recording or a file."""

MEDIA = ("image_url", "input_audio", "file", "source")
"""Where a part says that."""

GOVERNING_STREAM = frozenset({"include_usage"})
"""In ``stream_options``: it decides whether the answer tells its usage."""

_METHOD = "method"
"""In a query, some frameworks take ``_method`` for the method, or what they read as that."""

_UNHEARD = str.maketrans("", "", "_-. \t\r\n\0")
"""What some parser leaves out of account in a name, or takes for another of these."""

_BRACKETS = str.maketrans("", "", "[]")

_MAX_QUERY_NAMES = 100


_LONGEST = 64
"""Characters of a name that could be taken for a governing one; the longest of those has 21."""


@lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    return name.casefold().translate(_UNHEARD)


def _squeezed(name: str) -> str:
    """A long name without what doesn't count, cut where it can't be a governing one any more."""
    return _plain(name.translate(_UNHEARD)[:_LONGEST])


_PLAIN = {
    names: frozenset(map(_plain, names))
    for names in (GOVERNING, GOVERNING_ITEM, GOVERNING_MEDIA, GOVERNING_STREAM)
}


def misspelt(name: str, governing: frozenset[str] = GOVERNING) -> bool:
    """Whether another parser could take ``name``, which is none of ``governing``, for one."""
    # Longer ones are kept by no cache: a client chooses them, and could fill memory with them.
    if len(name) > _LONGEST:
        return _squeezed(name) in _PLAIN[governing]
    return name not in governing and _plain(name) in _PLAIN[governing]


def misspelt_field(name: str) -> bool:
    """``misspelt`` for a form's fields, whose names may have brackets: ``n[]``, ``n[0]``."""
    return name not in GOVERNING and _governs(name)


def _governs(field: str) -> bool:
    """Whether some parser could take a form's or a query's name for a governing one."""
    names = _PLAIN[GOVERNING]
    # PHP takes a bracket that isn't closed for an underscore.
    return (
        _squeezed(field.partition("[")[0]) in names
        or _squeezed(field.translate(_BRACKETS)) in names
    )


def refuse_misspelt(members: dict[str, Any], governing: frozenset[str] = GOVERNING) -> None:
    """Refuse members that another parser could take for one of ``governing``.

    Raises:
        InvalidRequest: there is one.
    """
    for name in members.keys() - governing:
        if misspelt(name, governing):
            raise InvalidRequest(
                f"The request body has the name {name[:64]!a}, which some providers would "
                "take for another; spell it in the documented way.",
                code="misspelt_name",
            )


def refuse_query(target: str, *, reads_body: bool) -> None:
    """Refuse a query that could change what the body, or the method, says.

    Args:
        target: as in ``:path``.
        reads_body: a body says what is asked for.

    Raises:
        InvalidRequest: it could.
    """
    query = target.partition("?")[2]
    if not query:
        return
    try:
        # To some a semicolon separates too.
        query = query.replace(";", "&")
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_NAMES)
    except ValueError:
        raise InvalidRequest("The query has too many names.", code="ambiguous_query") from None
    for name, _ in pairs:
        is_method = _squeezed(name) == _METHOD and name.casefold() != _METHOD
        if is_method or (reads_body and _governs(name)):
            raise InvalidRequest(
                f"{name[:64]!a} must be in the body, not in the query.",
                code="ambiguous_query",
            )
