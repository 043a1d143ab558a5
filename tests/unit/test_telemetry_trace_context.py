"""``traceparent`` and ``tracestate``, as the W3C recommendation has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.telemetry.trace_context import TraceContext, read_trace

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("parent", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
    ],
)
def test_a_parent(parent: str, sampled: bool) -> None:
    expected = TraceContext(int(TRACE, 16), int(SPAN, 16), sampled, "a=1,b=2")
    assert read_trace(parent.encode(), b"a=1,b=2") == expected


@pytest.mark.parametrize(
    "parent",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.what",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_nonsense_is_no_parent(parent: str) -> None:
    assert read_trace(parent.encode()) is None


@pytest.mark.parametrize("state", [b"x=" + b"y" * 600, b"a=\x00", b"\xff=1"])
def test_a_state_that_cannot_be_handed_on_is_dropped(state: bytes) -> None:
    found = read_trace(f"00-{TRACE}-{SPAN}-01".encode(), state)
    assert found is not None
    assert found.state == ""


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_no_bytes_break_it(parent: bytes, state: bytes) -> None:
    found = read_trace(parent, state)
    assert found is None or found.trace_id
