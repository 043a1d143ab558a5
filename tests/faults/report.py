"""`make reliability`: run what the catalogue names, and write docs/reliability.md's results.

It runs the long forms (``LONG``) and takes a while. The tables stand between two marks; all else of
the page is left alone. They are written whatever came out, and the exit code says whether all held.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sentinel_extproc import __version__
from sentinel_extproc.demo.envoy import envoy_binary
from sentinel_extproc.demo.redis import redis_binary
from tests.faults.catalogue import SECTIONS, Row, named
from tests.faults.results import VARIABLE

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- results: written by make reliability -->"
END = "<!-- end of results -->"
LONG = {
    "SOAK_CYCLES": "40",
    "SOAK_STREAMS": "1000",
    "SOAK_STREAM_SECONDS": "300",
}
"""Lengths of the long forms; what is set already counts."""

_HEAD = "| Fault | Tried | Held | Lost or doubled | Over-admitted | Clients saw | Tests |"


@dataclass(slots=True)
class Found:
    """What a row's tests found, together.

    Attributes:
        tried: what the tests counted, or else how many cases of them ran.
    """

    tried: int = 0
    held: int = 0
    lost: int | None = None
    over: int | None = None
    clients: Counter[str] = field(default_factory=Counter)
    figures: dict[str, str] = field(default_factory=dict)
    skipped: bool = False
    failed: bool = False

    def add(self, line: Mapping[str, Any]) -> None:
        """One case of one test."""
        if line["skipped"]:
            self.skipped = True
            return
        self.failed |= not line["passed"]
        told = line["outcome"]
        if told is None or not told["tried"]:
            self.tried += 1
            self.held += line["passed"]
            return
        self.tried += told["tried"]
        self.held += told["held"]
        for name in ("lost", "over"):
            if told[name] is not None:
                setattr(self, name, (getattr(self, name) or 0) + told[name])
        self.clients.update(told["clients"])
        self.figures |= told["figures"]


def gathered(row: Row, lines: Iterable[Mapping[str, Any]]) -> Found:
    """What the tests of a row found."""
    found = Found()
    for line in lines:
        if line["test"] in row.tests:
            found.add(line)
    return found


def tables(lines: Sequence[Mapping[str, Any]]) -> str:
    """All sections, as Markdown."""
    text = []
    for title, rows in SECTIONS.items():
        text += [f"#### {title}", "", _HEAD, "|---|---|---|---|---|---|---|"]
        text += [_line(row, gathered(row, lines)) for row in rows]
        text.append("")
    return "\n".join(text)


def _line(row: Row, found: Found) -> str:
    held = f"{found.held:,}" if not found.failed else f"{found.held:,} (**failed**)"
    if not found.tried:
        held = "skipped here" if found.skipped else "not run"
    what = row.what
    if found.figures:
        what += "; " + ", ".join(f"{name} {value}" for name, value in found.figures.items())
    clients = ", ".join(f"{status}: {count:,}" for status, count in sorted(found.clients.items()))
    tests = ", ".join(f"`{test}`" for test in row.tests)
    cells = [what, f"{found.tried:,}", held, _bare(found.lost), _bare(found.over), clients, tests]
    return "| " + " | ".join(cells) + " |"


def _bare(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def written(page: str, results: str) -> str:
    """The page with other results.

    Raises:
        ValueError: it has no place for them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks for its results")
    return f"{before}{BEGIN}\n\n{results.strip()}\n\n{END}{after}"


def versions() -> str:
    """What it was run with."""
    envoy = _said(envoy_binary(), "--version")
    redis = _said(redis_binary(), "--version")
    return ", ".join(
        [
            f"sentinel-extproc {__version__}",
            f"Envoy {_number(envoy)}",
            f"Redis {_number(redis)}",
            f"Python {platform.python_version()}",
            f"{os.cpu_count()} cores",
        ]
    )


def _said(program: str, argument: str) -> str:
    return subprocess.run([program, argument], capture_output=True, text=True, check=True).stdout


def _number(text: str) -> str:
    match = re.search(r"\d+\.\d+\.\d+", text)
    return match[0] if match else "?"


def files_of(tests: Iterable[str]) -> list[str]:
    """Node ids of test functions and methods, by name."""
    wanted, nodes = set(tests), []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        file = str(path.relative_to(ROOT))
        for node in ast.parse(path.read_text("utf-8")).body:
            inner = node.body if isinstance(node, ast.ClassDef) else [node]
            prefix = f"{file}::{node.name}" if isinstance(node, ast.ClassDef) else file
            nodes += [
                f"{prefix}::{one.name}"
                for one in inner
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name in wanted
            ]
    return nodes


def last_tries(text: str) -> list[dict[str, Any]]:
    """The collector's lines, of a test that was tried again the last one."""
    lines = (json.loads(line) for line in text.splitlines())
    return list({line["node"]: line for line in lines}.values())


def main(arguments: Sequence[str]) -> int:
    """Run, write, and say whether all held. ``arguments`` go to pytest."""
    with tempfile.TemporaryDirectory(prefix="sx-results-") as folder:
        file = Path(folder) / "results"
        file.touch()
        began = datetime.now(UTC)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.faults.results"]
        done = subprocess.run(
            [*command, *arguments, *files_of(named())],
            cwd=ROOT,
            env=LONG | dict(os.environ) | {VARIABLE: str(file)},
            check=False,
        )
        lines = last_tries(file.read_text("utf-8"))
    took = (datetime.now(UTC) - began).total_seconds() / 60
    results = f"{began:%Y-%m-%d}, {took:.0f} minutes: {versions()}.\n\n{tables(lines)}"
    PAGE.write_text(written(PAGE.read_text("utf-8"), results), "utf-8")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
