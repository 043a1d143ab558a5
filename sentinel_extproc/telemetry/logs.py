"""Logs by structlog: one JSON object a line for machines, or a line of text for people.

Bodies, tokens and keys are never given to the logger. Strings from outside are bounded by code
point and travel as JSON strings, so they can neither break a line nor a character; a terminal gets
them spelt out. What libraries and our own modules say through ``logging`` comes out the same way.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from sentinel_extproc.safe_text import for_terminal

MAX_VALUE_CHARS = 2000
MAX_CHARS_OF = {"exception": 8000}

AT_ONCE_CHARS = 4096
"""Of ASCII: what Linux promises for a pipe."""

_LONG = 80
"""Characters of a fact that shares its line with others, for people."""

_JSON = json.JSONEncoder(default=str)


def clip(value: str, most: int = MAX_VALUE_CHARS) -> str:
    """Cut ``value`` to ``most`` code points, marked with an ellipsis."""
    return value if len(value) <= most else value[: most - 1] + "…"


def iso(moment_s: float) -> str:
    """Seconds of the wall clock as text in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment_s))


def configure(*, level: str, json_lines: bool, stream: TextIO | None = None) -> None:
    """Send the program's logs to ``stream`` (standard error by default).

    Args:
        level: least level that is written of what is ours; of libraries, warnings are.
    """
    out = stream or sys.stderr
    render = [_json] if json_lines else _console(out)
    named: list[Processor] = [structlog.processors.add_log_level]
    processors = [*named, _now, structlog.processors.format_exc_info, *render]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Output(
            Lines(out), processors, plain=json_lines and level.lower() in ("debug", "info")
        ),
        context_class=dict,
        cache_logger_on_first_use=False,
    )
    # Nothing that we write has these, and finding out where a line came from costs more than the
    # rest of it (the library's own advice, under "Optimization").
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *named, _recorded],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("sentinel", "sentinel_extproc"):
        logging.getLogger(name).setLevel(level.upper())


class Lines:
    """Writes lines. A log that can't be written must not cost more than its lines."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def msg(self, line: str) -> None:
        """Write one."""
        try:
            self._out.write(f"{line}\n")
            self._out.flush()
        except (OSError, ValueError):  # the disk is full, the reader gone, or the file closed
            return

    debug = info = warning = error = critical = msg

    def write(self, lines: Iterable[str]) -> None:
        """Write some, in as few calls as keep each line whole.

        Several processes may share a pipe, which keeps together what it is given at once, but no
        more than ``AT_ONCE_CHARS`` of it.
        """
        together: list[str] = []
        size = 0
        for line in lines:
            size += len(line) + 1
            if size > AT_ONCE_CHARS and together:
                self.msg("\n".join(together))
                together, size = [], len(line) + 1
            together.append(line)
        if together:
            self.msg("\n".join(together))


class _Output:
    """Makes what structlog's loggers write to: the same for all.

    Args:
        processors: ours, in front of which others may come.
        plain: lines are JSON, and those of level ``info`` are written.
    """

    def __init__(self, lines: Lines, processors: list[Processor], *, plain: bool) -> None:
        self.lines, self._processors, self._plain = lines, processors, plain

    def __call__(self, *_: object) -> Lines:
        return self.lines

    def in_front(self, processors: list[Processor]) -> list[Processor] | None:
        """Those of ``processors`` that aren't ours; None where a line can't be told from them."""
        others = len(processors) - len(self._processors)
        if not self._plain or processors[others:] != self._processors:
            return None
        return processors[:others]


def plain_output() -> tuple[Lines, list[Processor]] | None:
    """Where lines of level ``info`` go that whoever has much to say makes without structlog, and
    the processors in front of ours; None when that isn't what is configured."""
    config = structlog.get_config()
    output = config["logger_factory"]
    if not isinstance(output, _Output):
        return None
    others = output.in_front(config["processors"])
    return None if others is None else (output.lines, others)


class _Stamp:
    """The time as text, UTC, to the millisecond; what changes once a second is kept."""

    def __init__(self) -> None:
        self._second, self._text = 0, ""

    def __call__(self, moment_s: float) -> str:
        second = int(moment_s)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{int((moment_s - second) * 1000):03d}Z"


stamp = _Stamp()


def _now(_logger: object, _method: str, event: EventDict) -> EventDict:
    event.setdefault("time", time.time())
    return event


def _recorded(_logger: object, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    event["time"], event["logger"] = record.created, record.name
    return event


def _json(_logger: object, _method: str, event: EventDict) -> str:
    """One object, ASCII only: safe for every log shipper."""
    line: dict[str, object] = {
        "time": stamp(event.pop("time")),
        "level": event.pop("level"),
        "logger": event.pop("logger", "sentinel"),
        "event": event.pop("event"),
    }
    line |= event
    text = _JSON.encode(line)
    if len(text) <= MAX_VALUE_CHARS:  # and so is every value in it
        return text
    for name, value in line.items():
        if isinstance(value, str) and len(value) > MAX_VALUE_CHARS:
            line[name] = clip(value, MAX_CHARS_OF.get(name, MAX_VALUE_CHARS))
    return _JSON.encode(line)


def _console(out: TextIO) -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=out.isatty(),
        timestamp_key="time",
        sort_keys=False,
        repr_native_str=True,
        exception_formatter=structlog.dev.plain_traceback,
    )

    def render(logger: object, method: str, event: EventDict) -> str:
        below = [_below(name, event.pop(name)) for name in list(event) if _is_long(event[name])]
        return "\n".join([renderer(logger, method, event), *filter(None, below)])

    return [_for_people, render]


def _is_long(value: object) -> bool:
    """Groups of facts, and lists of more than a line."""
    return isinstance(value, dict) or (
        isinstance(value, list) and sum(len(str(one)) for one in value) > _LONG
    )


def _below(name: str, facts: dict[str, object] | list[object]) -> str:
    """A group of facts gets a line of its own below, or one each if they are long; what is in a
    list gets one each."""
    if isinstance(facts, dict):
        said = [f"{fact.replace('_', ' ')}: {_said(value)}" for fact, value in facts.items()]
        lines = said if any(len(one) > _LONG for one in said) else [", ".join(said)]
    else:
        lines = [str(fact) for fact in facts]
    heads = [f"{'':11}{name.replace('_', ' '):<10} ", *([" " * 22] * (len(lines) - 1))]
    return (
        "\n".join(
            for_terminal(clip(f"{head}{line}")) for head, line in zip(heads, lines, strict=True)
        )
        if facts
        else ""
    )


def _said(value: object) -> object:
    if value is None:
        return "unknown"
    return value if not isinstance(value, bool) else "yes" if value else "no"


def _for_people(_logger: object, _method: str, event: EventDict) -> EventDict:
    event["time"] = time.strftime("%H:%M:%S", time.localtime(event["time"]))
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = clip(value, MAX_CHARS_OF.get(name, MAX_VALUE_CHARS))
        elif isinstance(value, list) and not _is_long(value):
            event[name] = clip(", ".join(map(str, value)) or "none")
    event["event"] = for_terminal(str(event["event"]))
    if "exception" in event:
        lines = event["exception"].split("\n")
        event["exception"] = "\n".join(for_terminal(line) for line in lines)
    return event
