"""Failures as Anthropic's clients read them: an envelope with a type of its own. Pure."""

from __future__ import annotations

import json

from sentinel_extproc.errors import SentinelError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error_body(error: SentinelError) -> bytes:
    """The JSON answer in Anthropic's error shape, UTF-8; what that has no place for, beside it."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    answer = _envelope(kind, error.message) | {"sentinel": {"code": error.code} | error.details}
    return json.dumps(answer, separators=(",", ":")).encode()


def anthropic_error_event(message: str) -> bytes:
    """An error event as Anthropic's API sends it, which its client raises as ``APIStatusError``."""
    event = _envelope("rate_limit_error", message)
    return b"event: error\ndata: " + json.dumps(event).encode() + b"\n\n"


def _envelope(kind: str, message: str) -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": message}}
