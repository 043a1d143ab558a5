"""Logs: one object a line, nothing that breaks it, nothing secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.telemetry.facts import ExchangeFinished, ExchangeRefused, InternalFault
from sentinel_extproc.telemetry.logs import clip, configure, log_fact
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root, ours = logging.getLogger(), logging.getLogger("sentinel")
    before = (list(root.handlers), root.level, ours.level)
    stream = io.StringIO()
    configure(level="info", json_lines=True, stream=stream)
    yield stream
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def record(model: str) -> UsageRecord:
    return UsageRecord(
        id="x-1",
        occurred_at_ms=1,
        external_id="ext",
        email="a@example.com",
        endpoint="chat.completions",
        model_requested=model,
        model_served=None,
        requests=1,
        usage=TokenUsage(3, 4),
        provenance=Provenance.PROVIDER,
        outcome=Outcome.COMPLETED,
    )


@given(st.text(max_size=200), st.integers(1, 50))
def test_clipping_never_breaks_a_character(text: str, most: int) -> None:
    clipped = clip(text, most)
    assert len(clipped) <= most
    assert clipped == text or (clipped[-1] == "…" and text.startswith(clipped[:-1]))


@pytest.mark.parametrize("model", ["gpt-4o", "a\nb", 'x","level":"error', "\u2028", "\ud800", "🎈"])
def test_strings_from_outside_stay_inside_their_line(lines: io.StringIO, model: str) -> None:
    log_fact(ExchangeFinished(record(model), 0))
    (line,) = lines.getvalue().splitlines()
    written = json.loads(line)
    assert written["model"] == model
    assert written["level"] == "info"
    assert written["event"] == "exchange_finished"
    assert (written["input_tokens"], written["output_tokens"]) == (3, 4)


def test_long_values_are_clipped(lines: io.StringIO) -> None:
    log_fact(ExchangeRefused("x", 401, "c" * 10_000, None, None))
    assert len(lines.getvalue()) < 3000


def test_a_bug_is_told_with_its_traceback(lines: io.StringIO) -> None:
    try:
        _ = 1 // int("0")
    except ZeroDivisionError as fault:
        log_fact(InternalFault("x", "exchange", fault, False))
    written = json.loads(lines.getvalue())
    assert written["level"] == "error"
    assert "ZeroDivisionError" in written["exception"]
