"""The path table: which rules govern a request. Pure.

A path that can be read in two ways (``//``, dot segments, encoded separators, backslashes, matrix
parameters) is refused: whatever we took it for, the provider could take it for something else.
Anything else that isn't in the table falls to ``Other``, never to nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sentinel_extproc.endpoints.chat import ChatCompletions
from sentinel_extproc.endpoints.contract import Endpoint
from sentinel_extproc.endpoints.models import Models
from sentinel_extproc.endpoints.other import Other
from sentinel_extproc.errors import InvalidRequest, NotFound

MAX_PATH_BYTES = 8192
"""Envoy and most servers bound a request line near this."""

_AMBIGUOUS = re.compile(
    r"//|\\|;|%(?:2e|2f|5c|25|3b|00)|/\.{1,2}(?:/|$)|[^\x21-\x7e]", re.IGNORECASE
)

CHAT = ChatCompletions()
MODELS = Models()
OTHER = Other()


@dataclass(frozen=True, slots=True)
class Match:
    """A governed request.

    Attributes:
        path: the path without its query.
    """

    endpoint: Endpoint
    path: str


def match(method: str, target: str, *, prefix: str = "/v1/") -> Match:
    """Find the rules for a request.

    Args:
        method: as in ``:method``.
        target: as in ``:path``, query included.
        prefix: what this gateway serves.

    Raises:
        InvalidRequest: the path is ambiguous or too long.
        NotFound: it is outside ``prefix``.
    """
    if len(target) > MAX_PATH_BYTES:
        raise InvalidRequest("The request path is too long.", code="path_too_long")
    path = target.partition("?")[0].partition("#")[0]
    if _AMBIGUOUS.search(path):
        raise InvalidRequest("The request path is ambiguous.", code="ambiguous_path")
    if not path.startswith(prefix):
        raise NotFound(f"This gateway serves paths under {prefix}.")
    rest = path[len(prefix) :]
    if rest == "chat/completions" and method == "POST":
        return Match(CHAT, path)
    if method in ("GET", "HEAD") and (rest == "models" or rest.startswith("models/")):
        return Match(MODELS, path)
    return Match(OTHER, path)
