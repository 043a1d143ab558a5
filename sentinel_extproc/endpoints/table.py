"""The path table: which rules govern a request. Pure.

A path that can be read in two ways (``//``, dot segments, encoded separators, broken escapes,
backslashes, matrix parameters, fragments) is refused: whatever we took it for, the provider could
take it for something else. Anything that isn't in the table falls to ``Other``, never to nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct

from sentinel_extproc.endpoints.audio import Recordings, Speech
from sentinel_extproc.endpoints.base import TokenFree
from sentinel_extproc.endpoints.batches import Batches
from sentinel_extproc.endpoints.chat import ChatCompletions
from sentinel_extproc.endpoints.completions import Completions
from sentinel_extproc.endpoints.contract import Endpoint
from sentinel_extproc.endpoints.embeddings import Embeddings
from sentinel_extproc.endpoints.forbidden import DirectAccess
from sentinel_extproc.endpoints.images import Images
from sentinel_extproc.endpoints.messages import CountTokens, Messages
from sentinel_extproc.endpoints.models import Models
from sentinel_extproc.endpoints.moderations import Moderations
from sentinel_extproc.endpoints.other import Other
from sentinel_extproc.endpoints.realtime import Realtime
from sentinel_extproc.endpoints.responses import Responses
from sentinel_extproc.errors import InvalidRequest, NotFound

MAX_PATH_BYTES = 8192
"""Envoy and most servers bound a request line near this."""

_USUAL_CHARS = 64
"""Of a method and a target that are worth remembering."""

_AMBIGUOUS = re.compile(
    r"//|\\|[;#]|/\.{1,2}(?:/|$)|[^\x21-\x7e]"
    # Escapes of what separates and of the percent sign; and whatever isn't an escape of printable
    # ASCII, such as half a one, which turns into another when it is unescaped twice.
    r"|%(?:2[35ef]|3[bf]|5c|7f)|%(?![2-7][0-9a-f])",
    re.IGNORECASE,
)

_ESCAPED_SLASH = re.compile("%2f", re.IGNORECASE)

CHAT = ChatCompletions()
RESPONSES = Responses()
MESSAGES = Messages()
MODELS = Models()
STORED = TokenFree("stored")
"""Reading and deleting what earlier calls left at the provider: paid for when it was made."""

FILES = TokenFree("files")
NEW_BATCH = Batches(creates=True)
BATCHES = Batches(creates=False)
REALTIME = Realtime()
DIRECT = DirectAccess()
OTHER = Other()

_POSTS: dict[str, Endpoint] = {
    "chat/completions": CHAT,
    "completions": Completions(),
    "embeddings": Embeddings(),
    "responses": RESPONSES,
    "responses/compact": RESPONSES,
    "responses/input_tokens": TokenFree("responses.input_tokens"),
    "moderations": Moderations(),
    "images/generations": Images("images.generations", given=False),
    "images/edits": Images("images.edits", given=True),
    "images/variations": Images("images.variations", given=True),
    "audio/speech": Speech(),
    "audio/transcriptions": Recordings("audio.transcriptions"),
    "audio/translations": Recordings("audio.translations"),
    "messages": MESSAGES,
    "messages/count_tokens": CountTokens(),
    "files": FILES,
    "batches": NEW_BATCH,
    "batches/": NEW_BATCH,
}

_READS = frozenset({"GET", "HEAD"})
_READS_AND_DELETES = _READS | {"DELETE"}
_FOLDERS: tuple[tuple[str, frozenset[str], Endpoint], ...] = (
    ("models", _READS, MODELS),
    ("files", _READS_AND_DELETES, FILES),
    ("batches", _READS | {"POST"}, BATCHES),
    ("uploads", frozenset({"POST"}), FILES),
    ("responses", _READS_AND_DELETES, STORED),
    ("chat/completions", _READS_AND_DELETES, STORED),
    ("realtime", frozenset({"POST"}), DIRECT),
)
"""A path and everything below it, for these methods. Nothing that generates may be matched: with
a slash behind its path, a provider may still take it for the call that it is."""

_CANCEL = re.compile(r"responses/[\w-]+/cancel")

ENDPOINTS: tuple[Endpoint, ...] = tuple(
    {e.name: e for e in [*_POSTS.values(), *(f[2] for f in _FOLDERS), REALTIME, OTHER]}.values()
)
"""Every endpoint that has rules, once."""


def usual_paths(prefix: str = "/v1/") -> dict[str, str]:
    """A path by the name of each endpoint that has one, for whoever knows only the name."""
    folders = [(rest, endpoint) for rest, _, endpoint in _FOLDERS]
    rests = [*_POSTS.items(), *folders, ("realtime", REALTIME)]
    return {endpoint.name: prefix + rest.rstrip("/") for rest, endpoint in reversed(rests)}


class Match(Struct, frozen=True, gc=False):
    """A governed request.

    Attributes:
        path: the path without its query, as policies see it.
        key_header: where this provider's clients put their key instead of ``authorization``;
            empty: where the endpoint's do.
    """

    endpoint: Endpoint
    path: str
    key_header: str = ""


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
    if len(method) + len(target) <= _USUAL_CHARS:
        return _remembered(method, target, prefix)
    return _match(method, target, prefix)


def _match(method: str, target: str, prefix: str) -> Match:
    path = plain_path(target, names_below=names_below(method, prefix))
    if not path.startswith(prefix):
        raise NotFound(f"This gateway serves paths under {prefix}.")
    return Match(match_rest(method, path[len(prefix) :]), path)


_remembered = lru_cache(256)(_match)
"""Most calls are of few paths. Of what else clients come up with, little is kept."""


def names_below(method: str, prefix: str) -> str:
    """The folder below which an escaped slash is part of a name, for this method; else empty."""
    return f"{prefix}models/" if method in _READS else ""


def plain_path(target: str, *, names_below: str = "") -> str:
    """The path of a request, without its query.

    Args:
        names_below: a folder in which ``%2F`` is taken for the slash that a server may read there,
            so that models with a slash in their name can be asked for. Both readings must stay in
            the folder, and mean the same.

    Raises:
        InvalidRequest: it is ambiguous or too long.
    """
    if len(target) > MAX_PATH_BYTES:
        raise InvalidRequest("The request path is too long.", code="path_too_long")
    path = target.partition("?")[0]
    if names_below and path.startswith(names_below):
        path = names_below + _ESCAPED_SLASH.sub("/", path[len(names_below) :])
    if _AMBIGUOUS.search(path):
        raise InvalidRequest("The request path is ambiguous.", code="ambiguous_path")
    return path


def match_rest(method: str, rest: str) -> Endpoint:
    """The rules for what follows the prefix in a plain path."""
    if method == "POST" and rest in _POSTS:
        return _POSTS[rest]
    if method in ("GET", "CONNECT") and rest == "realtime":
        return REALTIME
    if method == "POST" and _CANCEL.fullmatch(rest):
        return STORED
    for folder, methods, endpoint in _FOLDERS:
        inside = rest == folder or rest.startswith(folder + "/")
        if inside and method in methods:
            return endpoint
    return OTHER
