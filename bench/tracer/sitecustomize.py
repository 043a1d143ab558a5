"""Counts the bytecodes and calls of the process that imports this at its start, by function.

``bench.bytecodes`` has the sidecar do so. SIGUSR2 begins to count; a second one writes what was
counted to ``BENCH_BYTECODES``, JSON, ``[[file, line, function, bytecodes, calls], …]``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_target = os.environ.get("BENCH_BYTECODES", "")
_bytecodes: Counter[CodeType] = Counter()
_calls: Counter[CodeType] = Counter()
_counting = False


def _in_frame(frame: FrameType, event: str, _arg: Any) -> Any:
    if event == "opcode":
        _bytecodes[frame.f_code] += 1
    return _in_frame


def _new_frame(frame: FrameType, _event: str, _arg: Any) -> Any:
    if not _counting:
        return None
    frame.f_trace_opcodes = True
    frame.f_trace_lines = False
    _calls[frame.f_code] += 1
    return _in_frame


def _toggle(_number: int, _frame: FrameType | None) -> None:
    global _counting  # noqa: PLW0603 - a signal's handler has nowhere else to keep it
    _counting = not _counting
    if not _counting:
        rows = [
            (code.co_filename, code.co_firstlineno, code.co_qualname, number, _calls[code])
            for code, number in _bytecodes.items()
        ]
        whole = Path(f"{_target}.part")
        whole.write_text(json.dumps(rows), encoding="utf-8")
        whole.replace(_target)


if _target:
    signal.signal(signal.SIGUSR2, _toggle)
    threading.settrace(_new_frame)
    sys.settrace(_new_frame)
