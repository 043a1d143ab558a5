"""Where an exchange belongs in a trace that others have begun. W3C Trace Context, level 1. Pure."""

from __future__ import annotations

import re

from msgspec import Struct

PARENT = "traceparent"
STATE = "tracestate"

MAX_STATE_CHARS = 512
"""What the recommendation asks everybody to carry; a longer one is dropped, not cut."""

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class TraceContext(Struct, frozen=True, gc=False):
    """The span that is the parent of ours.

    Attributes:
        trace_id, span_id: numbers of 128 and 64 bits, not 0.
        sampled: whoever began the trace has it recorded.
        state: what vendors hand on, as it came.
    """

    trace_id: int
    span_id: int
    sampled: bool
    state: str = ""


def read_trace(parent: bytes, state: bytes = b"") -> TraceContext | None:
    """What the two headers say; None when that is nothing, or nonsense."""
    found = _PARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace_id, span_id = found[1], int(found[2], 16), int(found[3], 16)
    # Later versions may add fields; the first has none, and ff can never be one.
    if version == b"ff" or (version == b"00" and found[5]) or not trace_id or not span_id:
        return None
    text = state.decode("latin-1")
    usable = len(text) <= MAX_STATE_CHARS and text.isascii() and text.isprintable()
    return TraceContext(
        trace_id, span_id, bool(int(found[4], 16) & _SAMPLED), text if usable else ""
    )
