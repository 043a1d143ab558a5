"""How an event stream is ended early so that clients understand it. Pure."""

from __future__ import annotations

import json


def openai_error_event(message: str) -> bytes:
    """An error event as OpenAI's API sends it, which its client raises as ``APIError``."""
    error = {
        "message": message,
        "type": "rate_limit_error",
        "param": None,
        "code": "limit_exhausted",
    }
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
