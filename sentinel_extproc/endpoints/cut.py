"""How an event stream is ended early so that clients understand it. Pure."""

from __future__ import annotations

import json

_TYPE = "rate_limit_error"
_CODE = "limit_exhausted"


def openai_error_event(message: str) -> bytes:
    """An error event as OpenAI's API sends it, which its client raises as ``APIError``."""
    error = {"message": message, "type": _TYPE, "param": None, "code": _CODE}
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


def responses_error_event(message: str) -> bytes:
    """The Responses API's ``error`` event.

    Its fields stand at the top, as documented, and in an ``error`` object as well: that makes the
    ``openai`` client raise instead of ending as if the answer were complete.
    """
    fields = {"code": _CODE, "message": message, "param": None}
    event = {"type": "error", **fields, "error": {"type": _TYPE, **fields}}
    return b"event: error\ndata: " + json.dumps(event).encode() + b"\n\n"


def realtime_error(message: str) -> bytes:
    """The realtime API's ``error`` event, the content of a text message."""
    error = {"type": _TYPE, "code": _CODE, "message": message, "param": None}
    return json.dumps({"type": "error", "error": error}).encode()
