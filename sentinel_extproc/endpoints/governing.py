"""The names in a request that decide what it costs, and other spellings of them. Pure.

Parsers differ on what a name is: Go's and .NET's leave case out of account, protobuf's JSON takes
``maxTokens`` for ``max_tokens``, some frameworks read a query as if it were part of the body. What
one of them would take for a governing name must be that name in the one place where we read it.
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

GOVERNING_MESSAGE = frozenset({"content", "role", "tool_calls", "function_call"})
"""In each of its messages."""

GOVERNING_STREAM = frozenset({"include_usage"})
"""In ``stream_options``: it decides whether the answer tells its usage."""

_METHOD = "_method"
"""In a query, some frameworks take it for the method."""

_MAX_QUERY_NAMES = 100


_LONGEST = 64
"""Characters of a name that could be taken for a governing one; the longest of those has 21."""


@lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "")


def _squeezed(name: str) -> str:
    """A long name without what doesn't count, cut where it can't be a governing one any more."""
    return _plain(name.replace("_", "").replace("-", "")[:_LONGEST])


_PLAIN = {
    names: frozenset(map(_plain, names))
    for names in (GOVERNING, GOVERNING_MESSAGE, GOVERNING_STREAM)
}


def misspelt(name: str, governing: frozenset[str] = GOVERNING) -> bool:
    """Whether another parser could take ``name``, which is none of ``governing``, for one."""
    # Longer ones are kept by no cache: a client chooses them, and could fill memory with them.
    if len(name) > _LONGEST:
        return _squeezed(name) in _PLAIN[governing]
    return name not in governing and _plain(name) in _PLAIN[governing]


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
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_NAMES)
    except ValueError:
        raise InvalidRequest("The query has too many names.", code="ambiguous_query") from None
    for name, _ in pairs:
        plain = _squeezed(name.partition("[")[0].strip())
        if name.casefold() == _METHOD or (reads_body and plain in _PLAIN[GOVERNING]):
            raise InvalidRequest(
                f"{name[:64]!a} must be in the body, not in the query.",
                code="ambiguous_query",
            )
