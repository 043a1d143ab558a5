"""A pytest plugin that writes down what each test found; `-p tests.faults.results`.

One JSON object a line into the file that ``SENTINEL_TEST_RESULTS`` names: the test's name, whether
it passed, and what it told through the fixture ``outcome``, if anything.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.outcome import PROPERTY

VARIABLE = "SENTINEL_TEST_RESULTS"


class Collector:
    """Takes pytest's reports; a test has passed when all of its phases have."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed: set[str] = set()
        self._skipped: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test is over; the last one has all that it told."""
        if report.when == "setup":  # a first try, or another one
            self._failed.discard(report.nodeid)
            self._skipped.discard(report.nodeid)
        if report.skipped:
            self._skipped.add(report.nodeid)
        elif not report.passed:
            self._failed.add(report.nodeid)
        if report.when == "teardown":
            self._write(report)

    def _write(self, report: pytest.TestReport) -> None:
        told: dict[str, Any] = dict(report.user_properties)
        line = {
            "node": report.nodeid,
            "test": report.nodeid.rpartition("::")[2].partition("[")[0],
            "skipped": report.nodeid in self._skipped,
            "passed": report.nodeid not in self._failed | self._skipped,
            "outcome": told.get(PROPERTY),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Collect, if somebody wants it."""
    if path := os.environ.get(VARIABLE):
        config.pluginmanager.register(Collector(Path(path)), "sentinel-results")
