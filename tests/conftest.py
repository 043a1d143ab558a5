"""What tests of several levels need."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.faults.outcome import PROPERTY, Outcome

# How long an example takes says more of the machine than of us; bench/ is where time is measured.
# CI tries the same examples every time, so that it judges a change and not its luck; new ones are
# looked for wherever else the tests run.
settings.register_profile(
    "sentinel",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("sentinel")

# These watch real processes through real sockets; where a shared machine takes a second away, one
# of hundreds can miss its moment. It is tried once more, and the summary names it: a bug to mend.
# What decides without processes is never tried again.
TRIED_AGAIN = frozenset({"browser", "envoy", "faults", "redis", "security", "wheel"})
TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in TRIED_AGAIN:
            item.add_marker(pytest.mark.flaky(reruns=1))


SCRIPT = Path(__file__).parents[1] / "scripts" / "accuracy.py"


@pytest.fixture(scope="session")
def accuracy() -> Any:
    """The module behind `make accuracy`, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("accuracy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["accuracy"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recordings(accuracy: Any) -> list[Any]:
    """Recorded calls, as decoded; they are not part of the project."""
    path = accuracy.recordings()
    if path is None:
        pytest.skip(f"no {accuracy.NAME}: set SENTINEL_RECORDINGS to a file of recorded calls")
    return list(accuracy.read(path))


@pytest.fixture(scope="session")
def rows(accuracy: Any, recordings: list[Any]) -> list[Any]:
    """What estimates make of every recorded call, as `accuracy.Row`."""
    measured: list[Any] = accuracy.measure(recordings)[0]
    return measured


@pytest.fixture
def outcome(record_property: Callable[[str, object], None]) -> Iterator[Outcome]:
    """Where a test of a fault says what it found; `make reliability` collects it."""
    found = Outcome()
    yield found
    record_property(PROPERTY, found.as_json())
