"""Requests that would pass without being counted, or that the provider could read in another way
than we do: refused. Pure."""

from __future__ import annotations

import re

from sentinel_extproc.endpoints.contract import Endpoint, Head, Plan
from sentinel_extproc.endpoints.form import is_form
from sentinel_extproc.endpoints.governing import refuse_query
from sentinel_extproc.errors import InvalidRequest, MethodNotAllowed
from sentinel_extproc.exchange.events import Headers
from sentinel_extproc.exchange.lines import all_values, first, first_values

METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT"})
"""TRACE is none of them: its answer shows what the provider got, and that is our key. CONNECT is
how HTTP/2 opens a WebSocket."""

_READS = frozenset({b"GET", b"HEAD", b"DELETE"})

_CHARSET = re.compile(rb"charset\*?[0-9*]*\s*=\s*[\"']?([^\"';,\s]*)", re.IGNORECASE)
_OUR_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii"})
_TWO_TYPES = re.compile(rb",\s*[\w.+-]+/[\w.+-]+")
_USUAL_TYPE = b"application/json"
"""How nearly every body comes: one that none of the patterns here has anything against."""

_USUAL_TEXT = _USUAL_TYPE.decode()

_JSON = re.compile(rb"application/json\s*(?:;\s*charset=[\w-]+\s*)?;?\s*", re.IGNORECASE)


def refuse_unreadable(headers: Headers, *, upgrades: bool = False) -> None:
    """Refuse what no endpoint can count.

    Args:
        upgrades: a WebSocket can be counted here.

    Raises:
        InvalidRequest: a compressed body, one in another charset than UTF-8, or a connection
            upgrade.
        MethodNotAllowed: a method that no API here has.
    """
    given = first_values(headers)
    if given.get(":method") not in METHODS:
        raise MethodNotAllowed("This method is not supported.")
    if "content-encoding" in given:
        encodings = {value.strip().lower() for value in all_values(headers, "content-encoding")}
        if encodings - {b"", b"identity"}:
            raise InvalidRequest(
                "Compressed request bodies are not supported; send it without Content-Encoding.",
                code="unsupported_content_encoding",
            )
    if given.get("content-type") != _USUAL_TYPE or len(given) != len(headers):
        _refuse_types(all_values(headers, "content-type"))
    protocol = given.get("upgrade") or given.get(":protocol")
    if protocol and not (upgrades and protocol.strip().lower() == b"websocket"):
        raise InvalidRequest(
            "Connection upgrades are not supported on this path.", code="upgrade_not_supported"
        )


def _refuse_types(types: list[bytes]) -> None:
    for one in types:
        if len(types) > 1 or _TWO_TYPES.search(one):
            raise InvalidRequest("There is more than one Content-Type.", code="ambiguous_type")
        if any(found.lower() not in _OUR_CHARSETS for found in _CHARSET.findall(one)):
            raise InvalidRequest("Bodies are read as UTF-8 only.", code="unsupported_charset")


def refuse_second_request(
    head: Head, endpoint: Endpoint, plan: Plan | None, *, end_of_stream: bool
) -> None:
    """Refuse a request that holds another one besides the one that was recognised.

    Args:
        plan: what the headers alone told, if that was enough.

    Raises:
        InvalidRequest: a body where only reading is asked for, or a query that could change what
            the body says.
    """
    # Some HTTP/2 clients end a request without a body by an empty frame, and say its length.
    empty = end_of_stream or head.content_length == 0
    if plan is not None and head.method in _READS and not (empty or endpoint.upgrades):
        raise InvalidRequest("This call has no body.", code="unexpected_body")
    if "?" in head.target:
        refuse_query(head.target, reads_body=head.method not in _READS and not endpoint.upgrades)


def content_type(headers: Headers, head: Head, endpoint: Endpoint) -> tuple[tuple[str, bytes], ...]:
    """The header line that makes the provider read a body as we read it, if it needs one.

    We read JSON whatever the client calls it, as OpenAI's API does. Another name for it, such as a
    form's, could make a provider find something else in it.
    """
    if head.content_type == _USUAL_TEXT:
        return ()
    given = first(headers, "content-type")
    if endpoint.any_body or is_form(head) or not given or _JSON.fullmatch(given):
        return ()
    return (("content-type", _USUAL_TYPE),)
