"""Logs: one object a line, nothing that breaks it, nothing secret."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.limits.facts import HoldExhausted
from sentinel_extproc.telemetry.fact_logs import log_fact, log_limit_fact
from sentinel_extproc.telemetry.facts import ExchangeFinished, ExchangeRefused, InternalFault
from sentinel_extproc.telemetry.logs import clip, configure
from sentinel_extproc.usage.record import Outcome, Provenance, TokenUsage, UsageRecord


@pytest.fixture
def put_back() -> Iterator[None]:
    root, ours, old = (logging.getLogger(name) for name in ("", "sentinel", "sentinel_extproc"))
    before = (list(root.handlers), root.level, ours.level, old.level)
    yield
    root.handlers[:] = before[0]
    for logger, level in zip((root, ours, old), before[1:], strict=True):
        logger.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def lines(put_back: None) -> io.StringIO:
    stream = io.StringIO()
    configure(level="info", json_lines=True, stream=stream)
    return stream


@pytest.fixture
def console(put_back: None) -> io.StringIO:
    stream = io.StringIO()
    configure(level="info", json_lines=False, stream=stream)
    return stream


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
        request_id="req-9",
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


def test_a_line_has_its_ids_and_no_address(lines: io.StringIO) -> None:
    log_fact(ExchangeFinished(record("gpt-4o"), 0))
    log_fact(ExchangeRefused("x-2", 401, "invalid_api_key", None, None, request_id="req-8"))
    finished, refused = (json.loads(line) for line in lines.getvalue().splitlines())
    assert (finished["exchange_id"], finished["request_id"]) == ("x-1", "req-9")
    assert (refused["exchange_id"], refused["request_id"]) == ("x-2", "req-8")
    assert list(finished)[:4] == ["time", "level", "logger", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", finished["time"])
    assert "a@example.com" not in lines.getvalue()


def test_a_key_that_is_refused_is_a_warning(lines: io.StringIO) -> None:
    log_fact(ExchangeFinished(record("gpt-4o"), 0, provider="azure", key_refused=401))
    warning, _ = (json.loads(line) for line in lines.getvalue().splitlines())
    assert warning["level"] == "warning"
    assert warning["event"] == "provider_key_refused"
    assert (warning["provider"], warning["status"]) == ("azure", 401)


@pytest.mark.parametrize("name", ["sentinel.app", "sentinel_extproc.usage.writer"])
def test_what_modules_say_comes_out_the_same_way(lines: io.StringIO, name: str) -> None:
    log = logging.getLogger(name)
    log.info("serving on %s", "a\nb", extra={"listen": "unix:/x", "seq": 3})
    log.debug("not this")
    log_limit_fact(HoldExhausted("tokens", cut=False))
    said, fact = (json.loads(line) for line in lines.getvalue().splitlines())
    assert said["event"] == "serving on a\nb"
    assert (said["logger"], said["listen"], said["seq"]) == (name, "unix:/x", 3)
    assert list(said)[:4] == list(fact)[:4]


def test_libraries_are_heard_from_warnings_on(lines: io.StringIO) -> None:
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("trouble")
    (line,) = lines.getvalue().splitlines()
    assert json.loads(line)["event"] == "trouble"


def test_the_level_holds_for_facts(put_back: None) -> None:
    stream = io.StringIO()
    configure(level="error", json_lines=True, stream=stream)
    log_fact(ExchangeFinished(record("gpt-4o"), 0))
    assert stream.getvalue() == ""
    log_fact(ExchangeFinished(record("gpt-4o"), 2))
    assert json.loads(stream.getvalue())["event"] == "metering_fault"


@pytest.mark.parametrize("model", ["a\nb", "\x1b[31mred", "\u2028", "\ud800", "\u202e"])
def test_nothing_from_outside_reaches_a_terminal_as_it_is(console: io.StringIO, model: str) -> None:
    log_fact(ExchangeFinished(record(model), 0))
    logging.getLogger("sentinel.app").warning("said %s", model)
    log_fact(InternalFault("x", "exchange", ValueError(model), False))
    text = console.getvalue()
    assert "exchange_finished" in text
    assert "ValueError" in text
    assert all(line.isprintable() for line in text.split("\n"))
    text.encode()


def test_long_lists_have_a_line_below_for_each(console: io.StringIO) -> None:
    faults = ["policy.yaml: rules.0.match.team: there is no such field", "b\x1b[2J" + "c" * 40]
    facts = {"faults": faults, "needs_restart": [], "names": ["x", "y"]}
    logging.getLogger("sentinel.app").error("reload_refused", extra=facts)
    first, *below = console.getvalue().splitlines()
    assert "needs_restart=none" in first.replace("'", "")
    assert "x, y" in first
    assert "policy" not in first
    assert [line.removeprefix("           faults").strip() for line in below] == [
        faults[0],
        "b\\x1b[2J" + "c" * 40,
    ]


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("no space left")


def test_a_log_that_cannot_be_written_harms_nobody(put_back: None) -> None:
    configure(level="info", json_lines=True, stream=Broken())
    log_fact(ExchangeFinished(record("gpt-4o"), 0))
